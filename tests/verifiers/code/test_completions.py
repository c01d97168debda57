"""Which program a completion stands for; running it is the oracle."""

import contextlib
import io
import sys
from typing import Any

import pytest

from mlflow_rlrisk.verifiers.code.completions import program_of

HEAD = 'def f(n):\n    """One more."""\n'
FUNCTION = "def f(n):\n    return n + 1\n"
SCRIPT = "print(int(input()) + 1)\n"

FUNCTIONS = {
    "a block of a list": ("1. Code:\n   ```python\n   def f(n):\n       return n + 1\n   ```", ""),
    "a fence in its docstring": (
        '```python\ndef f(n):\n    """\n    ```\n    f(1)\n    ```\n    """\n    return n + 1\n```',
        "",
    ),
    "a longer fence": ('````python\ndef f(n):\n    "```"\n    return n + 1\n````', ""),
    "a fence that was never closed": (f"```python\n{FUNCTION}```python\nprint(f(1))\n```", ""),
    "a variable": ("```python\nf = lambda n: n + 1\n```\n```python\nprint(f(1))\n```", ""),
    "the prompt's open fence": (f"{FUNCTION}```\nThis works.", "Write f.\n```python\n"),
    "the prompt's open fence and head": (
        "    return n + 1\n```\nThis works.\n",
        "Write f.\n```python\ndef f(n):\n",
    ),
    "the prompt's head, without a docstring": ("    return n + 1\n", "K = 1\n\n\ndef f(n):\n"),
    "the prompt's head, with a comment": ("    return n + 1\n", "def f(n):  # one\n    # more\n"),
    "the prompt's imports, without a docstring": (
        "```python\ndef f(n: Optional[int]):\n    return n + 1\n```",
        "from typing import Optional\n\n\ndef f(\n    n: Optional[int],\n):\n",
    ),
    "the prompt's head, with a fence behind": ("    return n + 1\n```", HEAD),
    "the prompt's head, in a block": ("```python\n    return n + 1\n```", HEAD),
    "the end of thinking that the prompt began": (
        f"Is it this?\n```python\ndef f(n): return n\n```\nNo.\n</think>\n\n{FUNCTION}",
        "Write f.",
    ),
    "thinking without a line of its own": (f"I don't know.</think>\n{FUNCTION}", ""),
    "a thinking tag in its text": (
        '```python\ndef f(n):\n    tag = "<think>"\n    return n + 1 if tag else 0\n```',
        "",
    ),
    "an answer tag": (f"<think>hm</think><answer>\n{FUNCTION}</answer>", ""),
    "an answer of words": (f"```python\n{FUNCTION}```\n<answer>See the code.</answer>", ""),
    "an answer tag in its text": (
        '```python\ndef f(n):\n    """\n    <answer>1</answer>\n    """\n    return n + 1\n```',
        "",
    ),
    "an answer tag behind a fence": (
        f"Like\n```\nf(1)\n```\n<answer>\n{FUNCTION}</answer>",
        "",
    ),
    "a thinking tag in a comment": (
        "```python\ndef f(n):\n    # no </think> here\n    return n + 1\n```",
        "",
    ),
    "a variable of its name": (
        f"```python\n{FUNCTION}```\n```python\nfor f in [f]:\n    f(1)\n```",
        "",
    ),
    "an example of its use": (f"```python\n{FUNCTION}```\nSo:\n```python\nprint(f(1))\n```", ""),
}
SCRIPTS = {
    "its output": f"```python\n{SCRIPT}```\nOutput:\n```\n3\n```",
    "its complexity": f"```\n{SCRIPT}```\nTime:\n```\nO(n)\n```",
    "its output, labelled": f"```python\n{SCRIPT}```\n```text\n3\n```",
    "another language": f"```python\n{SCRIPT}```\n```javascript\nconsole.log(3)\n```",
    "a check of itself": f"```python\n{SCRIPT}```\nSo:\n```python\nassert 2 + 1 == 3\n```",
    "an earlier draft before": f"```python\nprint(input())\n```\nBetter:\n```python\n{SCRIPT}```",
}


@pytest.mark.parametrize(("completion", "prompt"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_right_function_is_found_beside(completion: str, prompt: str) -> None:
    program = program_of(completion, prompt, "f")

    assert program is not None
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(program, "<program>", "exec"), names)
    assert [names["f"](n) for n in (1, 41)] == [2, 42]


@pytest.mark.parametrize("completion", SCRIPTS.values(), ids=SCRIPTS)
def test_a_right_script_is_found_beside(completion: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = program_of(completion, "Add one.", None)

    assert program is not None
    monkeypatch.setattr(sys, "stdin", io.StringIO("41\n"))
    with contextlib.redirect_stdout(io.StringIO()) as written:
        exec(compile(program, "<program>", "exec"), {})
    assert written.getvalue() == "42\n"


def test_tests_of_a_function_that_they_do_not_name_take_no_script_for_it() -> None:
    script = "```python\nprint(f(int(input())))\n```\n"

    for completion in (f"{script}```python\n{FUNCTION}```", f"```python\n{FUNCTION}```\n{script}"):
        assert program_of(completion, "Write f.", None, is_script=False) == FUNCTION


def test_a_method_is_found_beside_its_use() -> None:
    solution = "class Solution:\n    def f(self, n):\n        return n + 1\n"

    program = program_of(
        f"```python\n{solution}```\n```python\nprint(Solution().f(1))\n```", "", "Solution.f"
    )

    assert program == solution


def test_what_was_only_thought_is_no_program() -> None:
    thought = f"```python\n{FUNCTION}```\nBut no.\n</think>\nI cannot do that."

    assert program_of(thought, "Write f.", "f") == "\nI cannot do that."
