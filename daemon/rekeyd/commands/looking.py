"""`plan`, `status`, `history` and `check`: they look, and change nothing."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from rekeyd.assemble import Workshop, fit_sealer, side_by_side, state_to_look_at
from rekeyd.commands import ago, event_line, print_json, say, table, worst
from rekeyd.config import IdentitySettings, Settings
from rekeyd.document import UNSEEN, document
from rekeyd.errors import Misconfigured, Refused, RekeydError
from rekeyd.exits import DONE, FAILED, HELD, exit_code
from rekeyd.holds import user_replaced
from rekeyd.model import Custody, Snapshot, Timing
from rekeyd.observe import look
from rekeyd.ports import Identity, Sink
from rekeyd.rules import plan as decide
from rekeyd.state import State
from rekeyd.steps import Decision, Record
from rekeyd.view import Status, describe


def workshop(settings: Settings, store: State) -> Workshop:
    sealer, _ = fit_sealer(settings, store, lambda: _kms(settings))
    return Workshop(settings, store, sealer, lambda *_: None)


def _kms(settings: Settings) -> Any:
    from rekeyd.aws import Account  # noqa: PLC0415 (0.3 s, for those who use it)

    return Account(settings.aws, lambda *_: None).client("kms")


def plan(settings: Settings, as_json: bool) -> int:
    """Look at each identity and print its next step. Returns the worst of their exit codes."""
    with state_to_look_at(settings) as store:
        shop = workshop(settings, store)
        looks = list(side_by_side(partial(_looked, shop), settings.identities))
    told = [one for steps, _ in looks for one in steps]
    if as_json:
        print_json({"plan": told})
    else:
        rows = [(one["identity"], one["rule"], one["what"]) for one in told]
        click.echo(table(("IDENTITY", "RULE", "NEXT STEP"), rows))
        for one in told:
            if one["do"]:
                click.echo()
                say(one["do"], lead=f"{one['identity']}: ")
    return worst(code for _, code in looks)


def _looked(shop: Workshop, identity: IdentitySettings) -> tuple[list[dict[str, Any]], int]:
    """Return the next steps of an identity, or why it cannot be looked at, and the exit code."""
    try:
        who = shop.build(identity)
        steps = [_foreseen(who, *pair) for pair in _steps(look(who), who.timing)]
    except RekeydError as error:
        no_look = {"identity": identity.name, "rule": "look", "step": "retry", "what": str(error)}
        return [no_look | {"do": error.do, "next_rotation": None}], exit_code(error)
    return steps, HELD if steps[-1]["step"] == "hold" else DONE


def _steps(snapshot: Snapshot, timing: Timing) -> Iterator[tuple[Snapshot, Decision]]:
    """Decide, and when that only notes a fact decide what follows, up to what reaches outside."""
    decision = decide(snapshot, timing)
    yield snapshot, decision
    if isinstance(decision.step, Record):
        yield from _steps(replace(snapshot, custody=decision.step.custody), timing)


def _foreseen(who: Identity, snapshot: Snapshot, decision: Decision) -> dict[str, Any]:
    status = describe(who.name, snapshot, decision, who.timing)
    return {
        "identity": who.name,
        "rule": decision.rule,
        "step": type(decision.step).__name__.lower(),
        "what": status.message,
        "do": status.hold.do if status.hold else None,
        "next_rotation": status.next_rotation,
    }


def status(settings: Settings, as_json: bool) -> int:
    """Print where each identity stood at its last look. Returns 3 when one is on hold."""
    with state_to_look_at(settings) as store:
        known = store.published()
    names = [identity.name for identity in settings.identities]
    statuses = [known[name] for name in names if name in known]
    if as_json:
        print_json(document(statuses, datetime.now(UTC), names))
    else:
        _show_statuses(statuses, [name for name in names if name not in known])
    return HELD if any(one.hold for one in statuses) else DONE


def _show_statuses(statuses: list[Status], unknown: list[str]) -> None:
    rows = [
        (
            one.identity,
            click.style(one.stage, fg="red" if one.hold else "yellow" if one.failing else "green"),
            one.current.key if one.current else "-",
            ago(one.current.created) if one.current else "-",
            _until(one.next_rotation, "due"),
            f"{sum(s.current for s in one.sinks)} of {len(one.sinks)}" if one.sinks else "-",
            ago(one.at),
        )
        for one in statuses
    ]
    rows += [(name, UNSEEN, "-", "-", "-", "-", "-") for name in unknown]
    headings = ("IDENTITY", "STAGE", "KEY", "MADE", "NEXT ROTATION", "SINKS", "LOOKED")
    click.echo(table(headings, rows))
    for one in statuses:
        for what, do in _remarks(one):
            click.echo()
            say(what, do, lead=f"{one.identity}: ")


def _until(instant: datetime | None, past: str) -> str:
    return past if instant and instant <= datetime.now(UTC) else ago(instant)


def _remarks(one: Status) -> Iterator[tuple[str, str]]:
    """Tell what a line of the table has no room for, and what to do about it."""
    if one.hold:
        yield one.hold.what, one.hold.do
    elif one.failing:
        yield f"{one.failing} (tried again {_until(one.retry_at, 'now')})", ""
    elif one.asked:
        yield "a rotation was asked for, and begins when IAM has room for another key", ""
    for sink in one.sinks:
        if not sink.current:
            why = f": {sink.problem}" if sink.problem else ""
            yield f"sink {sink.name} does not hold the current pair{why}", ""
    for key in one.keys:
        if key.state != "current":
            used = f", last used {ago(key.last_used)}" if key.last_used else ""
            activity = "active" if key.active else "inactive"
            yield f"{key.state} key {key.key}, {activity}{used}", ""


def history(settings: Settings, identity: str | None, lines: int, as_json: bool) -> int:
    """Print the newest events, oldest first."""
    with state_to_look_at(settings) as store:
        events = [event for _, event in store.history(identity)][-lines:]
    if as_json:
        print_json({"history": [asdict(event) for event in events]})
        return DONE
    day = None
    for event in events:
        if event.at.astimezone().date() != day:
            day = event.at.astimezone().date()
            click.echo(click.style(f"{day:%A, %-d %B %Y}", bold=True))
        click.echo(event_line(event, named=identity is None))
    if not events:
        click.echo("nothing was done yet")
    return DONE


def check(settings: Settings, offline: bool, as_json: bool) -> int:
    """Try what a rotation needs, and print each answer. Returns the worst answer's exit code."""
    results: list[dict[str, Any]] = []
    if not (offline or settings.state_is_shared):
        _try(results, "", "write to the state", lambda: _writable(Path(settings.state)))
    with state_to_look_at(settings) as store:
        shop: Workshop | None = None

        def state() -> None:
            nonlocal shop
            shop = workshop(settings, store)

        _try(results, "", "state and seal key", state)
        if settings.listen:
            from rekeyd.access import secured  # noqa: PLC0415 (0.1 s, which `rotate` shall not pay)

            _try(results, "", "what the listener needs", partial(secured, settings.listen))
        if shop and not offline:
            for tried in side_by_side(partial(_try_identity, shop), settings.identities):
                results += tried
            for channel in (one.open() for one in settings.notify):
                _try(results, "", f"notify {channel.name}", channel.check)
    if as_json:
        print_json({"ok": all(r["ok"] for r in results), "checks": results})
    else:
        _show_checks(settings, results)
    return worst(r["exit"] for r in results)


