"""`rekeyd credentials FILE`: the `credential_process` of an AWS SDK, which asks it again and again.

It runs once for every few minutes of every backup, so it imports next to nothing.
"""

import json
import os
import sys
import time

from rekeyd.errors import Misconfigured, Permanent, RekeydError, Transient

EXPIRES_IN = 960
"""Seconds until an SDK shall treat the answer as expired. The pair itself does not expire: this is
how long a consumer may go on with a superseded pair, so `overlap` must be longer.

botocore, and so boto3 and the AWS CLI, asks again once less than 15 min are left, and when that
fails goes on with what it has until 10 min are left (botocore.credentials, advisory and mandatory
refresh). With 15 min or less it would start this process for every request; with 16 it does so once
a minute and rides out five minutes of failures. Others ask again later: 5 min before the end
(JavaScript v3, CRT), 1 min (Java v2) or at the end (Go v2), so after 11 to 16 min."""

LONGEST = 43_200

HELP = f"""\
Usage: rekeyd credentials [--expires-in SECONDS] FILE

  Print the pair of a `credential_process` sink's FILE as AWS SDKs and the AWS
  CLI want it. They run this by themselves, again and again, and so change to a
  new pair without a restart. In ~/.aws/config of the user that backups run as:

      [profile backup]
      credential_process = /usr/bin/rekeyd credentials /srv/backup/pair.json

  The rotation's `overlap` must be longer than SECONDS: so long may a consumer
  use the older pair.

Options:
  --expires-in SECONDS  When SDKs ask again at the latest; {EXPIRES_IN} if left out.
                        boto3 and the AWS CLI ask 15 minutes before: at 900 or
                        less, for every request.
  -h, --help            Show this message and exit.
"""


def main(arguments: list[str]) -> int:
    """Print the answer of a `credential_process` and return the exit code."""
    if "--help" in arguments or "-h" in arguments:
        sys.stdout.write(HELP)
        return 0
    try:
        path, seconds = _usage(arguments)
        key_id, secret = _read(path)
    except RekeydError as error:
        sys.stderr.write(f"rekeyd: {error.in_full}\n")
        codes: dict[type[RekeydError], int] = {Transient: 75, Misconfigured: 78, Permanent: 2}
        return codes[type(error)]
    sys.stdout.write(document(key_id, secret, _instant(time.time() + seconds)))
    return 0


def document(key_id: str, secret: str, expiration: str | None = None) -> str:
    """Return a pair in the format that AWS documents for a `credential_process`."""
    fields: dict[str, object] = {"Version": 1, "AccessKeyId": key_id, "SecretAccessKey": secret}
    if expiration:
        fields["Expiration"] = expiration
    return json.dumps(fields) + "\n"


def parse(text: str) -> dict[str, str]:
    """Return the fields of such a document that are text. Raises `ValueError`, quoting nothing."""
    try:
        found = json.loads(text)
    except ValueError:
        raise ValueError("is not JSON") from None
    if not isinstance(found, dict) or found.get("Version") != 1:
        raise ValueError("is not the JSON of a credential_process, version 1")
    return {name: value for name, value in found.items() if isinstance(value, str)}


def _usage(arguments: list[str]) -> tuple[str, int]:
    seconds = EXPIRES_IN
    files = []
    rest = iter(arguments)
    for argument in rest:
        option, equals, value = argument.partition("=")
        if option == "--expires-in":
            seconds = _seconds(value if equals else next(rest, ""))
        elif option.startswith("-"):
            raise Permanent(f"no such option: {option}", "see `rekeyd credentials --help`")
        else:
            files.append(argument)
    if len(files) != 1:
        raise Permanent("name one FILE", "see `rekeyd credentials --help`")
    return files[0], seconds


def _seconds(value: str) -> int:
    if value.isdecimal() and value.isascii() and 1 <= int(value) <= LONGEST:
        return int(value)
    raise Permanent(f"--expires-in takes 1 to {LONGEST} seconds", "see `rekeyd credentials --help`")


def _read(path: str) -> tuple[str, str]:
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - pathlib costs as much as json
            fields = parse(file.read())
        return fields["AccessKeyId"], fields["SecretAccessKey"]
    except FileNotFoundError:
        raise Transient(
            f"{path} does not exist, so no pair was delivered there yet",
            "compare it with the sink's `path`, and see `rekeyd status`",
        ) from None
    except OSError as error:
        raise Misconfigured(
            f"{path} cannot be read by {_whoami()}: {error.strerror}",
            "set the sink's `mode`, `owner` and `group` so that the backup's user may read it",
        ) from None
    except KeyError:
        raise Misconfigured(f"{path} holds no pair", "see `rekeyd status`") from None
    except ValueError as error:
        what = "is not text" if isinstance(error, UnicodeDecodeError) else error
        raise Misconfigured(
            f"{path} {what}", "name the `path` of a sink of type credential_process"
        ) from None


def _whoami() -> str:
    return f"user {os.geteuid()}"


def _instant(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
