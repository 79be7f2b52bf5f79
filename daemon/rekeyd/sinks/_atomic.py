"""A file that is replaced whole: whoever reads it sees the old content or the new, never a part.

The new content is written to a temporary file in the same folder, made durable, and renamed over
the old one; POSIX makes rename(2) atomic. The temporary file has one fixed name and is locked while
it is written. So it also keeps two writers of one file apart, and one that a killed process left
behind is told from one in use: a lock dies with its holder.
"""

import errno
import fcntl
import grp
import os
import pwd
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from rekeyd.errors import Refused, RekeydError, Transient
from rekeyd.sinks._rights import ACL, LABEL, Rights

Edit = Callable[[bytes | None], bytes]
"""Makes the new content from the present one; None when there is no file."""

LARGEST = 1 << 20
"""Bytes. What is larger is no file of settings, and is not read into memory."""

PATIENCE = 10.0
"""Seconds to wait for another writer of the same file."""

PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EAGAIN, errno.EINTR, errno.ENOMEM}
PASSING |= {errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT, errno.EBUSY}

CARRIED = {
    ACL: ("ACL", "remove it with `setfacl -b`, and share the file by `group` and `mode`"),
    LABEL: (
        "SELinux label",
        "let the policy of rekeyd's domain relabel it; `ausearch -m avc` shows what it lacks",
    ),
}
"""What the attributes of a file are called, and what to do where they cannot be set."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class AtomicFile:
    """One file, with the mode, owner and group that it shall have.

    Without an owner or a group a new file gets the daemon's own, and an old one keeps what it has.
    Without a mode a new file gets 0600, and an old one keeps its own but for the rights of others.
    An old one keeps its ACL and its SELinux label too. A mode that is set goes before an ACL.
    All methods raise `Transient` when trying again may help (disk full) and `Refused` otherwise.
    """

    path: str
    mode: int | None = None
    owner: str | None = None
    group: str | None = None

    def read(self) -> bytes | None:
        """Return the content, or None when there is no file."""
        with self._explained(), self._folder() as folder:
            content, _ = self._present(folder)
            return content

    def check(self, edit: Edit) -> None:
        """Prove that `update` would work, up to the rename: a consumer notices nothing."""
        with self._explained(), self._folder() as folder, self._temporary(folder) as temporary:
            content, rights = self._present(folder)
            os.posix_fallocate(temporary, 0, max(len(edit(content)), 1))
            self._dress(temporary, rights)

    def update(self, edit: Edit) -> bool:
        """Replace the content durably by what `edit` makes of it; tell whether anything changed."""
        with self._explained(), self._folder() as folder:
            changed = not self._settled(folder, edit)
            if not changed:
                self._removed_leftover(folder)
            else:
                with self._temporary(folder) as temporary:
                    content, rights = self._present(folder)
                    _write(temporary, edit(content))
                    self._dress(temporary, rights)
                    os.fsync(temporary)
                    os.rename(
                        self._temporary_name, self._name, src_dir_fd=folder, dst_dir_fd=folder
                    )
            os.fsync(folder)  # also after a crash that came between a rename and this
            return changed

    @property
    def _name(self) -> str:
        return Path(self.path).name

    @property
    def _temporary_name(self) -> str:
        return f".{self._name}.rekeyd"

    @contextmanager
    def _folder(self) -> Iterator[int]:
        """Open the folder once it is known to be safe; all else is done relative to it."""
        path = Path(self.path).parent
        _refuse_unsafe(path)
        folder = os.open(path, _FOLDER)
        try:
            yield folder
        finally:
            os.close(folder)

    def _present(self, folder: int) -> tuple[bytes | None, Rights | None]:
        try:
            descriptor = os.open(self._name, _READ, dir_fd=folder)
        except FileNotFoundError:
            return None, None
        try:
            status = os.fstat(descriptor)
            self._refuse_unusual(status)
            return _read(descriptor, status.st_size), Rights.of(descriptor)
        finally:
            os.close(descriptor)

    def _refuse_unusual(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise _refused(f"{self.path} is not a regular file", "name a file of its own")
        if status.st_nlink > 1:
            raise _refused(
                f"{self.path} has {status.st_nlink} hard links, and only this one would change",
                "leave one name for it, or point the sink elsewhere",
            )
        if status.st_size > LARGEST:
            raise _refused(f"{self.path} is larger than 1 MiB", "name a file of its own")

    def _settled(self, folder: int, edit: Edit) -> bool:
        content, rights = self._present(folder)
        if rights is None or rights != self._wanted(rights, rights):
            return False
        return edit(content) == content

    def _wanted(self, present: Rights | None, made: Rights) -> Rights:
        """Return the rights of the present file, or of one just made, but for what is set here."""
        if present and self.mode is None:
            rights = present.closed_to_others()
        else:
            rights = (present or made).under(0o600 if self.mode is None else self.mode)
        uid = rights.uid if self.owner is None else _uid(self.owner)
        gid = rights.gid if self.group is None else _gid(self.group)
        return replace(rights, uid=uid, gid=gid)

    def _dress(self, descriptor: int, present: Rights | None) -> None:
        """Give the new file its rights, in an order that at no instant lets anybody else read it.

        Label and group come before the mode lets anybody in; the owner comes last, for only an
        owner may set the rest. A hardened service may not even ask for what is so already.
        """
        made = Rights.of(descriptor)
        wanted = self._wanted(present, made)
        if made.label and wanted.label and made.label != wanted.label:  # else there is no SELinux
            self._carry_over(descriptor, LABEL, wanted.label)
        if made.gid != wanted.gid:
            self._give(descriptor, wanted, gid=wanted.gid)
        if wanted.acl:
            self._carry_over(descriptor, ACL, wanted.acl)
        elif made.acl:
            os.removexattr(descriptor, ACL)  # its folder's default, which is for new files
        os.fchmod(descriptor, wanted.mode)
        if made.uid != wanted.uid:
            self._give(descriptor, wanted, uid=wanted.uid)

    def _carry_over(self, descriptor: int, attribute: str, value: bytes) -> None:
        try:
            os.setxattr(descriptor, attribute, value)
        except OSError as error:
            if error.errno in PASSING:
                raise
            what, do = CARRIED[attribute]
            raise _refused(
                f"the daemon may not give the {what} of {self.path} to the file that replaces it "
                f"({error.strerror}), so a consumer could lose the right to read it",
                do,
            ) from None

    def _give(self, descriptor: int, wanted: Rights, uid: int = -1, gid: int = -1) -> None:
        try:
            os.fchown(descriptor, uid, gid)
        except PermissionError:
            raise _refused(
                f"the daemon may not give {self.path} to {_user(wanted.uid)} and group "
                f"{_group(wanted.gid)}",
                "leave out `owner`, and give the folder that group and the mode 2770; or give the "
                "daemon CAP_CHOWN",
            ) from None

    @contextmanager
    def _temporary(self, folder: int) -> Iterator[int]:
        """Hold the temporary file, empty and locked. Unless renamed it is gone afterwards."""
        descriptor = self._claim(folder)
        try:
            yield descriptor
        finally:
            try:
                with suppress(OSError):
                    if self._is_temporary(folder, descriptor):
                        os.unlink(self._temporary_name, dir_fd=folder)
            finally:
                os.close(descriptor)

    def _claim(self, folder: int) -> int:
        give_up = time.monotonic() + PATIENCE
        while True:
            try:
                descriptor = os.open(self._temporary_name, _CREATE, 0o600, dir_fd=folder)
            except FileExistsError:
                if not self._removed_leftover(folder):
                    if time.monotonic() > give_up:
                        raise Transient(
                            f"another process is writing {self.path}",
                            f"if none is, remove {self._temporary_name} beside it",
                        ) from None
                    time.sleep(0.02)
                continue
            if self._locked(folder, descriptor):
                return descriptor
            os.close(descriptor)

    def _removed_leftover(self, folder: int) -> bool:
        """Remove the temporary file of a process that was killed: a secret may stand in it."""
        try:
            descriptor = os.open(self._temporary_name, _READ, dir_fd=folder)
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno not in {errno.ELOOP, errno.EACCES}:
                raise
            os.unlink(self._temporary_name, dir_fd=folder)  # a link, or given away already
            return True
        try:
            if not self._locked(folder, descriptor):
                return False
            os.unlink(self._temporary_name, dir_fd=folder)
            return True
        finally:
            os.close(descriptor)

    def _locked(self, folder: int, descriptor: int) -> bool:
        """Lock it, and make sure that nobody renamed or removed it before the lock was held."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return self._is_temporary(folder, descriptor)

    def _is_temporary(self, folder: int, descriptor: int) -> bool:
        try:
            named = os.stat(self._temporary_name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(descriptor))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _explain(error, self.path) from None


