"""The `rekeyd` command. `credentials` is in the hot path of backups: it starts without the rest."""

import gc
import sys


def main() -> int:
    """Run the command line and return the exit code."""
    if sys.argv[1:2] == ["credentials"]:
        from rekeyd import credentials  # noqa: PLC0415 - only what this run needs

        return credentials.main(sys.argv[2:])
    gc.set_threshold(20_000)  # what imports make stays: seeking garbage in it costs a tenth of them
    from rekeyd import cli  # noqa: PLC0415 - only what this run needs

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
