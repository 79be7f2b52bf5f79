"""Every small change that `mutate.py` makes to a module, each alone.

The usual ones: another comparison, `and` for `or`, another operation, a constant one off, no
statement, no argument, no operand of a condition, no value returned, nothing caught. Decorators,
annotations and texts for people are left alone.
"""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SWAPS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.BitOr: (ast.BitAnd,),
    ast.BitAnd: (ast.BitOr,),
    ast.Pow: (ast.Mult,),
}
UNTOUCHED = {"decorator_list", "annotation", "returns"}
REMOVABLE = (ast.Expr, ast.Assign, ast.AugAssign, ast.Raise, ast.Continue, ast.Break, ast.Delete)

Place = tuple[tuple[str, int | None], ...]
Change = tuple[str, str, Any]
"""What kind it is, how it is told, and what comes instead."""


@dataclass(frozen=True)
class Mutant:
    """One change: where it is, and the source of the module with it."""

    module: str
    line: int
    function: str
    kind: str
    change: str
    source: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.module, self.function, self.change


def mutants(module: str, source: str) -> list[Mutant]:
    """Make every change to a module, each alone. No two lead to the same source."""
    tree = ast.parse(source)
    found: dict[str, Mutant] = {}
    for place, function in _places(tree):
        before = _at(tree, place)
        if _is_last_return(_at(tree, place[:-1]), before):
            continue
        for kind, told, after in _changes(before):
            changed = copy.deepcopy(tree)
            _put(changed, place, after)
            text = ast.unparse(ast.fix_missing_locations(changed))
            line = getattr(before, "lineno", 0) or before.target.lineno
            found.setdefault(text, Mutant(module, line, function, kind, told, text))
    found.pop(ast.unparse(tree), None)
    return list(found.values())


def _places(node: ast.AST, place: Place = (), function: str = "") -> Iterator[tuple[Place, str]]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        function = f"{function}.{node.name}".lstrip(".")
    for name, value in ast.iter_fields(node):
        if name in UNTOUCHED:
            continue
        many = value if isinstance(value, list) else [value]
        for number, child in enumerate(many):
            in_text = isinstance(node, ast.JoinedStr) and isinstance(child, ast.Constant)
            if isinstance(child, ast.AST) and not in_text:
                here = (*place, (name, number if isinstance(value, list) else None))
                yield here, function
                yield from _places(child, here, function)


def _at(tree: ast.AST, place: Place) -> Any:
    found: Any = tree
    for name, number in place:
        found = getattr(found, name) if number is None else getattr(found, name)[number]
    return found


def _put(tree: ast.AST, place: Place, new: Any) -> None:
    """Put something in a place: a list of statements instead of one."""
    name, number = place[-1]
    parent = _at(tree, place[:-1])
    if number is None:
        setattr(parent, name, new)
    else:
        getattr(parent, name)[number : number + 1] = new if isinstance(new, list) else [new]


def _changes(node: Any) -> Iterator[Change]:
    for kind, after in [*_other_values(node), *_other_courses(node)]:
        yield kind, f"{_shown(node)} → {_shown(after)}", after
    yield from _without_arguments(node)
    yield from _uncaught(node)


def _other_values(node: Any) -> Iterator[tuple[str, ast.expr]]:
    """Change what an expression comes to."""
    match node:
        case ast.Compare(left, operators, right):
            for number, operator in enumerate(operators):
                for other in SWAPS[type(operator)]:
                    changed = [*operators[:number], other(), *operators[number + 1 :]]
                    yield "comparison", ast.Compare(left, changed, right)
        case ast.BoolOp(operator, values):
            yield "boolean", ast.BoolOp(SWAPS[type(operator)][0](), values)
            for number in range(len(values)):
                rest = [*values[:number], *values[number + 1 :]]
                yield "boolean", rest[0] if len(rest) == 1 else ast.BoolOp(operator, rest)
        case ast.BinOp(left, operator, right) if type(operator) in SWAPS:
            yield "arithmetic", ast.BinOp(left, SWAPS[type(operator)][0](), right)
        case ast.UnaryOp(op=ast.Not()):
            yield "boolean", node.operand
        case ast.Constant(value):
            for other in _other_constants(value):
                yield "constant", ast.Constant(other)


