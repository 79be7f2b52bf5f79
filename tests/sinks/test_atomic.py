"""A file that is replaced whole, whatever happens to the writer."""

import errno
import fcntl
import grp
import os
import pwd
import stat
import struct
import threading
from contextlib import suppress

import pytest

from rekeyd.errors import Refused, Transient
from rekeyd.sinks import _atomic, _rights
from rekeyd.sinks._atomic import AtomicFile
from rekeyd.sinks._rights import ACL, GROUP, LABEL, MASK, OTHERS, OWNER

OLD = b"the old content, whole\n"
NEW = b"the new content, whole, and longer\n"


def to(content):
    return lambda _: content


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "consumer"
    folder.mkdir(mode=0o700)
    return folder / "pair"


@pytest.fixture
def file(path):
    path.write_bytes(OLD)
    path.chmod(0o600)
    return AtomicFile(str(path))


def beside(path):
    return sorted(name.name for name in path.parent.iterdir())


class KilledError(BaseException):
    """The process is gone: nothing of it runs any more."""


class Kernel:
    """Stands for the `os` module: writes one byte a call, and fails at the call that it is told."""

    CALLS = frozenset(
        {"open", "write", "fchmod", "fchown", "fsync", "rename", "unlink", "read", "fstat"}
        | {"getxattr", "setxattr", "removexattr"}
    )

    def __init__(self, at, error):
        self.at, self.error, self.calls, self.opened = at, error, 0, []

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in self.CALLS:
            return real

        def call(*args, **kwargs):
            self.calls += 1
            if self.calls == self.at or (self.calls > self.at and self.error is KilledError):
                raise self.error
            if name == "write":
                args = (args[0], args[1][:1])
            result = real(*args, **kwargs)
            if name == "open":
                self.opened.append(result)
            return result

        return call

    def close_all(self):
        """What the real kernel does when a process ends: locks go too."""
        for descriptor in self.opened:
            with suppress(OSError):
                os.close(descriptor)


def failing(monkeypatch, file, at, error):
    """Update the file with a failure at one call; tell whether there was such a call."""
    kernel = Kernel(at, error)
    raised = None
    with monkeypatch.context() as patched:
        patched.setattr(_atomic, "os", kernel)
        patched.setattr(_rights, "os", kernel)
        try:
            file.update(to(NEW))
        except (KilledError, Refused, Transient) as caught:
            raised = caught
    kernel.close_all()
    return kernel.calls >= at, raised


def test_a_kill_at_every_call_and_byte_leaves_the_old_file_or_the_new(monkeypatch, file, path):
    tried = 0
    for at in range(1, 200):
        path.write_bytes(OLD)
        reached, _ = failing(monkeypatch, file, at, KilledError)
        if not reached:
            break
        tried += 1
        assert path.read_bytes() in {OLD, NEW}
        file.check(to(NEW))
        assert beside(path) == ["pair"], "what the killed process left is gone"
    assert tried > len(NEW)
    assert path.read_bytes() == NEW


def test_a_full_disk_at_every_call_and_byte_leaves_the_old_file_or_the_new(monkeypatch, file, path):
    full = OSError(errno.ENOSPC, "No space left on device")
    for at in range(1, 200):
        path.write_bytes(OLD)
        reached, raised = failing(monkeypatch, file, at, full)
        if not reached:
            break
        assert raised is None or isinstance(raised, Transient)
        assert path.read_bytes() in {OLD, NEW}
        file.update(to(NEW))
        assert path.read_bytes() == NEW
        assert beside(path) == ["pair"]
    assert at > len(NEW)


def test_what_is_the_same_is_not_written(file, path):
    before = path.stat()
    assert file.update(to(OLD)) is False
    assert path.stat().st_ino == before.st_ino
    assert file.update(to(NEW)) is True