def _refuse_unsafe(folder: Path) -> None:
    """Refuse a folder in which anybody else could put another file or folder in place."""
    folder.stat()  # raises OSError for a loop of links; resolve() raises another
    real = folder.resolve()
    for path in dict.fromkeys((folder, *folder.parents, real, *real.parents)):
        link, status = path.lstat(), path.stat()
        if stat.S_ISLNK(link.st_mode) and link.st_uid not in {0, os.geteuid()}:
            raise _refused(
                f"{path} is a link that another user can point elsewhere", "name the real folder"
            )
        sticky = status.st_mode & stat.S_ISVTX and path not in {folder, real}
        if status.st_mode & stat.S_IWOTH and not sticky:
            raise _refused(
                f"every user of this machine can write to {path} and so replace the pair",
                f"take that right away with `chmod o-w {path}`, or point the sink elsewhere",
            )


def _read(descriptor: int, size: int) -> bytes:
    content = b""
    while chunk := os.read(descriptor, max(size - len(content), 0) + 1):
        content += chunk
    return content


def _write(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _uid(owner: str) -> int:
    if owner.isdecimal():
        return int(owner)
    try:
        return pwd.getpwnam(owner).pw_uid
    except KeyError:
        raise _refused(f"this machine knows no user {owner!r}", "correct `owner`") from None


def _gid(group: str) -> int:
    if group.isdecimal():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise _refused(f"this machine knows no group {group!r}", "correct `group`") from None


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _refused(message: str, do: str) -> Refused:
    return Refused(message, do, reason="sink")


def _explain(error: OSError, path: str) -> RekeydError:
    """Turn what the kernel said into what it means here."""
    folder = Path(path).parent
    if error.errno in PASSING:
        return Transient(
            f"{path} could not be written just now ({error.strerror}); what it held is untouched",
            f"see that {folder} has space, and that its file system is well",
        )
    what, do = {
        errno.ENOENT: (
            f"the folder {folder} does not exist",
            "make it, for the consumer to read, and name it in BindPaths of a hardened unit",
        ),
        errno.ENOTDIR: (f"{folder} is not a folder", "correct `path`"),
        errno.ELOOP: (f"{path} is a link, which rekeyd does not follow", "name the real file"),
        errno.EROFS: (
            f"{folder} is read-only",
            "mount it writable, or name it in BindPaths of the unit",
        ),
        errno.EISDIR: (f"{path} or its temporary file is a folder", "correct `path`"),
    }.get(
        error.errno or 0,
        (
            f"the daemon may not read and replace {path} ({error.strerror})",
            f"give the daemon's user the right to read it and to write to {folder}",
        ),
    )
    return _refused(what, do)
