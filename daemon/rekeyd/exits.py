"""Exit codes, as scripts and service managers read them: sysexits.h where it has one."""

from rekeyd.errors import Misconfigured, Refused, RekeydError, Transient

DONE = 0
FAILED = 1
CHANGES = 2
"""`--dry-run` found what would change. Wrong usage is 2 as well, by click's custom."""
HELD = 3
"""An identity waits for a person."""
UNREACHABLE = 75
"""Something could not be reached just now: EX_TEMPFAIL."""
CONFIG = 78
"""The configuration: EX_CONFIG. A service manager need not start it again."""
INTERRUPTED = 130
"""By Ctrl-C, as shells tell it: 128 + SIGINT."""


def exit_code(error: RekeydError) -> int:
    """Return the exit code that a failure leads to."""
    match error:
        case Misconfigured():
            return CONFIG
        case Transient():
            return UNREACHABLE
        case Refused():
            return HELD
        case _:
            return FAILED