def _writable(folder: Path) -> None:
    """Make a folder for a moment where the state is, or is to be. Raises `Misconfigured`."""
    try:
        nearest = next(place for place in (folder, *folder.parents) if place.exists())
        TemporaryDirectory(prefix="rekeyd-", dir=nearest).cleanup()
    except OSError as error:
        raise Misconfigured(
            f"the state {folder} cannot be made or written: {error.strerror}",
            "rekeyd needs a folder of its own that it can write to: see `state` and its owner",
        ) from None


def _try_identity(shop: Workshop, identity: IdentitySettings) -> list[dict[str, Any]]:
    """Try the reading calls of IAM, as far as one does not follow from another, and each sink."""
    from rekeyd.aws import AwsIam  # noqa: PLC0415 (0.3 s, for those who use it)

    results: list[dict[str, Any]] = []

    def works(what: str, trial: Callable[[], object]) -> bool:
        return _try(results, identity.name, what, trial)

    account, who = shop.account(identity), shop.build(identity)
    if works("credentials", account.caller):
        works("not root's credentials", lambda: _not_root(who))
        if works(f"user {identity.user}", lambda: _user_is_known(who, identity)):
            iam = AwsIam(account, identity.user)
            if works("list its keys", lambda: _room(who)):
                works("what IAM can tell", iam.gaps)
            works("deactivate and delete a key (not tried: to make one)", iam.try_retiring)
    return [*results, *who.each(partial(_tried_sink, who.name), who.sinks)]


