"""The changes of `make mutants`: every kind is made, each alone, and none that changes nothing."""

from textwrap import dedent

import pytest

from mutators import mutants


def changes(source: str) -> set[tuple[str, str]]:
    """Return the kind of every change, and the source that it leads to."""
    made = mutants("module", dedent(source))
    assert all(mutant.source != dedent(source).strip() for mutant in made)
    assert len({mutant.source for mutant in made}) == len(made)
    return {(mutant.kind, mutant.source) for mutant in made}


@pytest.mark.parametrize(
    ("source", "kind", "expected"),
    [
        ("a < b", "comparison", {"a <= b", "a >= b"}),
        ("a < b <= c", "comparison", {"a <= b <= c", "a >= b <= c", "a < b < c", "a < b > c"}),
        ("a is b", "comparison", {"a is not b"}),
        ("a in b", "comparison", {"a not in b"}),
        ("a and b", "boolean", {"a or b", "a", "b"}),
        ("not a", "boolean", {"a"}),
        ("a if b else c", "boolean", {"a if not b else c"}),
        ("[a for a in b if c]", "boolean", {"[a for a in b]"}),
        ("a + b", "arithmetic", {"a - b"}),
        ("a | b", "arithmetic", {"a & b"}),
        ("a = 7", "constant", {"a = 8", "a = 6"}),
        ("a = True", "constant", {"a = False"}),
        ("a = 'full'", "constant", {"a = 'not full'"}),
        ("a = 'text for people'", "constant", set()),
        ("a = f'full {b[1]}'", "constant", {"a = f'full {b[2]}'", "a = f'full {b[0]}'"}),
        ("a = f(b)", "statement", {"pass"}),
        ("raise a", "statement", {"pass"}),
        ("with a, b:\n    pass", "statement", {"with b:\n    pass", "with a:\n    pass"}),
        ("with a:\n    pass", "statement", {"pass"}),
        ("f(a, b=c)", "argument", {"f(b=c)", "f(a)"}),
        ("def f():\n    return a", "return value", {"def f():\n    return None"}),
        ("def f():\n    return True", "constant", {"def f():\n    return False"}),
        ("def f():\n    return True", "return value", set()),
        ("def f():\n    return None", "statement", set()),
        (
            "try:\n    a\nexcept (b, c):\n    d",
            "exception",
            {
                "try:\n    a\nexcept (b, c):\n    raise",
                "try:\n    a\nexcept (c,):\n    d",
                "try:\n    a\nexcept (b,):\n    d",
            },
        ),
        ("try:\n    a\nfinally:\n    b", "exception", {"a"}),
        ("@f(1)\ndef g(a: h(1)) -> h(1):\n    pass", "constant", set()),
    ],
)
def test_each_kind_of_change_is_made(source: str, kind: str, expected: set[str]) -> None:
    assert {after for its_kind, after in changes(source) if its_kind == kind} == expected


def test_a_change_tells_where_it_is_and_what_it_is() -> None:
    [first, *_] = mutants("rules", "class A:\n    def f(self):\n        return a < b\n")

    assert first.key == ("rules", "A.f", "return a < b → return None")
    assert first.line == 3
