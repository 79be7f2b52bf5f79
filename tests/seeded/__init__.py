"""Known bugs, sown into the program one at a time, to see that the checks would notice."""

from seeded.bugs import BUGS, Bug
from seeded.sow import sown

__all__ = ["BUGS", "Bug", "sown"]