def _other_constants(value: object) -> Iterator[bool | float | str]:
    match value:
        case bool():
            yield not value
        case int() | float():
            yield value + 1
            yield value - 1
        case str() if not any(map(str.isspace, value)):
            yield f"not {value}"


def _other_courses(node: Any) -> Iterator[tuple[str, Any]]:
    """Change what is done next."""
    match node:
        case ast.Return(None | ast.Constant(None)):
            yield "statement", ast.Pass()
        case ast.Return(ast.Constant(bool())):
            pass  # the constant is changed
        case ast.Return():
            yield "return value", ast.Return(ast.Constant(None))
        case ast.If() | ast.IfExp() | ast.While() if _is_plain(node.test):
            changed = copy.copy(node)
            changed.test = ast.UnaryOp(ast.Not(), node.test)
            yield "boolean", changed
        case ast.comprehension(target, iterated, ifs, is_async) if ifs:
            yield "boolean", ast.comprehension(target, iterated, [], is_async)
        case ast.Expr(ast.Constant()):
            pass
        case _ if isinstance(node, REMOVABLE):
            yield "statement", ast.Pass()


def _without_arguments(node: Any) -> Iterator[Change]:
    """Leave out what a call is given, and what a block is within."""
    match node:
        case ast.Call(function, arguments, keywords):
            called = _shown(function)
            for number, given in enumerate(arguments):
                rest = [*arguments[:number], *arguments[number + 1 :]]
                told = f"{called}(…) without {_shown(given)}"
                yield "argument", told, ast.Call(function, rest, keywords)
            for number, keyword in enumerate(keywords):
                rest = [*keywords[:number], *keywords[number + 1 :]]
                told = f"{called}(…) without {_shown(keyword)}"
                yield "argument", told, ast.Call(function, arguments, rest)
        case ast.With(items, body):
            for number, item in enumerate(items):
                rest = [*items[:number], *items[number + 1 :]]
                told = f"not with {_shown(item)}"
                yield "statement", told, ast.With(rest, body) if rest else body


def _uncaught(node: Any) -> Iterator[Change]:
    """Let through what is caught, and leave out what is done in the end."""
    match node:
        case ast.ExceptHandler(caught, name, body):
            told = f"except {_shown(caught)}" if caught else "except"
            if not (isinstance(body[0], ast.Raise) and body[0].exc is None):
                again = ast.ExceptHandler(caught, name, [ast.Raise()])
                yield "exception", f"{told} → raise", again
            for kind in caught.elts if isinstance(caught, ast.Tuple) else ():
                fewer = ast.Tuple([other for other in caught.elts if other is not kind], ast.Load())
                handler = ast.ExceptHandler(fewer, name, body)
                yield "exception", f"{told} without {_shown(kind)}", handler
        case ast.Try(body, handlers, orelse, finalbody) if finalbody:
            calm = ast.Try(body, handlers, orelse, []) if handlers else [*body, *orelse]
            yield "exception", "no finally", calm


def _is_plain(test: ast.expr) -> bool:
    """Tell whether no other change negates this test."""
    return not isinstance(test, ast.Compare) and not (
        isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
    )


def _is_last_return(parent: Any, node: Any) -> bool:
    """Tell whether this is the `return None` with which a function ends in any case."""
    match node:
        case ast.Return(None | ast.Constant(None)):
            return isinstance(parent, ast.FunctionDef) and node is parent.body[-1]
    return False


def _shown(node: Any) -> str:
    """Return a node as one line that can stand between backticks in a table."""
    if isinstance(node, ast.If | ast.While):
        return f"if {_shown(node.test)}"
    text = ast.unparse(ast.fix_missing_locations(copy.deepcopy(node)))
    return " ".join(text.replace("`", "'").split())
