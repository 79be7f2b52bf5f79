"""The world in which the tests run the program: see world.world."""

from world.checker import Violation
from world.faults import POSSIBLE, Chooser, Crash, Dice, Fault, Stalest
from world.truth import ABSENT, ACTIVE, INACTIVE, PERSON, START, US
from world.world import HOUR, MINUTE, NAME, NORMAL, Delays, World, every

__all__ = [
    "ABSENT",
    "ACTIVE",
    "HOUR",
    "INACTIVE",
    "MINUTE",
    "NAME",
    "NORMAL",
    "PERSON",
    "POSSIBLE",
    "START",
    "US",
    "Chooser",
    "Crash",
    "Delays",
    "Dice",
    "Fault",
    "Stalest",
    "Violation",
    "World",
    "every",
]
