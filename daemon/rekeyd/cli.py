"""The commands. Each is thin: it asks another module, shows the answer, and picks the exit code."""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import wraps
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

import click

from rekeyd import __version__
from rekeyd.config import IdentitySettings, Settings, load
from rekeyd.errors import Mistaken, RekeydError
from rekeyd.exits import FAILED, INTERRUPTED, exit_code
from rekeyd.ports import Request

NOT_RUNNING = (
    "this rekeyd does nothing until that is mended; backups go on with the pairs they have"
)
"""What a daemon that cannot start means for the backups."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="rekeyd %(version)s")
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    envvar="REKEYD_CONFIG",
    help="Default: $REKEYD_CONFIG, else /etc/rekeyd/rekeyd.yaml.",
)
@click.pass_context
def cli(context: click.Context, config: Path | None) -> None:
    """Keep the access keys of AWS backup users fresh.

    \b
    Set up once:        rekeyd provision && rekeyd check
    Run as a service:   rekeyd run
    Look:               rekeyd status
    A new pair now:     rekeyd rotate
    A key has leaked:   rekeyd rotate --revoke-now IDENTITY
    The new one fails:  rekeyd rollback IDENTITY
    See it work:        rekeyd demo

    \b
    Exit codes: 0 done, 1 failed, 2 wrong usage (or --dry-run found changes),
    3 an identity is on hold, 75 could not reach something now, 78 configuration.

    \b
    Completion for bash (zsh and fish alike):
      eval "$(_REKEYD_COMPLETE=bash_source rekeyd)"
    """
    context.obj = config


def _config_option(function: Callable[..., None]) -> Callable[..., None]:
    """Take --config after the command too, where people type it."""

    @click.option("-c", "--config", "own_config", type=click.Path(path_type=Path), hidden=True)
    @wraps(function)
    def wrapped(own_config: Path | None, **given: Any) -> None:
        path: Path | None = own_config or click.get_current_context().find_root().obj
        function(path, **given)

    return wrapped


Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def _number_option(*names: str, least: int = 0, **given: Any) -> Decorator:
    return click.option(*names, type=click.IntRange(least), show_default=True, **given)


def _wait_option(seconds: int) -> Decorator:
    told = "How long to follow it."
    return _number_option("--wait", default=seconds, metavar="SECONDS", help=told)


def _identity_argument(name: str, **given: Any) -> Decorator:
    """Take names of identities, which a shell completes from the configuration."""

    def complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
        with suppress(RekeydError):
            path = context.params.get("own_config") or context.find_root().params.get("config")
            known = [identity.name for identity in load(path).identities]
            return [name for name in known if name.startswith(incomplete)]
        return []

    return click.argument(name, shell_complete=complete, **given)


_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@cli.command()
@_config_option
def run(path: Path | None) -> None:
    """Run the daemon.

    \b
      rekeyd check && rekeyd run

    \b
    SIGUSR1  rotate every identity now
    SIGHUP   read the configuration again; a bad one is refused
    SIGUSR2  write the status to the log
    SIGTERM  finish the step in flight and leave
    """
    from rekeyd import service  # noqa: PLC0415

    try:
        sys.exit(service.run(path))
    except RekeydError as error:
        error.args = (f"{error}\n{NOT_RUNNING}",)
        raise


@cli.command()
@click.option("--dry-run", is_flag=True, help="Change nothing; exit 2 when something would change.")
@click.option("--take-over", is_flag=True, help="Manage a user, group or policy that others made.")
@_json_option
@_config_option
def provision(path: Path | None, *, dry_run: bool, take_over: bool, as_json: bool) -> None:
    """Make the users, groups and policies of the configuration.

    Shows what differs first, then changes it. Run it with credentials that have the policy of
    `rekeyd policy provisioner`; the daemon needs far less.

    \b
      rekeyd provision --dry-run     what would change
      AWS_PROFILE=admin rekeyd provision
    """
    from rekeyd.commands import provisioning  # noqa: PLC0415

    sys.exit(provisioning.provision(load(path), dry_run, take_over, as_json))


@cli.command()
@_identity_argument("identities", nargs=-1, metavar="[IDENTITY]...")
@click.option("--due", is_flag=True, help="Only what is due: for cron and Kubernetes CronJobs.")
@click.option("--revoke-now", is_flag=True, help="The key has leaked: no overlap, no grace.")
@_wait_option(300)
@_json_option
@_config_option
def rotate(
    path: Path | None,
    *,
    identities: tuple[str, ...],
    due: bool,
    revoke_now: bool,
    wait: int,
    as_json: bool,
) -> None:
    """Make a new pair now and follow it to every sink.

    The running daemon does it when there is one on this state, else this command does.
    What cannot be done now stays asked for, and is done once when it can be.

    \b
      rekeyd rotate                      every identity
      rekeyd rotate backup_user          one
      rekeyd rotate --revoke-now backup_user
      rekeyd rotate --due                what is due, then leave (for timers)
    """
    from rekeyd.commands import rotation  # noqa: PLC0415

    if due and revoke_now:
        raise click.UsageError("--due and --revoke-now exclude each other.")
    settings = load(path)
    request = None if due else Request("revoke" if revoke_now else "rotate")
    chosen = _named(settings, identities)
    sys.exit(rotation.follow(settings, chosen, request, wait=wait, as_json=as_json))


@cli.command()
@_identity_argument("identity")
@_wait_option(300)
@_json_option
@_config_option
def rollback(path: Path | None, *, identity: str, wait: int, as_json: bool) -> None:
    """Make the superseded pair current again, everywhere.

    In IAM and in every sink; possible until that pair is deleted, which is overlap + grace after
    the rotation.

    \b
      rekeyd rollback backup_user
    """
    from rekeyd.commands import rotation  # noqa: PLC0415

    settings = load(path)
    chosen = _named(settings, (identity,))
    sys.exit(rotation.follow(settings, chosen, Request("rollback"), wait=wait, as_json=as_json))


@cli.command()
@_identity_argument("identity")
@click.argument("key_id", metavar="KEY_ID")
@_wait_option(60)
@_json_option
@_config_option
def adopt(path: Path | None, *, identity: str, key_id: str, wait: int, as_json: bool) -> None:
    """Hand a key that rekeyd did not make over to it.

    It is then retired like rekeyd's own. The last characters of KEY_ID are enough, as `status`
    shows them. It may also be the id of a user that was made anew under the same name (AIDA…).

    \b
      rekeyd adopt backup_user AKIAIOSFODNN7EXAMPLE
      rekeyd adopt backup_user MPLE
    """
    from rekeyd.commands import rotation  # noqa: PLC0415

    settings = load(path)
    chosen = _named(settings, (identity,))
    request = Request("adopt", key_id)
    sys.exit(rotation.follow(settings, chosen, request, wait=wait, as_json=as_json))


@cli.command()
@_json_option
@_config_option
def plan(path: Path | None, *, as_json: bool) -> None:
    """Show the next step of each identity; change nothing.

    And which rule says so, by a fresh look at IAM and at every sink.

    \b
      rekeyd plan
      rekeyd plan --json | jq -r '.plan[].what'
    """
    from rekeyd.commands import looking  # noqa: PLC0415

    sys.exit(looking.plan(load(path), as_json))


@cli.command()
@_json_option
@_config_option
def status(path: Path | None, *, as_json: bool) -> None:
    """Show where each identity stood at its last look.

    Asks nobody but the state folder, so it answers at once and while everything else is down.

    \b
      rekeyd status
      rekeyd status --json | jq '.identities[] | select(.hold)'
    """
    from rekeyd.commands import looking  # noqa: PLC0415

    sys.exit(looking.status(load(path), as_json))


@cli.command()
@_identity_argument("identity", required=False)
@_number_option("-n", "--lines", least=1, default=50, metavar="N", help="How many of the newest.")
@_json_option
@_config_option
def history(path: Path | None, *, identity: str | None, lines: int, as_json: bool) -> None:
    """Show what was done, when, by which rule, and how it ended.

    \b
      rekeyd history                     the newest 50 events
      rekeyd history backup_user -n 5    of one identity
    """
    from rekeyd.commands import looking  # noqa: PLC0415

    settings = load(path)
    if identity:
        _named(settings, (identity,))
    sys.exit(looking.history(settings, identity, lines, as_json))


@cli.command()
@click.argument("party", type=click.Choice(["rotator", "provisioner", "backup"]), default="rotator")
@_config_option
def policy(path: Path | None, *, party: str) -> None:
    """Print the least IAM policy that a party needs.

    It follows from this configuration.

    \b
      rekeyd policy rotator        for the daemon
      rekeyd policy provisioner    for `rekeyd provision`
      rekeyd policy backup         what the backup user itself may do
    """
    from rekeyd.commands import provisioning  # noqa: PLC0415

    sys.exit(provisioning.policy(load(path), party))


@cli.command()
@click.option("--offline", is_flag=True, help="Only what is on this machine, and no sink.")
@_json_option
@_config_option
def check(path: Path | None, *, offline: bool, as_json: bool) -> None:
    """Try everything that a rotation needs, before it is needed.

    Configuration, state, listener, credentials, permissions and every sink. Mints nothing, and
    leaves nothing behind.

    \b
      rekeyd check --offline    in CI, or before a reload
      rekeyd check              as the user that the daemon runs as
    """
    from rekeyd.commands import looking  # noqa: PLC0415

    sys.exit(looking.check(load(path), offline, as_json))


@cli.command()
@click.argument("file", type=click.Path())
def credentials(file: str) -> None:
    """Print a pair for AWS SDKs, from a `credential_process` sink.

    \b
    In ~/.aws/config of the consumer:
      [profile backup]
      credential_process = rekeyd credentials /srv/backup/pair.json
    """
    from rekeyd.credentials import main as answer  # noqa: PLC0415

    sys.exit(answer([file]))


@cli.command()
@_number_option("--rotations", default=3, metavar="N", help="How many; 0 = until stopped.")
@click.option("--keep", is_flag=True, help="Leave the demo's folder behind.")
def demo(*, rotations: int, keep: bool) -> None:
    """Show it: an embedded AWS, the real daemon, N rotations.

    A user is provisioned, and each step is shown as it happens. Ends by itself; touches nothing but
    a folder of its own.

    \b
      rekeyd demo                  about half a minute
      rekeyd demo --rotations 0    until Ctrl-C
    """
    from rekeyd import demo as show  # noqa: PLC0415

    sys.exit(show.run(rotations, keep))


def _named(settings: Settings, names: tuple[str, ...]) -> list[IdentitySettings]:
    known = {identity.name: identity for identity in settings.identities}
    for name in names:
        if name not in known:
            raise click.UsageError(
                f"no identity {name!r} in the configuration; there are: {', '.join(known)}"
            )
    return [known[name] for name in dict.fromkeys(names)] if names else list(known.values())


def main() -> NoReturn:
    """Run a command. What goes wrong is said in one place, without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # what a terminal cannot show
    try:
        sys.exit(cli.main(prog_name="rekeyd", standalone_mode=False))
    except click.ClickException as error:
        error.show()
        _leave(error.exit_code, error.format_message())
    except click.Abort:
        sys.exit(INTERRUPTED)
    except RekeydError as error:
        from rekeyd.commands import say  # noqa: PLC0415

        mistakes = error.mistakes if isinstance(error, Mistaken) else ()
        say(str(error), error.do, lead="" if mistakes else "rekeyd: ", err=True)
        _leave(exit_code(error), str(error), error.do, mistakes)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(FAILED)
    except Exception as error:  # noqa: BLE001 (no traceback ever reaches a user)
        told = _unforeseen(error)
        click.echo(f"rekeyd: {told}", err=True)
        _leave(FAILED, told)


def _leave(code: int, error: str, do: str = "", mistakes: Sequence[str] = ()) -> NoReturn:
    """End a command that failed, and tell programs as well why, if it was to print JSON."""
    if "--json" in sys.argv:
        from rekeyd.commands import print_json  # noqa: PLC0415

        with suppress(OSError):
            print_json({"error": error, "mistakes": mistakes, "do": do, "exit": code})
        _can_print()
    sys.exit(code)


def _unforeseen(error: Exception) -> str:
    if isinstance(error, OSError) and not _can_print():
        return f"what it prints cannot be written: {error.strerror}"
    return f"an unexpected {type(error).__name__} at {_where(error)}; please report it"


def _can_print() -> bool:
    """Tell whether what was printed reaches anybody. Where not, Python is not to try it again."""
    try:
        print(end="", flush=True)  # noqa: T201 (where there is no output, this does nothing)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno}" if trace else "?"