def _tried_sink(identity: str, sink: Sink) -> dict[str, Any]:
    def left_open() -> list[str]:
        left = sink.check()
        return [f"sink {sink.name}: {left}"] if left else []

    return _tried(identity, f"sink {sink.name}", left_open)


def _not_root(who: Identity) -> None:
    if who.iam.caller_is_root():
        raise Refused("signs as the account's root user", "use the policy of `rekeyd policy`")


def _user_is_known(who: Identity, settings: IdentitySettings) -> None:
    user_id = who.iam.user_id()
    if user_id is None:
        made = "make the user where it is provisioned, or correct `user` in the configuration"
        do = "create it with `rekeyd provision`" if settings.provisioned_here else made
        raise Refused("IAM knows no such user", do)
    if who.store.load(who.name).user_id not in {None, user_id}:
        replaced = user_replaced(user_id)
        raise Refused(replaced.what, replaced.do)


def _room(who: Identity) -> None:
    listing = who.iam.list_keys()
    for key in listing.keys:
        who.iam.last_used(key.id)
    custody: Custody = who.store.load(who.name)
    ours = {pair.key_id for pair in custody.pairs}
    if len([key for key in listing.keys if key.id not in ours]) > 1:
        raise Refused(
            "both of the user's key slots hold keys that rekeyd did not make",
            "delete one, or hand one over with `rekeyd adopt IDENTITY KEY_ID`",
        )


def _try(
    results: list[dict[str, Any]], identity: str, what: str, trial: Callable[[], object]
) -> bool:
    """Try one thing and keep how it went; tell whether it went well."""
    results.append(_tried(identity, what, trial))
    return bool(results[-1]["ok"])


def _tried(identity: str, what: str, trial: Callable[[], object]) -> dict[str, Any]:
    """Try one thing; return how it went. What it returns as a list are notes for people."""
    answer: dict[str, Any] = {"identity": identity, "check": what, "ok": True}
    answer |= {"notes": [], "problem": "", "do": "", "exit": DONE}
    try:
        said = trial()
        answer["notes"] = said if isinstance(said, list) else []
    except RekeydError as error:
        code = exit_code(error)
        code = FAILED if code == HELD else code  # nobody is on hold for a trial
        answer |= {"ok": False, "problem": str(error), "do": error.do, "exit": code}
    return answer


def _show_checks(settings: Settings, results: list[dict[str, Any]]) -> None:
    good, bad = click.style("✓", fg="green"), click.style("✗", fg="red")
    counted = len(settings.identities)
    say(f"configuration: {counted} {'identity' if counted == 1 else 'identities'}", lead=f"{good} ")
    for identity, trials in groupby(results, lambda r: str(r["identity"])):
        if identity:
            click.echo("\n" + click.style(identity, bold=True))
        for r in trials:
            problem = f": {r['problem']}" if r["problem"] else ": not all" if r["notes"] else ""
            mark = good if r["ok"] else bad
            say(f"{r['check']}{problem}", r["do"], lead=f"{'  ' * bool(identity)}{mark} ")
    _show_notes(results, named=len(settings.identities) > 1)


def _show_notes(results: list[dict[str, Any]], *, named: bool) -> None:
    """Show each note once, with the identities that it is about where there are several."""
    about: dict[str, list[str]] = {}
    for r in results:
        for note in r["notes"]:
            about.setdefault(note, []).append(r["identity"])
    for note, names in about.items():
        click.echo()
        say(f"{', '.join(names)}: {note}" if named else note, lead=click.style("! ", fg="yellow"))
