"""What this process has in memory is nobody else's: it holds secrets while it works."""

import ctypes
import resource

PR_SET_DUMPABLE = 4  # prctl(2), linux/prctl.h


def keep_private() -> None:
    """Leave no core, also not to a program that collects them, and let no debugger in.

    Other processes of the same user then cannot read `/proc/PID/mem` and `environ` (ptrace(2),
    "Ptrace access mode checking"). Where the kernel is not Linux's, only the core's size is zero.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if prctl := getattr(ctypes.CDLL(None), "prctl", None):
        prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