def test_a_wrong_mode_is_put_right(path, file):
    path.chmod(0o644)
    assert AtomicFile(file.path, 0o600).update(to(OLD)) is True
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(("mode", "kept"), [(0o640, 0o640), (0o600, 0o600), (0o644, 0o640)])
def test_without_a_mode_it_stays_as_it_is_but_for_others(path, file, mode, kept):
    path.chmod(mode)
    file.update(to(NEW))
    assert stat.S_IMODE(path.stat().st_mode) == kept


def test_without_a_mode_a_new_file_is_its_owners_alone(path, file):
    path.unlink()
    file.update(to(NEW))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_umask_takes_nothing_from_the_mode(path):
    before = os.umask(0o077)
    try:
        AtomicFile(str(path), 0o640).update(to(NEW))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_owner_and_group_may_be_numbers(path):
    mine = AtomicFile(str(path), owner=str(os.geteuid()), group=str(os.getegid()))
    mine.update(to(NEW))
    assert (path.stat().st_uid, path.stat().st_gid) == (os.geteuid(), os.getegid())


def test_an_owner_that_is_not_named_stays(monkeypatch, file, path):
    given = []
    monkeypatch.setattr(os, "fchown", lambda _fd, uid, gid: given.append((uid, gid)))
    AtomicFile(file.path, group="4000000002").update(to(NEW))
    assert given == [(-1, 4000000002)]


def test_owners_that_are_right_already_are_not_asked_for(monkeypatch, file):
    monkeypatch.delattr(os, "fchown")
    file.update(to(NEW))
    assert file.read() == NEW


@pytest.mark.parametrize("setting", ["owner", "group"])
def test_an_unknown_name_is_found_by_check(path, setting):
    with pytest.raises(Refused, match=r"knows no (user|group) 'nobody-by-this-name'"):
        AtomicFile(str(path), **{setting: "nobody-by-this-name"}).check(to(NEW))
    assert beside(path) == []


