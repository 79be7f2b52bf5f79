"""Every crash point, and every pair of them: all ways in which a rotation can go wrong twice.

The calm way from a truth is one line: cycle after cycle until the program rests until the next
rotation. Each call on it can go wrong in every way of `POSSIBLE`; where that leads, a new line
begins, on which everything can go wrong once more. Lines that meet again are walked once.
"""

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from rekeyd.steps import Step
from world.canon import Canon
from world.checker import Violation
from world.explore import CALM, LONG, Explorer, Move, Wait, faulted
from world.faults import Fault
from world.truth import Truth
from world.world import HOUR, World

FAR = 40 * HOUR
AT_REST = 6 * HOUR
"""A rest this long can only be one for the next rotation."""
HELD = 16
"""Looks a quarter of an hour apart after which a hold is one for good."""
STUCK = 400
"""Cycles after which the program can be said never to come to rest."""

Key = tuple[Any, ...]


@dataclass(slots=True)
class Node:
    truth: Truth
    came: tuple[Key, tuple[Move, ...]] | None
    next: Key | None = None
    faults: list[Key] | None = None
    calls: tuple[str, ...] = ()
    end: str | None = None


@dataclass
class Tally:
    """What was tried."""

    points: Counter[tuple[str, Fault]] = field(default_factory=Counter)
    singles: int = 0
    pairs: int = 0
    holds: Counter[str] = field(default_factory=Counter)
    nodes: int = 0
    steps: set[type[Step]] = field(default_factory=set)


class Enumeration:
    """Enumerates one scenario. `violations` are stories."""

    def __init__(
        self,
        world: World,
        *,
        faults: int = 2,
        down: tuple[timedelta, ...] = (LONG,),
        stalest: bool = False,
    ) -> None:
        self._explorer = Explorer(world, stalest=stalest)
        self._canon = Canon(FAR, world.delays.list, world.lag)
        self._nodes: dict[Key, Node] = {}
        self._faults = faults
        self._down = (timedelta(), *down)
        self.tally = Tally()

    def run(self) -> Tally:
        """Try everything. Raises `Violation` with the story of the first that is found."""
        start = self._node(self._explorer.start, None)
        with self._explorer.running():
            lines = {start}
            for budget in range(self._faults, -1, -1):
                walked = {key for line in lines for key in self._walk(line)}
                if budget:
                    lines = {hit for key in walked for hit in self._strike(key, budget)}
        counts: dict[tuple[Key, int], int] = {}
        self.tally.singles = self._count(start, 1, counts)
        self.tally.pairs = self._count(start, 2, counts)
        self.tally.nodes = len(self._nodes)
        return self.tally

    def _node(self, truth: Truth, came: tuple[Key, tuple[Move, ...]] | None) -> Key:
        key = self._canon.key(truth)
        if key not in self._nodes:
            self._nodes[key] = Node(truth, came)
        return key

    def _walk(self, key: Key) -> list[Key]:
        """Walk the calm line from here to its end; return what is on it."""
        line, held = [], 0
        seen: set[Key] = set()
        while True:
            node = self._nodes[key]
            if node.next is None and node.end is None:
                held = self._advance(key, node, held)
            if node.end is not None:
                line.append(key)
                return line
            if key in seen or len(line) > STUCK:
                self._fail(key, (), "L1: it never comes to rest")
            seen.add(key)
            line.append(key)
            assert node.next is not None
            key = node.next

    def _advance(self, key: Key, node: Node, held: int) -> int:
        try:
            outcome = self._explorer.apply(node.truth, CALM)
        except Violation as violation:
            self._fail(key, (CALM,), str(violation))
        node.calls = outcome.calls
        decision = self._explorer.world.diary.decision
        if decision:
            self.tally.steps.add(type(decision.step))
        held = held + 1 if outcome.hold else 0
        if outcome.rest and outcome.rest > AT_REST:
            missing = self._explorer.world.l1()
            if missing:
                self._fail(key, (CALM,), missing)
            node.end = "rest"
            return held
        node.next = self._node(outcome.truth, (key, (CALM,)))
        if outcome.hold and (held > HELD or node.next == key):
            node.next, node.end = None, f"hold {outcome.hold}"
            self.tally.holds[outcome.hold] += 1
        return held

    def _strike(self, key: Key, budget: int) -> list[Key]:
        """Let each call of this cycle go wrong in every way; return where that leads."""
        node = self._nodes[key]
        if node.faults is not None:
            return node.faults
        node.faults = []
        for move in faulted(node.calls):
            self.tally.points[node.calls[move.call], move.fault] += 1
            try:
                outcome = self._explorer.apply(node.truth, move)
            except Violation as violation:
                self._fail(key, (move,), str(violation))
            for pause in self._down if move.fault.kills else self._down[:1]:
                moves: tuple[Move, ...] = (move, Wait(pause)) if pause else (move,)
                truth = outcome.truth
                if pause:
                    truth = self._explorer.apply(truth, Wait(pause)).truth
                node.faults.append(self._node(truth, (key, moves)))
        return node.faults

    def _count(self, key: Key | None, faults: int, counts: dict[tuple[Key, int], int]) -> int:
        """Return in how many ways exactly that many faults can strike from here on."""
        if faults == 0:
            return 1
        line: list[Key] = []
        while key is not None and (key, faults) not in counts:
            line.append(key)
            key = self._nodes[key].next
        total = counts[key, faults] if key is not None else 0
        for visited in reversed(line):
            hits = self._nodes[visited].faults or []
            total += sum(self._count(hit, faults - 1, counts) for hit in hits)
            counts[visited, faults] = total
        return total

    def _fail(self, key: Key, moves: tuple[Move, ...], what: str) -> None:
        path: list[Move] = list(moves)
        at: Key | None = key
        while at is not None:
            came = self._nodes[at].came
            if came is None:
                break
            at, steps = came
            path[:0] = steps
        story = self._explorer.retell(path)
        raise Violation(f"{what.splitlines()[0]}\n\n{story}")
