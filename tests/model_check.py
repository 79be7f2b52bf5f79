"""A model check of the production code: every state that it can reach, nearest mischief first.

The model is the program itself, one look, plan and performance at a time, on the world. Calm moves
cost nothing; a fault, an old truth shown, a deed of a person, a daemon that is down cost one piece
of mischief each. States are explored in the order of mischief, so that the first violation found
has the shortest story. From every state the calm way must lead to rest, or to a hold (L1).

    python tests/model_check.py --states 1000000        # more states than `make test` looks at
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from world.canon import Canon
from world.checker import Violation
from world.explore import CALM, Cycle, Deed, Explorer, Move, Outcome, Wait
from world.faults import POSSIBLE, Fault
from world.truth import INACTIVE, PERSON, TrueKey, TrueSink, Truth
from world.world import HOUR, MINUTE, TOLD, Delays, World, every

TIMING = every(6 * HOUR, overlap=30 * MINUTE, grace=45 * MINUTE, settle=15 * MINUTE)
FAR = 8 * HOUR
AT_REST = 2 * HOUR
HELD = 5
STUCK = 300
DOWN = (20 * MINUTE, 3 * HOUR)

MODELS: dict[str, dict[str, bool]] = {
    "one sink": {"file": True},
    "a write-only sink": {"box": False},
    "two sinks": {"file": True, "box": False},
}


@dataclass(slots=True)
class State:
    """One state that was found: how it was reached first, and what the program does there."""

    number: int
    truth: Truth | None
    parent: int
    move: Move
    deeds: int
    calm: Outcome | None = None


@dataclass
class Report:
    model: str
    states: int = 0
    moves: int = 0
    mischief: int = 0
    """Every state within so many pieces of mischief was explored."""
    seconds: float = 0.0
    holds: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return (
            f"{self.model}: {self.states:,} states, {self.moves:,} moves, "
            f"all within {self.mischief} pieces of mischief, {self.seconds:.0f} s"
        )


class ModelCheck:
    """Explores one model. `run` raises `Violation`, with the shortest story there is."""

    worlds: type[World] = World
    explorers: type[Explorer] = Explorer

    def __init__(self, model: str) -> None:
        world = self.worlds(
            sinks=MODELS[model],
            timing=TIMING,
            delays=Delays(list=10 * MINUTE, sts=4 * MINUTE, s3=8 * MINUTE),
            lag=40 * MINUTE,
        )
        self._explorer = self.explorers(world, retry=5 * MINUTE, hold=45 * MINUTE)
        self._canon = Canon(FAR, world.delays.list, world.lag)
        self._states: list[State] = []
        self._numbers: dict[int, int] = {}
        self._good: set[int] = set()
        self.report = Report(model)

    def run(self, limit: int, seconds: float = float("inf")) -> Report:
        """Explore until so many distinct states are known, or all of them, or time is up."""
        began = time.monotonic()
        self._end = began + seconds
        with self._explorer.running():
            layer = self._calm_line(self._found(self._explorer.start, -1, CALM, 0))
            while layer and self._room(limit):
                layer = self._next_layer(layer, limit)
        self.report.states = len(self._states)
        self.report.seconds = time.monotonic() - began
        return self.report

    def _room(self, limit: int) -> bool:
        return len(self._states) < limit and time.monotonic() < self._end

    def _next_layer(self, layer: list[State], limit: int) -> list[State]:
        """Do one more piece of mischief everywhere; follow each to where it comes to rest."""
        found: list[State] = []
        for state in layer:
            if not self._room(limit):
                return []
            for new in self._mischief_at(state):
                found += self._calm_line(new)
            state.truth = state.calm = None  # it will not be left again
        self.report.mischief += 1
        return found

    def _mischief_at(self, state: State) -> Iterator[State]:
        assert state.truth is not None
        assert state.calm is not None
        for move in self._mischief(state, state.truth, state.calm):
            truth = self._apply(state, state.truth, move).truth
            deeds = state.deeds + isinstance(move, Deed)
            if self._is_new(truth):
                yield self._found(truth, state.number, move, deeds)

    def _mischief(self, _state: State, truth: Truth, calm: Outcome) -> Iterator[Move]:
        return mischief(truth, calm)

    def _calm_line(self, state: State) -> list[State]:
        """Follow the calm way to a state that is known to come to rest; return the new states."""
        line: list[State] = []
        new = [state]
        held = 0
        while state.number not in self._good:
            line.append(state)
            if len(line) > STUCK:
                self._fail(state, (), "L1: it never comes to rest, and it holds for no reason")
            outcome = self._calm(state)
            held = held + 1 if outcome.hold else 0
            if self._ended(state, outcome, held):
                self._good.update(member.number for member in line)
            if self._is_new(outcome.truth):
                state = self._found(outcome.truth, state.number, CALM, state.deeds)
                new.append(state)
            else:
                state = self._states[self._numbers[self._hash(outcome.truth)]]
        self._good.update(member.number for member in line)
        return new

    def _calm(self, state: State) -> Outcome:
        if state.calm is None:
            assert state.truth is not None
            state.calm = self._apply(state, state.truth, CALM)
        return state.calm

    def _ended(self, state: State, outcome: Outcome, held: int) -> bool:
        if any(sink.trouble for sink in outcome.truth.sinks.values()):
            return True  # this fault has not ceased
        if outcome.rest and outcome.rest > AT_REST:
            self._apply(state, self._truth(state), CALM)
            missing = self._explorer.world.l1()
            if missing:
                self._fail(state, (CALM,), missing)
            return True
        if held <= HELD:
            return False
        if not self._excused(state, outcome):
            self._fail(state, (CALM,), f"L1: held ({outcome.hold}) although nobody did anything")
        self.report.holds[outcome.hold or ""] += 1
        return True

    def _excused(self, state: State, _held: Outcome) -> bool:
        """A hold for good wants a person who has caused it."""
        return state.deeds > 0

    def _truth(self, state: State) -> Truth:
        assert state.truth is not None
        return state.truth

    def _apply(self, state: State, truth: Truth, move: Move) -> Outcome:
        self.report.moves += 1
        try:
            return self._explorer.apply(truth, move)
        except Violation as violation:
            self._fail(state, (move,), str(violation))

    def _hash(self, truth: Truth) -> int:
        return hash(self._canon.key(truth))

    def _is_new(self, truth: Truth) -> bool:
        self._latest = self._hash(truth)
        return self._latest not in self._numbers

    def _found(self, truth: Truth, parent: int, move: Move, deeds: int) -> State:
        number = len(self._states)
        self._numbers[self._hash(truth)] = number
        state = State(number, truth, parent, move, deeds)
        self._states.append(state)
        return state

    def _fail(self, state: State, moves: tuple[Move, ...], what: str) -> NoReturn:
        path: list[Move] = list(moves)
        while state.parent >= 0:
            path.insert(0, state.move)
            state = self._states[state.parent]
        told = self._explorer.retell(path)
        raise Violation(f"{what.splitlines()[0]}\n\n{told}")


def mischief(truth: Truth, calm: Outcome) -> Iterator[Move]:
    """Name everything that can go otherwise than calmly, here and now."""
    yield from _faults(calm)
    yield from _shown(calm)
    yield from _deeds(truth)
    for duration in DOWN:
        yield Wait(duration)


STRIKING = (
    Fault.CRASH_BEFORE,
    Fault.CRASH_COMMITTED,
    Fault.LOST_COMMITTED,
    Fault.DISK_FULL,
    Fault.DISK_FULL_BUT_DURABLE,
    Fault.SLOW,
)


def _faults(calm: Outcome) -> Iterator[Move]:
    """Those that leave something behind: the enumeration of crashes tries the others as well."""
    for number, call in enumerate(calm.calls):
        if call in TOLD:
            for fault in STRIKING:
                if fault in POSSIBLE[call]:
                    yield Cycle(((number, fault),))
        elif call == "sink.read":
            yield Cycle(((number, Fault.LOST_BEFORE),))


def _shown(calm: Outcome) -> Iterator[Move]:
    """One answer old, or all of them."""
    options = calm.options
    for turn, count in enumerate(options):
        for option in range(1, count):
            yield Cycle(shown=(*(0,) * turn, option))
    if len(options) > 1:
        yield Cycle(shown=tuple(count - 1 for count in options))


def _deeds(truth: Truth) -> Iterator[Move]:
    """Whatever a person can do with the keys, the sinks, the user and rekeyd's commands."""
    for key in truth.living:
        yield from _key_deeds(truth, key)
    for name, sink in truth.sinks.items():
        yield from _sink_deeds(truth, name, sink)
    if len(truth.living) < 2 and truth.user_id:
        yield Deed("person_creates")
    if not truth.requests:
        for kind in ("rotate", "revoke", "rollback"):
            yield Deed("ask", (kind,))
    if truth.user_id and truth.user_id != truth.custody.user_id:
        yield Deed("ask", ("adopt", truth.user_id))
    elif len(truth.users) < 2:
        yield Deed("person_replaces_user")


