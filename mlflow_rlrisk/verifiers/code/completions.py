"""From a completion to the program that is graded."""

import ast
import re

_FENCE = re.compile(r"^[ \t]*(```|~~~)[^\n]*\n(.*?)(?:^[ \t]*\1|\Z)", re.DOTALL | re.MULTILINE)
_THINKING = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)


def program_of(completion: str, prompt: str, entry_point: str | None) -> str | None:
    """The program that a completion stands for.

    The last fenced block that parses and defines the entry point wins, else the last that parses,
    else the last. Without a fence the completion is a program, or, for a prompt that is the head
    of one (HumanEval), its continuation. The prompt's own functions and imports go before a
    program that was written anew.

    Args:
        completion: As sampled; thinking between ``<think>`` tags is left out.
        prompt: Text of the prompt.
        entry_point: Function that is called, where one is named.

    Returns:
        The source, ``None`` where the completion holds no text at all.
    """
    text = _THINKING.sub("", completion)
    if not text.strip():
        return None
    head = prompt if entry_point and _defines(prompt, entry_point) else ""
    blocks = [match.group(2) for match in _FENCE.finditer(text)]
    if blocks:
        code = _best(blocks, entry_point)
        return f"{head}\n{code}" if head and _parses(code) else code
    if head and _parses(head + text) and not _defines(text, entry_point or ""):
        return head + text
    return f"{head}\n{text}" if head and _parses(text) else text


def _best(blocks: list[str], entry_point: str | None) -> str:
    parsed = [block for block in blocks if _parses(block)]
    defining = [block for block in parsed if entry_point and _defines(block, entry_point)]
    return (defining or parsed or blocks)[-1]


def _defines(source: str, name: str) -> bool:
    """A function, class method or variable of that name is defined in the source."""
    tree = _tree(source)
    if tree is None:
        return False
    return any(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and node.name == name
        for node in ast.walk(tree)
    )


def _parses(source: str) -> bool:
    return _tree(source) is not None


def _tree(source: str) -> ast.Module | None:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
