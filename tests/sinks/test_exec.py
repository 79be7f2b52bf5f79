"""`exec`: real programs, well behaved and not."""

import json
import os
import select
import signal
import threading
import time
from urllib.parse import quote

import pytest
from pydantic import ValidationError

from rekeyd.errors import Permanent, Refused, Transient
from rekeyd.secret import AccessPair, Secret
from rekeyd.sinks._run import LARGEST, run
from rekeyd.sinks.base import SinkContext
from rekeyd.sinks.exec import Exec

PAIR = AccessPair("AKIAIOSFODNN7EXAMPLE", Secret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"))


@pytest.fixture
def program(tmp_path):
    def write(script, name="program", mode=0o755):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(mode)
        return str(path)

    return write


def sink(command, *arguments, **settings):
    chosen = Exec(type="exec", command=[command, *arguments], **settings)
    return chosen.open(SinkContext("backup_user", lambda *_: None))


def ends_soon(pid):
    """Whether a process is gone within seconds: a SIGKILL takes a moment."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], 5)[0])
    finally:
        os.close(process)


def test_the_pair_arrives_as_json_on_standard_input(program, tmp_path):
    sink(program(f"cat > {tmp_path}/got")).put(PAIR)

    assert json.loads((tmp_path / "got").read_text()) == {
        "Version": 1,
        "Identity": "backup_user",
        "AccessKeyId": PAIR.key_id,
        "SecretAccessKey": PAIR.secret.reveal(),
    }


def test_arguments_reach_the_program_without_a_shell(program, tmp_path):
    sink(program(f'printf "%s" "$1" > {tmp_path}/got'), "$(id); *").put(PAIR)

    assert (tmp_path / "got").read_text() == "$(id); *"


def test_nothing_of_the_daemon_reaches_the_program(program, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("NOTIFY_SOCKET", "x")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "x")
    leaked = os.open("/dev/null", os.O_RDONLY)
    os.dup2(leaked, 77)  # not inheritable, like every descriptor that Python opens
    try:
        told = "env; pwd; ls /proc/self/fd; grep SigIgn /proc/self/status"
        sink(program(f"({told}) > {tmp_path}/got"), environment={"EXTRA": "1"}).put(PAIR)
    finally:
        os.close(77)
        os.close(leaked)

    got = (tmp_path / "got").read_text().splitlines()
    names = {line.partition("=")[0] for line in got if "=" in line}
    assert names - {"PWD", "OLDPWD", "SHLVL", "_"} == {"PATH", "HOME", "LANG", "EXTRA"}
    assert "/" in got
    assert "77" not in got
    ignored = int(next(line for line in got if line.startswith("SigIgn")).split()[1], 16)
    assert not ignored & 1 << signal.SIGPIPE - 1


def test_no_signal_is_blocked_in_the_program():
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        outcome = run(["/bin/grep", "SigBlk", "/proc/self/status"], b"", {}, 5)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) >= {signal.SIGTERM}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    assert int(outcome.output.split()[1], 16) == 0


@pytest.mark.parametrize(
    ("script", "kind"), [("exit 75", Transient), ("kill -9 $$", Transient), ("exit 1", Refused)]
)
def test_the_exit_status_says_whether_trying_again_helps(program, script, kind):
    with pytest.raises(kind) as caught:
        sink(program(f"echo the disk is full >&2; {script}")).put(PAIR)
    assert "the disk is full" in str(caught.value)


def test_a_program_that_prints_the_secret_does_not_print_it_into_our_log(program):
    script = 'read line; echo "$line" >&2; echo "$line" | base64 -w0 >&2; echo " END" >&2; exit 1'
    with pytest.raises(Refused) as caught:
        sink(program(script)).put(PAIR)

    shown = f"{caught.value} {caught.value.do}"
    assert "END" in shown
    assert PAIR.secret.reveal() not in shown
    assert PAIR.key_id not in shown
    assert "…MPLE" in shown
    assert not any(len(word) > 60 for word in shown.split() if "/program" not in word)


@pytest.mark.parametrize("disguise", [lambda s: quote(s, safe=""), lambda s: s.replace("/", "\\/")])
def test_a_secret_in_the_writing_of_urls_or_json_is_hidden_too(program, disguise):
    disguised = disguise(PAIR.secret.reveal())
    with pytest.raises(Refused) as caught:
        sink(program(f"echo 'sent {disguised}' >&2; exit 1")).put(PAIR)
    assert "sent …;" in str(caught.value)


def test_control_characters_do_not_reach_a_terminal(program):
    with pytest.raises(Refused) as caught:
        sink(program("printf '\\033[31mred\\n' >&2; exit 1")).put(PAIR)
    assert "\033" not in str(caught.value)


def test_a_program_that_reads_nothing_and_prints_too_much_delays_nobody(program):
    noisy = program("head -c 5000000 /dev/zero >&2; head -c 5000000 /dev/zero; echo end")

    outcome = run([noisy], b"unread", {"PATH": "/usr/bin:/bin"}, 20)

    assert (len(outcome.output), len(outcome.complaint)) == (LARGEST, LARGEST)
    assert outcome.output.endswith("end\n")


def test_a_hanging_program_is_ended_with_its_children(program, tmp_path):
    stubborn = "trap '' TERM; while :; do sleep 0.1; done"
    child = program(stubborn, "child")
    script = f"{child} & echo $! > {tmp_path}/pid; {stubborn}"
    began = time.monotonic()
    with pytest.raises(Transient, match="not done within 1 s"):
        sink(program(script), timeout="1s").put(PAIR)

    assert time.monotonic() - began < 8
    assert ends_soon(int((tmp_path / "pid").read_text()))


def test_a_program_that_closes_its_outputs_and_stays_is_ended(program):
    with pytest.raises(Transient, match="not done within 1 s"):
        sink(program("exec >&- 2>&-; sleep 60"), timeout="1s").put(PAIR)


def test_a_child_left_behind_with_the_output_open_is_not_waited_for(program, tmp_path):
    began = time.monotonic()
    sink(program(f"sleep 20 & echo $! > {tmp_path}/pid")).put(PAIR)

    assert time.monotonic() - began < 5
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_it_runs_from_a_worker_thread_too(program, tmp_path):
    place = sink(program(f"cat > {tmp_path}/got"))
    worker = threading.Thread(target=place.put, args=[PAIR])
    worker.start()
    worker.join()

    assert (tmp_path / "got").exists()


def test_without_a_read_command_it_is_write_only(program):
    place = sink(program("exit 0"))

    assert not place.readable
    with pytest.raises(Permanent, match="write-only"):
        place.read()


@pytest.mark.parametrize("said", ["", '{"AccessKeyId": "AKIA"}'])
def test_a_read_command_that_prints_no_pair_means_none(program, said):
    place = sink(program("exit 0"), read=[program(f"echo '{said}'", "reader")])

    assert place.readable
    assert place.read() is None


def test_what_the_read_command_prints_is_read_back(program, tmp_path):
    kept = tmp_path / "kept"
    place = sink(program(f"cat > {kept}"), read=[program(f"cat {kept}", "reader")])

    place.put(PAIR)

    assert place.read().fingerprint() == PAIR.fingerprint()


@pytest.mark.parametrize("said", ["no JSON", "[1]", '{"SecretAccessKey":', "[" * 60_000])
def test_a_read_command_that_prints_something_else_is_refused(program, said):
    place = sink(program("exit 0"), read=[program(f"echo '{said}'", "reader")])

    with pytest.raises(Refused, match="something else") as caught:
        place.read()
    assert said not in str(caught.value)


def test_a_failing_read_command_does_not_show_what_it_printed(program):
    secret = PAIR.secret.reveal()
    reader = program(f"echo {secret}; echo key {secret} >&2; exit 1", "reader")
    with pytest.raises(Refused) as caught:
        sink(program("exit 0"), read=[reader]).read()
    assert "key …" in str(caught.value)
    assert secret not in str(caught.value)


def test_a_check_runs_the_check_command_and_nothing_else(program, tmp_path):
    place = sink(
        program(f"touch {tmp_path}/wrote"),
        check=[program(f"touch {tmp_path}/checked", "checker")],
        read=[program(f"touch {tmp_path}/read", "reader")],
    )

    place.check()

    assert (tmp_path / "checked").exists()
    assert not (tmp_path / "wrote").exists()


def test_a_failing_check_command_says_why(program):
    place = sink(program("exit 0"), check=[program("echo no token >&2; exit 1", "checker")])

    with pytest.raises(Refused, match="no token"):
        place.check()


def test_a_check_finds_programs_that_cannot_run(program, tmp_path):
    for path in (str(tmp_path / "nothing"), str(tmp_path), program("exit 0", "plain", 0o644)):
        with pytest.raises(Refused) as caught:
            sink(path).check()
        assert caught.value.reason == "sink"


def test_what_anybody_could_replace_is_not_given_the_pair(program, tmp_path):
    loose = sink(program("exit 0", "open", 0o757))
    for refused in (loose.check, lambda: loose.put(PAIR)):
        with pytest.raises(Refused, match="everybody may write"):
            refused()

    target = program("exit 0")
    links = tmp_path / "links"
    links.mkdir(mode=0o755)
    (links / "link").symlink_to(target)
    sink(str(links / "link")).check()
    links.chmod(0o777)
    with pytest.raises(Refused, match="everybody may write"):
        sink(str(links / "link")).check()


def test_a_program_that_is_being_written_is_tried_again(program):
    path = program("exit 0")
    with open(path, "a"), pytest.raises(Transient, match="could not be started"):  # noqa: PTH123
        sink(path).put(PAIR)


def test_a_program_without_an_interpreter_is_refused_plainly(tmp_path):
    path = tmp_path / "program"
    path.write_text("#!/no/such/interpreter\n")
    path.chmod(0o755)

    with pytest.raises(Refused, match="could not be started"):
        sink(str(path)).put(PAIR)


@pytest.mark.parametrize(
    "wrong",
    [
        {"command": []},
        {"command": ["push"]},
        {"command": ["/bin/sh", "a\0b"]},
        {"timeout": "0s"},
        {"timeout": "1h"},
        {"timeout": 30},
        {"environment": {"A=B": "c"}},
        {"read": ["cat"]},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(ValidationError):
        Exec(**{"type": "exec", "command": ["/bin/true"], **wrong})