def _key_deeds(truth: Truth, key: TrueKey) -> Iterator[Move]:
    yield Deed("person_deletes", (key.id,))
    if key.status == INACTIVE:
        yield Deed("person_activates", (key.id,))
    else:
        yield Deed("person_deactivates", (key.id,))
        if _known(truth, key):
            yield Deed("use_key", (key.id,))
    if key.id not in {pair.key_id for pair in truth.custody.pairs}:
        yield Deed("ask", ("adopt", key.id))


def _sink_deeds(truth: Truth, name: str, sink: TrueSink) -> Iterator[Move]:
    held = sink.pair.key_id if sink.pair else None
    if held:
        yield Deed("person_writes", (name, None))
    for key in truth.living:
        if key.id != held and _known(truth, key):
            yield Deed("person_writes", (name, key.id))
    for trouble in (None,) if sink.trouble else ("down", "full"):
        yield Deed("trouble", (name, trouble))


def _known(truth: Truth, key: TrueKey) -> bool:
    """Whether anybody outside can have its secret."""
    held = any(key.id in sink.held for sink in truth.sinks.values())
    return held or key.maker == PERSON or bool(truth.holders(key.id))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--states", type=int, default=100_000, help="distinct states, per model")
    parser.add_argument("--model", choices=MODELS, action="append")
    arguments = parser.parse_args()
    for model in arguments.model or MODELS:
        try:
            print(ModelCheck(model).run(arguments.states), flush=True)
        except Violation as violation:
            print(f"{model}: {violation}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