def test_a_chown_that_is_not_allowed_is_found_by_check(monkeypatch, file, path):
    def denied(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", denied)
    with pytest.raises(Refused, match="may not give"):
        AtomicFile(file.path, group="4000000002").check(to(NEW))
    assert beside(path) == ["pair"]


def test_check_leaves_no_trace(file, path):
    before = path.stat()
    file.check(to(NEW))
    assert path.stat() == before
    assert beside(path) == ["pair"]


def test_a_link_is_refused(tmp_path, path):
    (tmp_path / "elsewhere").write_bytes(OLD)
    path.symlink_to(tmp_path / "elsewhere")
    for refused in (file_calls := AtomicFile(str(path))).read, lambda: file_calls.check(to(NEW)):
        with pytest.raises(Refused, match="is a link"):
            refused()
    assert (tmp_path / "elsewhere").read_bytes() == OLD


def test_a_hard_link_is_refused(tmp_path, file, path):
    os.link(path, tmp_path / "second")
    with pytest.raises(Refused, match="2 hard links"):
        file.check(to(NEW))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_refused(path, make):
    make(path)
    with pytest.raises(Refused, match="not a regular file"):
        AtomicFile(str(path)).check(to(NEW))


def test_a_file_that_is_far_too_large_is_refused(path):
    with path.open("wb") as large:
        large.truncate(_atomic.LARGEST + 1)
    with pytest.raises(Refused, match="larger than"):
        AtomicFile(str(path)).read()


@pytest.mark.parametrize("sticky", [0, stat.S_ISVTX])
def test_a_folder_that_anybody_can_write_is_refused(file, path, sticky):
    path.parent.chmod(0o777 | sticky)
    with pytest.raises(Refused, match="every user of this machine can write to"):
        file.check(to(NEW))


def test_a_folder_above_that_anybody_can_write_is_refused_unless_sticky(file, path):
    path.parent.parent.chmod(0o777)
    with pytest.raises(Refused, match="every user"):
        file.check(to(NEW))
    path.parent.parent.chmod(0o1777)
    file.check(to(NEW))
    path.parent.parent.chmod(0o700)


def test_a_folder_reached_by_a_link_is_judged_where_it_is(tmp_path, file, path):
    (tmp_path / "link").symlink_to(path.parent)
    path.parent.chmod(0o777)
    with pytest.raises(Refused, match="every user"):
        AtomicFile(str(tmp_path / "link" / "pair")).check(to(NEW))


def test_a_link_of_another_user_on_the_way_is_refused(monkeypatch, tmp_path, file, path):
    (tmp_path / "link").symlink_to(path.parent)
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    if os.getuid() == 0:
        os.lchown(tmp_path / "link", 4243, 4243)
    with pytest.raises(Refused, match="another user can point elsewhere"):
        AtomicFile(str(tmp_path / "link" / "pair")).check(to(NEW))


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(Refused, match="does not exist"):
        AtomicFile(str(tmp_path / "none" / "pair")).read()


def test_a_loop_of_links_is_told(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(Refused, match="is a link"):
        AtomicFile(str(tmp_path / "loop" / "pair")).read()


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, Transient),
        (errno.EIO, Transient),
        (errno.EROFS, Refused),
        (errno.EACCES, Refused),
        (errno.ENOTDIR, Refused),
        (errno.ENAMETOOLONG, Refused),
    ],
)
def test_what_the_kernel_says_becomes_a_sentence(monkeypatch, file, number, kind):
    def failing(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", failing)
    with pytest.raises(kind) as told:
        file.check(to(NEW))
    assert told.value.do
    assert told.value.__cause__ is None


@pytest.mark.parametrize("plant", ["file", "link", "fifo"])
def test_what_stands_under_the_temporary_name_is_not_written_to(tmp_path, file, path, plant):
    temporary = path.parent / ".pair.rekeyd"
    victim = tmp_path / "victim"
    victim.write_bytes(OLD)
    {
        "file": lambda: os.link(victim, temporary),
        "link": lambda: temporary.symlink_to(victim),
        "fifo": lambda: os.mkfifo(temporary),
    }[plant]()
    file.update(to(NEW))
    assert victim.read_bytes() == OLD
    assert path.read_bytes() == NEW
    assert beside(path) == ["pair"]


def test_a_writer_waits_for_another_and_sees_what_it_wrote(file, path):
    inside, go = threading.Event(), threading.Event()

    def slowly(content):
        inside.set()
        assert go.wait(10)
        return (content or b"") + b"first\n"

    first = threading.Thread(target=file.update, args=(slowly,))
    first.start()
    inside.wait(10)
    second = threading.Thread(target=file.update, args=(lambda c: (c or b"") + b"second\n",))
    second.start()
    go.set()
    first.join()
    second.join()
    assert path.read_bytes().count(b"first\n") == 1
    assert path.read_bytes().count(b"second\n") == 1


def test_a_writer_that_hangs_is_not_waited_for_without_end(monkeypatch, file, path):
    monkeypatch.setattr(_atomic, "PATIENCE", 0.05)
    temporary = path.parent / ".pair.rekeyd"
    with temporary.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Transient, match="another process is writing"):
            file.update(to(NEW))
    assert path.read_bytes() == OLD


def test_a_secret_stands_in_no_file_of_another_mode(monkeypatch, path):
    modes = []
    real = os.write

    def watched(descriptor, content):
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return real(descriptor, content)

    monkeypatch.setattr(os, "write", watched)
    AtomicFile(str(path), 0o640).update(to(NEW))
    assert modes == [0o600]


def test_what_a_killed_writer_left_goes_even_if_nothing_is_to_be_written(file, path):
    (path.parent / ".pair.rekeyd").write_bytes(NEW)
    assert file.update(to(OLD)) is False
    assert beside(path) == ["pair"]


def test_a_temporary_file_that_another_took_for_a_leftover_is_made_again(monkeypatch, file, path):
    real, lost = AtomicFile._locked, []

    def lose_once(self, folder, descriptor):
        if not lost:
            lost.append(True)
            (path.parent / ".pair.rekeyd").unlink()
        return real(self, folder, descriptor)

    monkeypatch.setattr(AtomicFile, "_locked", lose_once)
    file.update(to(NEW))
    assert lost
    assert path.read_bytes() == NEW


