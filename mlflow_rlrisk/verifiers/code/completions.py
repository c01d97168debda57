"""From a completion to the program that is graded."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

_UNQUOTED = r"^(?P<before>[^'\"#\n]*?)"
"""A tag behind a quotation mark, or in a comment, is text of a program."""
_TAGS = re.MULTILINE | re.DOTALL
_THINKING = re.compile(_UNQUOTED + r"<think>.*?(?:</think>|\Z)", _TAGS)
_END_OF_THINKING = re.compile(r"\A.*(?:^[^'\"#\n]*</think>|</think>[ \t]*$)", _TAGS)
"""Of what the prompt began, as chat templates of reasoning models do."""
_ANSWER = re.compile(_UNQUOTED + r"<answer>(?P<answer>.*?)</answer>", _TAGS)
_FENCE = re.compile(r"(?P<indent>[ \t]*)(?P<marks>`{3,}|~{3,})[ \t]*(?P<label>[^\r`]*)\r?")
_INDENT_OF_TEXT = 4
"""A fence further in than its block's own is a line of the block (CommonMark)."""
_READS = re.compile(r"\binput\s*\(|\bstdin\b|\bopen\s*\(\s*0\b|\bfileinput\b|\bos\.read\s*\(\s*0\b")


@dataclass(frozen=True, slots=True)
class _Block:
    """A fenced block: what stands behind its first fence, and its lines."""

    label: str
    code: str

    @property
    def is_python(self) -> bool:
        return self.label.lower().startswith("py")


def program_of(
    completion: str, prompt: str, entry_point: str | None, *, is_script: bool = True
) -> str | None:
    """The program that a completion stands for.

    Of the fenced blocks that parse the last one that defines the entry point wins, or else sets
    it. Where none is named, one that reads standard input goes before one that defines something
    if a script is wanted, and that before any other; a block said to be Python before one that is
    not. Without a fence the completion is a program, or, for a prompt that is the head of one
    (HumanEval) or leaves a fence open, its continuation. The prompt's own functions and imports go
    before a program that was written anew.

    Args:
        completion: As sampled. Thinking is left out, with ``<think>`` before it or not; of
            ``<answer>`` tags the last one counts, if it has a program or nothing else has.
        prompt: Text of the prompt.
        entry_point: Function that is called, where one is named.
        is_script: The program is run on standard input, where no function is named.

    Returns:
        The source, ``None`` where the completion holds no text at all.
    """
    text = _answered(completion)
    if not text.strip():
        return None
    whole = _with_body(prompt)
    head = prompt if entry_point and _defines(whole, entry_point) else ""
    lead, blocks = _taken_apart(text)
    if lead.strip() and (not blocks or not blocks[0].label):
        begun = head if _goes_on(head, lead, entry_point) else _open_block(prompt)
        if begun is not None and _parses(begun + lead):
            return begun + lead
    blocks = [block for block in blocks if block.code.strip()]
    code = _best(blocks, entry_point, is_script) if blocks else lead if lead.strip() else text
    if head and _parses(code):
        return f"{whole}\n{code}"
    return head + code if head and _parses(head + code) else code


def _answered(completion: str) -> str:
    """The text without what was only thought."""
    text = _THINKING.sub(lambda match: match["before"], completion)
    text = _END_OF_THINKING.sub("", text)
    closed, tag, _ = text.rpartition("</answer>")  # no search for the end of an open one
    answers = [match["answer"] for match in _ANSWER.finditer(closed + tag)]
    answers = [answer for answer in answers if answer.strip()]
    return answers[-1] if answers and _is_program(answers[-1], text) else text


def _is_program(answer: str, text: str) -> bool:
    """False for an answer of words, beside a text that has a program."""
    _, blocks = _taken_apart(answer)
    return bool(blocks) or _does_something(answer) or not _taken_apart(text)[1]


