"""The checks are checked: each of these bugs, sown into the program, must be noticed by one."""

import pytest

from seeded import BUGS, Bug, sown
from seeded.hunt import hunt
from world import proof

pytestmark = pytest.mark.proof


def test_there_are_at_least_forty_different_bugs() -> None:
    assert len({bug.changes for bug in BUGS}) == len({bug.name for bug in BUGS}) == len(BUGS)
    assert len(BUGS) >= 40


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_the_check_notices(bug: Bug) -> None:
    with proof.counting("seeded", bug.name) as counted:
        with sown(bug):
            found = hunt(bug.caught_by)

        assert found, f"{bug.caught_by} does not notice that {bug.name}"
        counted.update(caught_by=bug.caught_by, found=found)


TESTS = {bug.caught_by for bug in BUGS if not bug.caught_by.startswith(("crash", "model"))}
"""The other checks are those of the proofs, where they are silent over more states."""


@pytest.mark.parametrize("check", sorted(TESTS))
def test_without_a_bug_the_check_is_silent(check: str) -> None:
    assert hunt(check) is None
