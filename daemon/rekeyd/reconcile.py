"""The loop: look, plan, perform, look again, until nothing is due before some later instant.

Start-up, a timer, a signal and recovery after `kill -9` all come here and are the same path.
"""

import time
from collections.abc import Callable

from rekeyd.errors import Permanent, Propagating, RekeydError
from rekeyd.model import Snapshot
from rekeyd.observe import look, must_be_fresh
from rekeyd.perform import perform
from rekeyd.ports import Identity, Witness
from rekeyd.requests import alike, grant
from rekeyd.rules import plan
from rekeyd.steps import Decision, Hold, Record, Rest
from rekeyd.view import sentence

WATCH = 300.0
"""Seconds between two looks at most: how soon a sink that somebody changed is repaired."""

SHORTEST, LONGEST = 1.0, 900.0
"""Seconds between two tries: the first, and the most that repeated failure leads to."""


class Reconciler:
    """Brings one identity to rest. Keeps nothing but the number of failures in a row."""

    def __init__(self, who: Identity, witness: Witness, stopping: Callable[[], bool]) -> None:
        self.who = who
        self._witness = witness
        self._stopping = stopping
        self._failures = 0

    def hurry(self) -> None:
        """Forget past failures, so that the next wait is short again."""
        self._failures = 0

    def advance(self) -> float:
        """Take steps until none is due; return the seconds until the next look."""
        try:
            return self._advance()
        finally:
            self.who.store.release(self.who.name)

    def _advance(self) -> float:
        granted = False
        while not self._stopping():
            decision = None
            try:
                self.who.store.claim(self.who.name)
                snapshot = look(self.who)
                if granted := not granted and self._grant(snapshot):
                    continue  # once between two plans, however fast people ask
                decision = plan(snapshot, self.who.timing)
                self._witness.saw(self.who, snapshot, decision)
                if isinstance(decision.step, Rest):
                    self._failures = 0
                    return min((decision.step.until - snapshot.now).total_seconds(), WATCH)
                if isinstance(decision.step, Hold):
                    return self._wait(SHORTEST * 15)
                must_be_fresh(snapshot)
                self._perform(snapshot, decision)
            except RekeydError as error:
                soon = isinstance(error, Propagating)
                retry = min(SHORTEST + self._failures / 4, 5.0) if soon else self._wait(SHORTEST)
                self._failures += soon
                rule = decision.rule if decision else "look"
                self._witness.failed(self.who.name, rule, error, retry)
                return retry
        return LONGEST

    def _perform(self, snapshot: Snapshot, decision: Decision) -> None:
        step, began = decision.step, time.monotonic()
        told = perform(self.who, snapshot, step) or sentence(step)
        self._failures = 0
        self._witness.did(self.who.name, decision, told, time.monotonic() - began)
        if isinstance(step, Record) and step.rotated:
            self._witness.rotated(self.who.name)

    def _grant(self, snapshot: Snapshot) -> bool:
        """Take the oldest request of a person into custody; tell whether there was one."""
        for request, numbers in alike(self.who.store.requests(self.who.name)):
            custody, refusal = None, None
            try:
                custody = grant(snapshot, request, self.who.timing)
            except Permanent as error:
                refusal = error
            self.who.store.settle(self.who.name, numbers, custody)
            self._witness.granted(self.who.name, request.kind, refusal)
            return True
        return False

    def _wait(self, first: float) -> float:
        self._failures += 1
        return min(first * 2.0 ** min(self._failures - 1, 10), LONGEST)
