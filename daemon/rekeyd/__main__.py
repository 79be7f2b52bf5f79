"""The `rekeyd` command. `credentials` is in the hot path of backups: it starts without the rest."""

import sys


def main() -> int:
    """Run the command line and return the exit code."""
    if sys.argv[1:2] == ["credentials"]:
        from rekeyd import credentials  # noqa: PLC0415 - only what this run needs

        return credentials.main(sys.argv[2:])
    if "run" in sys.argv:
        _let_signals_wait()
    import gc  # noqa: PLC0415 - only what this run needs

    gc.disable()  # what imports make stays: to seek garbage in it costs a tenth of the start
    from rekeyd import cli, memory  # noqa: PLC0415 - only what this run needs

    gc.freeze()
    gc.enable()
    memory.keep_private()
    return cli.main()


def _let_signals_wait() -> None:
    """Keep what the daemon listens to until it does: it would end a process that still starts."""
    import signal  # noqa: PLC0415 - only what this run needs

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2})


if __name__ == "__main__":
    sys.exit(main())
