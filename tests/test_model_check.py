"""The model check of `make test`; `make soak` runs the same over more states."""

import pytest

from model_check import MODELS, ModelCheck
from replica_check import ReplicaCheck
from world import proof

pytestmark = pytest.mark.proof

STATES = 20_000
REPLICA_STATES = 4_000


@pytest.mark.parametrize("model", MODELS)
def test_no_state_within_reach_breaks_an_invariant(model: str) -> None:
    with proof.counting("model", model) as counted:
        report = ModelCheck(model).run(STATES)

        assert report.states >= STATES
        assert report.mischief >= 1, "everything that can go wrong once must have been tried"
        counted.update(states=report.states, moves=report.moves, mischief=report.mischief)


@pytest.mark.parametrize("model", MODELS)
def test_no_state_within_reach_of_replicas_breaks_an_invariant(model: str) -> None:
    with proof.counting("replicas", model) as counted:
        check = ReplicaCheck(model)
        report = check.run(REPLICA_STATES)

        assert report.states >= REPLICA_STATES
        assert check.stops > 100
        counted.update(states=report.states, moves=report.moves, stops=check.stops)
