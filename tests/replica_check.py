"""The second model: replicas on one state, each of which may be stopped in any call, for hours.

It is the model of model_check.py with a lease between the replicas. The mischief is that a process
is stopped before any effect while another replica goes on and a person asks for something; that it
meets another fault when it wakes, or is killed; and that it is killed at once, its claim not given
back. What else people and fronts do is the first model's.

    python tests/replica_check.py --states 100000
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from model_check import MODELS, ModelCheck, State
from world.checker import Violation
from world.explore import Cycle, Deed, Explorer, Move, Outcome, Point
from world.faults import POSSIBLE, Fault
from world.replicas import SharedWorld, Stop
from world.truth import Truth
from world.world import MINUTE, TOLD

STOPPED = (3 * MINUTE, 20 * MINUTE, 150 * MINUTE)
"""Within the lease; just past it; past everything that retires a key."""

ASKED = ("", "rotate", "revoke", "rollback")

STOPPABLE = TOLD | {"store.claim", "store.renew"}


@dataclass(frozen=True, slots=True)
class Stopped:
    """A process is stopped, and when it goes on, a fault may strike one of its later calls."""

    stop: Stop
    strikes: tuple[tuple[int, Fault], ...] = ()


class ReplicaExplorer(Explorer):
    """Applies these moves as well."""

    def apply(self, truth: Truth, move: Move | Stopped) -> Outcome:
        if not isinstance(move, Stopped):
            return super().apply(truth, move)
        assert isinstance(self.world, SharedWorld)
        self.world.stop = move.stop
        try:
            return super().apply(truth, Cycle(move.strikes))
        finally:
            self.world.stop = None


class ReplicaCheck(ModelCheck):
    """Explores one model with replicas. `points` are where its faults struck."""

    worlds = SharedWorld
    explorers = ReplicaExplorer

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.report.model = f"replicas with {model}"
        self.points: set[Point] = set()
        self.stops = 0

    def _mischief(self, state: State, truth: Truth, calm: Outcome) -> Iterator[Move]:
        for number, call in enumerate(calm.calls):
            if call in STOPPABLE:
                for fault in POSSIBLE[call]:
                    if fault is not Fault.SLOW:  # which is a stop in which nobody else goes on
                        yield Cycle(((number, fault),))
                yield from self._stops(state, truth, number)
        if not truth.requests:
            yield from (Deed("ask", (kind,)) for kind in ASKED if kind)

    def _excused(self, state: State, held: Outcome) -> bool:
        """Or a mint whose process was stopped for minutes and then killed."""
        late = held.hold == "interrupted" and self._explorer.world.minted_late
        return super()._excused(state, held) or late

    def _apply(self, state: State, truth: Truth, move: Move) -> Outcome:
        outcome = super()._apply(state, truth, move)
        self.points.update(outcome.struck)
        return outcome

    def _stops(self, state: State, truth: Truth, number: int) -> Iterator[Move]:
        for duration in STOPPED:
            for asked in ASKED if duration > STOPPED[0] else ASKED[:1]:
                move = Stopped(Stop(number, duration, asked))
                self.stops += 1
                yield move  # type: ignore[misc]
                if not asked or asked == "rollback":
                    calls = self._apply(state, truth, move).calls  # type: ignore[arg-type]
                    yield from self._struck(move.stop, calls)

    def _struck(self, stop: Stop, calls: tuple[str, ...]) -> Iterator[Move]:
        for number in range(stop.call + 1, len(calls)):
            if calls[number] in TOLD:
                for fault in POSSIBLE[calls[number]]:
                    yield Stopped(stop, ((number, fault),))  # type: ignore[misc]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--states", type=int, default=20_000, help="distinct states, per model")
    parser.add_argument("--model", choices=MODELS, action="append")
    arguments = parser.parse_args()
    for model in arguments.model or MODELS:
        check = ReplicaCheck(model)
        try:
            print(check.run(arguments.states), f"{check.stops:,} times stopped", flush=True)
        except Violation as violation:
            print(f"{model}: {violation}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
