"""Every crash point of every rotation, and every pair of them, with the real program.

Each call that the program makes on its way goes wrong in every way of `world.POSSIBLE`; in the rest
of that look, and on the way back, each call goes wrong once more. S1 to S4 are checked at every
effect; at every end there is exactly one Active key, and every sink holds it.
"""

import ast
import inspect
from collections import Counter
from typing import get_args

import pytest

from rekeyd import ports
from rekeyd.steps import Hold, Step
from replica_check import ReplicaCheck
from world import MINUTE, POSSIBLE, proof
from world.enumeration import Enumeration, Tally
from world.explore import CORE
from world.scenarios import (
    SCENARIOS,
    Scenario,
    expected_holds,
    name,
    prepared,
    repair_overwritten,
)

pytestmark = pytest.mark.proof

PORTS = {
    "iam": ports.Iam,
    "consumer": ports.Consumer,
    "sink": ports.Sink,
    "store": ports.CustodyStore,
    "sealer": ports.Sealer,
}


@pytest.mark.parametrize("fronts", ["at once", "five minutes late"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=name)
def test_no_two_faults_break_a_rotation(scenario: Scenario, fronts: str) -> None:
    late = fronts != "at once"
    world = prepared(scenario, delay=5 * MINUTE if late else 0 * MINUTE)

    with proof.counting("crash", f"{name(scenario)}, fronts {fronts}") as counted:
        tally = Enumeration(world, stalest=late).run()

        assert set(tally.holds) == expected_holds(scenario), "faults that cease leave no hold"
        assert tally.pairs > tally.singles > 10
        counted.update(figures(tally))


@pytest.mark.parametrize(
    "scenario",
    [s for s in SCENARIOS if name(s) in {"normal with file", "first with file"}],
    ids=name,
)
def test_where_keys_have_no_dates_an_interrupted_mint_asks_a_person(scenario: Scenario) -> None:
    world = prepared(scenario)
    world.dated = False

    with proof.counting("crash", f"{name(scenario)}, in a store without dates") as counted:
        tally = Enumeration(world).run()

        assert set(tally.holds) == {"interrupted"}
        counted.update(figures(tally))


TELLING = [s for s in SCENARIOS if "box" not in s[1] and s[0] is not repair_overwritten]
"""Those in which IAM and the sinks tell all that matters. Nobody can know what a write-only sink
was given, nor that a repair has begun the overlap anew, once the state has forgotten it."""


@pytest.mark.parametrize("scenario", TELLING, ids=name)
def test_a_state_that_went_back_harms_nothing(scenario: Scenario) -> None:
    """What was saved may be lost later: by a backup put back, or a bit that flips in the log."""
    world, tried, holds = prepared(scenario), 0, Counter()
    with proof.counting("back", name(scenario)) as counted:
        line = Enumeration(world).calm()
        for number, truth in enumerate(line):
            for earlier in line[:number]:
                if earlier.custody != truth.custody:
                    world.truth = truth
                    world.person_puts_back(earlier.custody)
                    again = Enumeration(world)
                    again.calm()
                    holds += again.tally.holds
                    tried += 1
        counted.update(states=tried, holds=holds.total())


def figures(tally: Tally) -> dict[str, int]:
    return {
        "singles": tally.singles,
        "pairs": tally.pairs,
        "at_once": tally.at_once,
        "states": tally.nodes,
    }


def test_every_method_of_every_port_has_its_faults_listed() -> None:
    methods = {
        f"{port}.{method}"
        for port, protocol in PORTS.items()
        for method, _ in inspect.getmembers(protocol, inspect.isfunction)
        if not method.startswith("_")
    }

    assert set(POSSIBLE) == methods


def test_every_call_that_the_program_can_make_goes_wrong_in_every_way() -> None:
    """And in every kind of step. What the program is told alike leads to one place."""
    possible = {(*place, fault) for place in _calls_of_the_core() for fault in POSSIBLE[place[-1]]}
    replicas = ReplicaCheck("a write-only sink")
    replicas.run(1_500)
    tried, steps = replicas.points & possible, {Hold}
    for scenario in SCENARIOS:
        tally = Enumeration(prepared(scenario), apart=False, each=True).run()
        tried |= tally.points.keys()
        steps |= tally.steps

    with proof.counting("points", "all") as counted:
        assert tried == possible
        assert steps == {*get_args(Step)}
        counted.update(points=len(possible), places=len(_calls_of_the_core()))


def _calls_of_the_core() -> set[tuple[str, int, str]]:
    """Read from the source where the core calls which methods of the ports."""
    return {
        (module.__name__, node.func.end_lineno or 0, call)
        for module in CORE
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        for call in POSSIBLE
        if call.endswith(f".{node.func.attr}")
    }
