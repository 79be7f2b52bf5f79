"""Moves the world from truth to truth, one move at a time, with the real program.

A move is one cycle of the program (with a fault, or with what the fronts choose to show), a deed of
a person, or time that passes. Moves start from any truth that was kept, so a search can branch.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from rekeyd import observe, perform, reconcile
from rekeyd.steps import Hold, Rest
from world.checker import Violation
from world.faults import Chooser, Fault, Option
from world.truth import Truth
from world.world import HOUR, MINUTE, World


@dataclass(frozen=True, slots=True)
class Cycle:
    """The program looks, plans and performs once. Each fault strikes the call of its number."""

    strikes: tuple[tuple[int, Fault], ...] = ()
    shown: tuple[int, ...] = ()
    """Which option each front chooses, in the order of the calls: what is usual for all others."""

    @property
    def kills(self) -> bool:
        return any(fault.kills for _, fault in self.strikes)


@dataclass(frozen=True, slots=True)
class Deed:
    """A person does something: a method of `World` with its arguments."""

    method: str
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Wait:
    """Nobody does anything, the program neither: it is down."""

    duration: timedelta


Move = Cycle | Deed | Wait

Point = tuple[str, int, str, Fault]
"""Module and line of the program that make a call, the call, and what goes wrong with it."""

CORE = (observe, perform, reconcile)
"""The modules that call the ports."""

CALM = Cycle()
"""A cycle in which nothing goes wrong and every front shows the truth."""


@dataclass(slots=True)
class Outcome:
    """Where a move led."""

    truth: Truth
    calls: tuple[str, ...] = ()
    """The calls that the program made."""
    struck: tuple[Point, ...] = ()
    """Where its faults struck."""
    options: tuple[int, ...] = ()
    """How many answers each front could choose from, where there was a choice."""
    rest: timedelta | None = None
    """The program rested, and for how long; it has been slept already."""
    hold: str | None = None
    """The reason of its hold."""
    error: str | None = None


class _Shown(Chooser):
    """Chooses by number, and remembers how much choice there was."""

    def __init__(self, usual: int) -> None:
        self._usual = usual
        self.numbers: tuple[int, ...] = ()
        self.options: list[int] = []

    def choose(self, options: Sequence[Option]) -> Option:
        turn = len(self.options)
        self.options.append(len(options))
        number = self.numbers[turn] if turn < len(self.numbers) else self._usual
        return options[min(number, len(options) - 1)]


class Explorer:
    """Applies moves to truths on one world."""

    def __init__(
        self,
        world: World,
        *,
        retry: timedelta = MINUTE,
        hold: timedelta = 15 * MINUTE,
        stalest: bool = False,
    ) -> None:
        self.world = world
        self.start = world.truth
        self._retry = retry
        self._hold = hold
        self._shown = _Shown(-1 if stalest else 0)
        world.chooser = self._shown
        world.recording = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let moves be applied within."""
        with self.world.clock():
            yield

    def apply(self, truth: Truth, move: Move) -> Outcome:
        """Return where a move leads. Raises `Violation` when an invariant breaks on the way."""
        self.world.truth = truth
        match move:
            case Deed(method, arguments):
                getattr(self.world, method)(*arguments)
                return Outcome(self.world.truth)
            case Wait(duration):
                self.world.tell(f"{duration} pass while the program is down")
                return Outcome(truth.after(duration))
            case Cycle():
                return self._cycle(move)

    def _cycle(self, move: Cycle) -> Outcome:
        world = self.world
        self._shown.numbers, self._shown.options = move.shown, []
        strikes = dict(move.strikes)
        struck: list[Point] = []

        def fault(number: int, call: str) -> Fault | None:
            if number not in strikes:
                return None
            struck.append((*_caller(), call, strikes[number]))
            return strikes[number]

        world.faults = fault
        world.cycle()
        outcome = Outcome(
            world.truth, tuple(world.calls), tuple(struck), tuple(self._shown.options)
        )
        if world.diary.error is not None:
            outcome.error = str(world.diary.error)
            if not strikes:
                self._sleep(outcome, self._retry)
            return outcome
        step = world.diary.decision.step if world.diary.decision else None
        if isinstance(step, Hold):
            outcome.hold = step.reason
            if not strikes:
                self._sleep(outcome, self._hold)
        elif isinstance(step, Rest):
            rest = step.until - world.truth.now
            if world.unsettled:  # what it saw may be old: the next of its regular looks counts
                rest = min(rest, world.delays.list)
            else:
                outcome.rest = rest
            self._sleep(outcome, rest)
        return outcome

    def _sleep(self, outcome: Outcome, duration: timedelta) -> None:
        outcome.truth = outcome.truth.after(duration)

    def retell(self, moves: Iterable[Move]) -> str:
        """Return the story of moves from the start, as a person can read it."""
        world = self.world
        world.truth, world.story, world.recording = self.start, [], True
        world.checker.found.clear()
        try:
            truth = self.start
            for move in moves:
                truth = self.apply(truth, move).truth
        except Violation:
            pass  # the story ends where it happens
        finally:
            world.recording = False
            world.checker.found.clear()
        return "\n".join(world.story)


def _caller() -> tuple[str, int]:
    """Return where in the program a call is made."""
    names = {module.__name__ for module in CORE}
    frame = sys._getframe()
    while frame.f_globals["__name__"] not in names:
        assert frame.f_back
        frame = frame.f_back
    return frame.f_globals["__name__"], frame.f_lineno


LONG = 3 * HOUR
"""Longer than settle, overlap and grace together take: what a daemon that was down has missed."""
