"""Every crash point, and every pair of them: all ways in which a rotation can go wrong twice.

The calm way from a truth is one line: cycle after cycle until the program rests until the next
rotation. Each call on it can go wrong in every way of `POSSIBLE`; in what is left of that cycle,
and on the new line that begins where it leads, everything can go wrong once more. Lines that meet
again are walked once, and so are those that differ in what people are told alone.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NoReturn

from rekeyd.steps import Step
from world.canon import Canon
from world.checker import Violation
from world.explore import CALM, LONG, Cycle, Explorer, Move, Outcome, Point, Wait
from world.faults import told_alike
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

Hits = dict[int, Counter[Key]]
"""Where so many faults in one cycle lead, and in how many ways."""


@dataclass(slots=True)
class Node:
    truth: Truth
    came: tuple[Key, tuple[Move, ...]] | None
    next: Key | None = None
    hits: Hits | None = None
    calls: tuple[str, ...] = ()
    end: str | None = None


@dataclass
class Tally:
    """What was tried."""

    points: Counter[Point] = field(default_factory=Counter)
    singles: int = 0
    pairs: int = 0
    at_once: int = 0
    """Those of the pairs that strike one cycle twice."""
    holds: Counter[str] = field(default_factory=Counter)
    """Those at the ends, but where only a person can know."""
    nodes: int = 0
    steps: set[type[Step]] = field(default_factory=set)


class Enumeration:
    """Enumerates one scenario. `violations` are stories."""

    def __init__(
        self,
        world: World,
        *,
        apart: bool = True,
        each: bool = False,
        down: tuple[timedelta, ...] = (LONG,),
        stalest: bool = False,
    ) -> None:
        """Two faults strike; unless `apart`, in one cycle only.

        With `each`, faults that the program is told alike strike one by one, and must lead to one
        place; else the first of them counts for all.
        """
        self._explorer = Explorer(world, stalest=stalest)
        self._canon = Canon(FAR, world.delays.list, world.lag)
        self._nodes: dict[Key, Node] = {}
        self._apart = apart
        self._each = each
        self._down = down
        self.tally = Tally()

    def run(self) -> Tally:
        """Try everything. Raises `Violation` with the story of the first that is found."""
        start = self._node(self._explorer.start, None)
        with self._explorer.running():
            lines: dict[int, set[Key]] = defaultdict(set)
            lines[2].add(start)
            for budget in (2, 1, 0):
                walked = {key for line in lines[budget] for key in self._walk(line)}
                for key in walked if budget else ():
                    for used, hits in self._strike(key, budget).items():
                        lines[budget - used if self._apart else 0].update(hits)
        counts: dict[tuple[Key, int], int] = {}
        self.tally.singles = self._count(start, 1, counts)
        self.tally.pairs = self._count(start, 2, counts)
        self.tally.at_once = sum(self._hits(key, 2).total() for key in self._walk(start))
        self.tally.nodes = len(self._nodes)
        return self.tally

    def calm(self) -> list[Truth]:
        """Walk the calm way, on which nothing goes wrong; return what is on it."""
        with self._explorer.running():
            line = self._walk(self._node(self._explorer.start, None))
        return [self._nodes[key].truth for key in line]

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
        outcome = self._apply(key, CALM)
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
            if outcome.hold != "interrupted" or not self._explorer.world.minted_late:
                self.tally.holds[outcome.hold] += 1
        return held

    def _strike(self, key: Key, budget: int) -> Hits:
        """Let each call of this cycle go wrong in every way; return where that leads."""
        node = self._nodes[key]
        if node.hits is None:
            node.hits = self._strike_on(key, CALM, node.calls, budget)
        return node.hits

    def _strike_on(self, key: Key, so_far: Cycle, calls: Sequence[str], budget: int) -> Hits:
        """Let what a cycle still does after some faults go wrong once more, and so on."""
        hits: Hits = defaultdict(Counter)
        first = so_far.strikes[-1][0] + 1 if so_far.strikes else 0
        for number, call in [*enumerate(calls)][first:]:
            for alike in told_alike(call):
                faults = alike if self._each else alike[:1]
                moves = [Cycle((*so_far.strikes, (number, fault))) for fault in faults]
                led, *others = (self._strike_with(key, move, budget) for move in moves)
                if any(other != led for other in others):
                    self._fail(key, moves[:1], f"not alike: {alike}")
                for strikes, ways in led.items():
                    hits[strikes].update({hit: ways[hit] * len(alike) for hit in ways})
        return hits

    def _strike_with(self, key: Key, move: Cycle, budget: int) -> Hits:
        outcome = self._apply(key, move)
        self.tally.points.update(outcome.struck[-1:])
        truth = outcome.truth
        hit = key if truth is self._nodes[key].truth else self._node(truth, (key, (move,)))
        hits: Hits = {len(move.strikes): Counter([hit])}
        if move.kills:
            for pause in map(Wait, self._down):
                later = self._explorer.apply(truth, pause).truth
                hits[len(move.strikes)][self._node(later, (key, (move, pause)))] += 1
        elif len(move.strikes) < budget:
            hits |= self._strike_on(key, move, outcome.calls, budget)
        return hits

    def _hits(self, key: Key, faults: int) -> Counter[Key]:
        return (self._nodes[key].hits or {}).get(faults, Counter())

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
            for used in range(1, faults + 1):
                for hit, ways in self._hits(visited, used).items():
                    total += ways * self._count(hit, faults - used, counts)
            counts[visited, faults] = total
        return total

    def _apply(self, key: Key, move: Move) -> Outcome:
        try:
            return self._explorer.apply(self._nodes[key].truth, move)
        except Violation as violation:
            self._fail(key, (move,), str(violation))

    def _fail(self, key: Key, moves: tuple[Move, ...], what: str) -> NoReturn:
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