def _does_something(source: str) -> bool:
    tree = _tree(source)
    return tree is not None and not all(isinstance(node, ast.Expr) for node in tree.body)


def _taken_apart(text: str) -> tuple[str, list[_Block]]:
    """What stands before the first fence, and the fenced blocks; the last may be open."""
    lead: list[str] = []
    blocks: list[tuple[str, list[str]]] = []
    inside: re.Match[str] | None = None
    for line in text.split("\n"):
        fence = _fence_at(line, inside)
        if fence is None:
            if inside is not None:
                blocks[-1][1].append(_outdented(line, len(inside["indent"])))
            elif not blocks:
                lead.append(line)
        elif (
            inside is None or fence["label"].strip()
        ):  # a label opens: the one before was left open
            inside = fence
            blocks.append((fence["label"].strip(), []))
        else:
            inside = None
    codes = ["\n".join(lines).removesuffix("\n") + "\n" for _, lines in blocks]
    return "\n".join(lead), [
        _Block(label, code) for (label, _), code in zip(blocks, codes, strict=True)
    ]


def _fence_at(line: str, inside: re.Match[str] | None) -> re.Match[str] | None:
    fence = _FENCE.fullmatch(line)
    if fence is None or inside is None:
        return fence
    is_its_own = fence["marks"].startswith(inside["marks"])
    return fence if is_its_own and len(fence["indent"]) < _room(inside) else None


def _room(fence: re.Match[str]) -> int:
    return len(fence["indent"]) + _INDENT_OF_TEXT


def _outdented(line: str, width: int) -> str:
    blank = len(line) - len(line.lstrip(" \t"))
    return line[min(width, blank) :]


def _open_block(prompt: str) -> str | None:
    """The code that a prompt leaves open for the completion to go on from."""
    inside, start, position = None, 0, 0
    for line in prompt.split("\n"):
        position += len(line) + 1
        if (fence := _fence_at(line, inside)) is not None:
            inside, start = (fence, position) if inside is None else (None, 0)
    return None if inside is None else prompt[start:]


def _with_body(prompt: str) -> str:
    """The prompt; where it ends before the first line of a function, with such a line."""
    if _parses(prompt):
        return prompt
    begun = prompt.rstrip()
    last = begun.rpartition("\n")[2]
    return f"{begun}\n{last[: len(last) - len(last.lstrip())]} pass\n"


def _goes_on(head: str, lead: str, entry_point: str | None) -> bool:
    """True where a text goes on with the function that the prompt began."""
    is_indented = lead.lstrip("\r\n")[:1] in (" ", "\t") or head[-1:] in (" ", "\t")
    return bool(head) and is_indented and not _defines(lead, entry_point or "")


def _best(blocks: list[_Block], entry_point: str | None, is_script: bool) -> str:
    parsed = [block for block in blocks if _parses(block.code)]
    python = [block for block in parsed if block.is_python]
    likely = python or [block for block in parsed if not block.label] or parsed
    if entry_point:
        chosen = [block for block in parsed if _defines(block.code, entry_point)]
        chosen = chosen or [block for block in parsed if _assigns(block.code, entry_point)]
    else:
        chosen = [block for block in likely if is_script and _READS.search(block.code)]
        chosen = chosen or [block for block in likely if any(_definitions(block.code))]
    return (chosen or likely or blocks)[-1].code


def _defines(source: str, name: str) -> bool:
    """Functions or classes of that dotted name's parts are defined in the source."""
    return set(name.split(".")) <= set(_definitions(source))


def _assigns(source: str, name: str) -> bool:
    """A variable of that name is set, as by ``f = lambda n: n + 1``."""
    tree = _tree(source)
    return tree is not None and any(
        isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == name
        for node in ast.walk(tree)
    )


def _definitions(source: str) -> Iterator[str]:
    tree = _tree(source)
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name


def _parses(source: str) -> bool:
    return _tree(source) is not None


def _tree(source: str) -> ast.Module | None:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
