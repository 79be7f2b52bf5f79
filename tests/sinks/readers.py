"""How systemd and docker read a file of variables, written from their sources and documentation.

Written apart from `rekeyd.sinks.env_file`, character by character, so that the two can disagree.
The real programs are asked in the e2e tests.
"""

from pathlib import Path

BLANK = " \t\r\n"


def systemd_environment(path: Path) -> dict[str, str]:  # noqa: C901, PLR0912, PLR0915 - as there
    """Read as systemd does (src/basic/env-file.c, from 254 on)."""
    found = {}
    state = "before name"
    name = value = ""
    kept = 0  # as much of the value as is no trailing blank
    for c in path.read_bytes().decode() + "\n":
        line_end = c in "\r\n"
        match state:
            case "before name":
                if c in "#;":
                    state = "comment"
                elif c not in BLANK:
                    state, name = "name", c
            case "comment":
                if line_end:
                    state = "before name"
            case "name":
                if line_end:
                    state = "before name"
                elif c == "=":
                    state, value, kept = "before value", "", 0
                else:
                    name += c
            case "before value" | "value" if line_end:
                found[name.strip()] = value[:kept] if state == "value" else value
                state = "before name"
            case "before value" if c in "'\"":
                state = c
            case "before value" if c in BLANK:
                pass
            case "before value" | "value" if c == "\\":
                state = "escaped"
            case "before value" | "value":
                state = "value"
                value += c
                kept = kept if c in BLANK else len(value)
            case "escaped":
                state = "value"
                value += "" if line_end else c
                kept = len(value)
            case "'":
                if c == "'":
                    state = "before value"
                else:
                    value += c
            case '"' if c == '"':
                state = "before value"
            case '"' if c == "\\":
                state = 'escaped "'
            case '"':
                value += c
            case 'escaped "':
                state = '"'
                value += c if c in '"\\`$' else "" if c == "\n" else "\\" + c
    assert state == "before name", "the file ends within a value"
    return found


def docker_environment(path: Path) -> dict[str, str]:
    """Read as `docker run --env-file` does (docker/cli, opts/file.go)."""
    found = {}
    for line in path.read_bytes().decode().split("\n"):
        text = line.removesuffix("\r").lstrip(" \t")
        name, equals, value = text.partition("=")
        if not text or text.startswith("#"):
            continue
        assert name, "no variable name"
        assert not any(c.isspace() for c in name), "the name has a blank"
        if equals:
            found[name] = value
    return found
