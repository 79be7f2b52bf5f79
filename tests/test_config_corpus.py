"""Bad settings: the command refuses each with 78 and one clear line for every mistake, at its line.

A file of the corpus begins with a comment; `%%` divides what follows. In `whole.txt` each part is a
file. In the others the first part has a line with `{}`, and each line of the second part is put
there in turn. A line with a mistake is followed by `#!` and what is said of it; where no comment
can stand, the first line says `#!LINE` instead.
"""

import re
from collections import Counter
from pathlib import Path

import pytest

from rekeyd import cli
from rekeyd.config import parse
from rekeyd.errors import Misconfigured

CORPUS = Path(__file__).parent / "corpus" / "settings"


def filled(file, gap, rows):
    line = gap[: gap.index("{}")].count("\n") + 1
    for row in rows.splitlines():
        setting, *said = row.split(" #! ")
        yield pytest.param(
            gap.replace("{}", setting, 1), [(line, s) for s in said], id=f"{file.stem}: {setting}"
        )


def written(file, number, text):
    said = []
    for at, line in enumerate(text.splitlines(), 1):
        first, *rest = re.split(r"#!(?=\d| )", line)
        elsewhere = re.match(r"\d+", rest[0]) if rest and not first else None
        where = int(elsewhere[0]) if elsewhere else at
        said += [(where, re.sub(r"^\d*", "", s).strip()) for s in rest]
    return pytest.param(text, said, id=f"{file.stem}: {number}")


def cases():
    for file in sorted(CORPUS.glob("*.txt")):
        _, *parts = file.read_text(encoding="utf-8").split("%%\n")
        if file.stem == "whole":
            yield from (written(file, n, text) for n, text in enumerate(parts, 1))
        else:
            yield from filled(file, *parts)


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    """Run `rekeyd check --offline` on a file with this text; return the exit code and the lines."""

    def run(text):
        monkeypatch.chdir(tmp_path)
        Path("rekeyd.yaml").write_text(text, encoding="utf-8")
        monkeypatch.setattr("sys.argv", ["rekeyd", "-c", "rekeyd.yaml", "check", "--offline"])
        with pytest.raises(SystemExit) as left:
            cli.main()
        shown = capsys.readouterr()
        assert shown.out == ""
        return left.value.code, shown.err.splitlines()

    return run


@pytest.mark.parametrize(("text", "said"), list(cases()))
def test_every_mistake_is_one_line_with_its_place_and_what_would_be_right(text, said, check):
    code, [*lines, advice] = check(text)

    assert (code, advice) == (78, "  → correct the file; `rekeyd check --offline` reads it again")
    found = [re.fullmatch(r"rekeyd\.yaml:(\d+): (.*)", line) for line in lines]
    assert Counter(int(f[1]) for f in found) == Counter(line for line, _ in said), lines
    for line, fragment in said:
        assert any(int(f[1]) == line and f[2].startswith(fragment) for f in found), lines
    assert all(line.isprintable() for line in lines)


def test_what_the_parser_saw_is_not_chained_to_the_refusal():
    for case in cases():
        with pytest.raises(Misconfigured) as refused:
            parse(case.values[0], "rekeyd.yaml")
        assert refused.value.__cause__ is None
        assert refused.value.__suppress_context__ or refused.value.__context__ is None


def test_the_corpus_is_large():
    assert sum(1 for _ in cases()) >= 300
