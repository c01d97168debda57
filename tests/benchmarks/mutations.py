"""Small faults in a module's source, made one at a time.

Each changes one comparison, boolean, number or condition, or leaves out one ``raise``, or one call
or ``yield`` that is a statement.
"""

import ast
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_DONE = (ast.Call, ast.Yield, ast.YieldFrom)
"""Expressions that do something where they are a statement."""
_FLIPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One small fault.

    Attributes:
        module: Where, by its full name.
        line: Of the original.
        what: What was done, with the original's text.
        source: The module as it is then.
    """

    module: str
    line: int
    what: str
    source: str

    @property
    def digest(self) -> str:
        """Names it."""
        return hashlib.sha256(f"{self.module} {self.source}".encode()).hexdigest()


def path_of(module: str) -> Path:
    """The file of a module."""
    return ROOT / f"{module.replace('.', '/')}.py"


def mutants(module: str) -> Iterator[Mutant]:
    """Every mutant of a module."""
    source = path_of(module).read_text()
    for position, node in enumerate(ast.walk(ast.parse(source))):
        for number in range(len(_edits(node))):
            tree = ast.parse(source)
            target = list(ast.walk(tree))[position]
            place, edit = _edits(target)[number]
            line: int = place.lineno  # type: ignore[attr-defined]
            what = f"{edit()}: {source.splitlines()[line - 1].strip()}"
            yield Mutant(module, line, what, ast.unparse(tree))


def _edits(node: ast.AST) -> list[tuple[ast.AST, Callable[[], str]]]:
    """Edits of one node: what it is about, and a function that makes it and says what it was."""
    found: list[tuple[ast.AST, Callable[[], str]]] = []
    if isinstance(node, ast.Compare):
        found.append((node, lambda: _flip(node)))
    if isinstance(node, ast.BoolOp):
        found.append((node, lambda: _swap_boolean(node)))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        twice = ast.UnaryOp(ast.Not(), node.operand)
        found.append((node, lambda: _set(node, "operand", twice, "not dropped")))
    if isinstance(node, ast.Constant) and type(node.value) in (bool, int):
        value = not node.value if isinstance(node.value, bool) else node.value + 1
        found.append((node, lambda: _set(node, "value", value, f"{node.value} becomes {value}")))
    if isinstance(node, ast.If | ast.IfExp):
        never = ast.Constant(value=False)
        found.append((node, lambda: _set(node, "test", never, "condition never holds")))
    for name in ("body", "orelse"):
        block = getattr(node, name, None)
        for number, statement in enumerate(block if isinstance(block, list) else []):
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, _DONE) or isinstance(statement, ast.Raise):
                found.append((statement, lambda b=block, n=number: _drop(b, n)))  # type: ignore[misc]
    return found


def _flip(node: ast.Compare) -> str:
    old = type(node.ops[0])
    node.ops[0] = _FLIPPED[old]()
    return f"{old.__name__} becomes {_FLIPPED[old].__name__}"


def _swap_boolean(node: ast.BoolOp) -> str:
    node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    return f"becomes {type(node.op).__name__}"


def _set(node: ast.AST, name: str, value: object, what: str) -> str:
    setattr(node, name, value)
    return what


def _drop(block: list[ast.stmt], number: int) -> str:
    block[number] = ast.Pass()
    return "left out"
