"""The HTTP sinks and their described servers, for the contract of all sinks."""

from contextlib import contextmanager

from cases_http import CASES as DESCRIBED
from contract import Case, Place

from rekeyd.secret import AccessPair, Secret


def case(described):
    @contextmanager
    def place(_):
        with described.staged() as stage:

            def look():
                # A write-only sink cannot know what is there: it may send the same again.
                return stage.held(), stage.server.writes if stage.sink.readable else None

            yield Place(
                open=lambda: stage.sink,
                consumer=lambda: pair(stage.held()),
                look=look,
                deny=stage.refuse_token,
                check_notices=described.check_proves_token,
            )

    return Case(described.kind, place)


def pair(held):
    return held and AccessPair(held[0], Secret(held[1]))


CASES = [case(described) for described in DESCRIBED]