@pytest.mark.parametrize(
    ("number", "message"), [(errno.EACCES, None), (errno.EIO, "could not be written just now")]
)
def test_a_leftover_that_cannot_be_opened(monkeypatch, file, path, number, message):
    (path.parent / ".pair.rekeyd").write_bytes(NEW)
    real = os.open

    def failing(name, flags, *args, **kwargs):
        if name == ".pair.rekeyd" and not flags & os.O_CREAT:
            raise OSError(number, os.strerror(number))
        return real(name, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", failing)
    if message:
        with pytest.raises(Transient, match=message):
            file.check(to(NEW))
    else:
        file.check(to(NEW))
        assert beside(path) == ["pair"]


def test_ids_without_a_name_are_told_as_numbers(monkeypatch, path):
    def denied(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", denied)
    with pytest.raises(Refused, match="to 4000000001 and group 4000000002"):
        AtomicFile(str(path), owner="4000000001", group="4000000002").check(to(NEW))


def test_owner_and_group_may_be_names(path):
    user, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
    AtomicFile(str(path), owner=user, group=group).update(to(NEW))
    assert (path.stat().st_uid, path.stat().st_gid) == (os.geteuid(), os.getegid())


# ACL and label


NAMED = 0x02
NOBODY = 0xFFFFFFFF


def acl(*, owner=6, group=0, mask=4, others=0, named=None):
    """An ACL as the kernel takes it (linux/posix_acl_xattr.h), which names users by number."""
    users = [(NAMED, given, uid) for uid, given in (named or {4000000001: 4}).items()]
    classes = [(GROUP, group, NOBODY), (MASK, mask, NOBODY), (OTHERS, others, NOBODY)]
    entries = [(OWNER, owner, NOBODY), *users, *classes]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def share(path, attribute=ACL, **given):
    try:
        os.setxattr(path, attribute, acl(**given))
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        pytest.skip("no ACL can be set in the folder of the tests")


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("settings", [{}, {"mode": 0o640}])
def test_whom_an_acl_lets_in_may_read_the_new_file_too(file, path, settings):
    share(path, group=4)
    assert AtomicFile(file.path, **settings).update(to(NEW)) is True
    assert (os.getxattr(path, ACL), path.read_bytes()) == (acl(group=4), NEW)


def test_an_acl_gives_others_nothing(file, path):
    share(path, others=4)
    file.update(to(NEW))
    assert (os.getxattr(path, ACL), mode_of(path)) == (acl(others=0), 0o640)


@pytest.mark.parametrize(
    ("mode", "left"),
    [(0o600, {"mask": 0}), (0o440, {"owner": 4, "group": 4}), (0o660, {"group": 6, "mask": 6})],
)
def test_a_mode_goes_before_an_acl_and_bounds_whom_it_names(file, path, mode, left):
    share(path)
    chosen = AtomicFile(file.path, mode)
    assert chosen.update(to(NEW)) is True
    assert (os.getxattr(path, ACL), mode_of(path)) == (acl(**left), mode)
    assert chosen.update(to(NEW)) is False


def test_an_acl_without_the_group_is_put_right_for_a_mode_that_has_it(file, path):
    share(path)
    assert mode_of(path) == 0o640
    assert AtomicFile(file.path, 0o640).update(to(OLD)) is True
    assert os.getxattr(path, ACL) == acl(group=4)


@pytest.mark.parametrize("mode", [None, 0o600, 0o640, 0o660])
def test_a_folder_gives_a_new_file_no_more_than_its_mode(path, mode):
    share(path.parent, "system.posix_acl_default", owner=7, group=7, mask=7, others=5)
    AtomicFile(str(path), mode).update(to(NEW))
    chosen = mode or 0o600
    group = chosen >> 3 & 7
    assert mode_of(path) == chosen
    assert os.getxattr(path, ACL) == acl(owner=6, group=group, mask=group)


@pytest.mark.parametrize("mode", [None, 0o640])
def test_a_folder_gives_nobody_a_file_that_was_not_shared_with_them(file, path, mode):
    path.chmod(0o640)
    share(path.parent, "system.posix_acl_default", mask=7)
    AtomicFile(file.path, mode).update(to(NEW))
    assert mode_of(path) == 0o640
    assert ACL not in os.listxattr(path)


def test_nobody_is_let_in_before_the_content_is_whole_and_the_group_is_right(
    monkeypatch, file, path
):
    share(path, group=4)
    seen = []

    def watched(name):
        real = getattr(os, name)

        def call(descriptor, *args):
            mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
            seen.append((name, mode, os.pread(descriptor, 99, 0) == NEW, args))
            if name != "fchown":
                real(descriptor, *args)

        return call

    for name in ("fchown", "setxattr", "fchmod"):
        monkeypatch.setattr(os, name, watched(name))
    monkeypatch.setattr(_atomic, "_CREATE", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    AtomicFile(file.path, owner="4000000001", group="4000000002").update(to(NEW))
    assert seen == [
        ("fchown", 0o600, True, (-1, 4000000002)),
        ("setxattr", 0o600, True, (ACL, acl(group=4))),
        ("fchmod", 0o640, True, (0o640,)),
        ("fchown", 0o640, True, (4000000001, -1)),
    ]


@pytest.fixture
def attribute(monkeypatch, path):
    """Stand for one extended attribute of the old file and of the new one, which may be denied.

    The label of a file that is made is its folder's, as SELinux has it.
    """

    def standing(name, old, new, error=None):
        given = []

        def get(descriptor, asked):
            is_old = os.path.samestat(os.fstat(descriptor), path.stat())
            value = old if is_old else new
            if asked != name or value is None:
                raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
            return value

        def put(descriptor, _, value):
            if error:
                raise OSError(error, os.strerror(error))
            given.append((value, stat.S_IMODE(os.fstat(descriptor).st_mode)))

        monkeypatch.setattr(os, "getxattr", get)
        monkeypatch.setattr(os, "setxattr", put)
        return given

    return standing


ETC, VAR = b"system_u:object_r:etc_t:s0\0", b"system_u:object_r:var_t:s0\0"


@pytest.mark.parametrize(
    ("labels", "expected"),
    [((ETC, VAR), [(ETC, 0o600)]), ((ETC, ETC), []), ((ETC, None), []), ((None, VAR), [])],
)
def test_a_label_stays_where_selinux_gives_the_new_file_another(
    attribute, file, path, labels, expected
):
    path.chmod(0o640)
    given = attribute(LABEL, *labels)
    file.update(to(NEW))
    assert given == expected


DENIED = {
    errno.EPERM: (Refused, "Operation not permitted"),
    errno.EINVAL: (Refused, "Invalid argument"),
    errno.ENOSPC: (Transient, "just now"),
}


@pytest.mark.parametrize("carried", [(ACL, acl(), None), (LABEL, ETC, VAR)])
@pytest.mark.parametrize("number", DENIED)
def test_what_cannot_be_carried_over_is_found_by_check(attribute, file, path, carried, number):
    kind, why = DENIED[number]
    attribute(*carried, error=number)
    for act in file.check, file.update:
        with pytest.raises(kind, match=why):
            act(to(NEW))
    assert path.read_bytes() == OLD
    assert beside(path) == ["pair"]


def test_a_file_system_without_attributes_is_none_to_complain_of(monkeypatch, file):
    def unsupported(*_):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "getxattr", unsupported)
    monkeypatch.setattr(os, "setxattr", unsupported)
    assert file.update(to(NEW)) is True


def test_a_file_whose_attributes_cannot_be_read_is_not_replaced(monkeypatch, file, path):
    def failing(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "getxattr", failing)
    with pytest.raises(Transient):
        file.update(to(NEW))
    assert path.read_bytes() == OLD
