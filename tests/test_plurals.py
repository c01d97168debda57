"""No message says "1 prompts": a count and its word come from one helper."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_rlrisk.plurals import counted

ROOT = Path(__file__).parents[1]
WORD = re.compile(
    r" (?:[a-z\-]+ ){0,2}(?:answers|cells|characters|checkpoints|completions|entries|examples|files"
    r"|groups|labels|lineages|lines|logprobs|logs|outcomes|outputs|points|prompts|requests|rewards"
    r"|rollouts|rounds|rows|samples|steps|tensors|texts|tokens|tries|updates|values|versions"
    r"|weights|workers)\b"
)
COUNT = re.compile(r"len\(.+\)|(.+\.)?num_\w+|count|needed|size|missing|others|failed|[\w.]+\.size")
NEVER_ONE = {
    ("assessment/expert_scoring.py", "len(prompt) + len(response)"),
    ("attestation/envelope.py", "len(envelope)"),
    ("attestation/envelope.py", "len(text)"),
    ("commands/lookahead.py", "found.num_prompts"),
    ("commands/mismatch.py", "row.num_tokens"),  # a column, whose word is the unit
    ("demo/run.py", "len(prompts)"),
    ("demo/run.py", "len(rungs)"),
    ("demo/run.py", "sampling.num_samples"),
    ("evaluate_modules/rlrisk_rank_inversion/rlrisk_rank_inversion.py", "len(second)"),
    ("forward/teacher_forced.py", "ids.size"),
    ("lineage/choice.py", "num_equals"),
    ("lineage/remarks.py", "copy.num_tokens"),
    ("monitor/divergence.py", "len(steps)"),
    ("monitor/wording.py", "law.num_points"),
    ("prompts/sources.py", "len(files)"),
    ("samplers/rollout_dump.py", "len(prompts)"),
    ("samplers/vllm_reference.py", "self.num_tokens"),
}
"""Where the code around says that there are more."""


def uncounted() -> Iterator[tuple[str, str]]:
    """Counts in messages with a plural right behind; ``3 of 1 prompts`` does not count them."""
    for path in sorted((ROOT / "mlflow_rlrisk").rglob("*.py")):
        name = path.relative_to(ROOT / "mlflow_rlrisk").as_posix()
        for text in filter(lambda n: isinstance(n, ast.JoinedStr), ast.walk(_tree(path))):
            assert isinstance(text, ast.JoinedStr)
            parts = [None, None, *text.values]
            for of_how_many, before, value, after in zip(
                parts, parts[1:], parts[2:], parts[3:], strict=False
            ):
                if not isinstance(value, ast.FormattedValue) or not WORD.match(_said(after)):
                    continue
                is_share = of_how_many is not None and _said(before).strip() in ("of", "of the")
                if COUNT.fullmatch(ast.unparse(value.value)) and not is_share:
                    yield name, ast.unparse(value.value)


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _said(part: ast.expr | None) -> str:
    return str(part.value) if isinstance(part, ast.Constant) else ""


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ((1, "prompt"), "1 prompt"),
        ((0, "prompt"), "0 prompts"),
        ((2, "prompt is", "prompts are"), "2 prompts are"),
        ((1, "entry", "entries"), "1 entry"),
        ((12345, "token", "", ","), "12,345 tokens"),
        ((0.5, "CPU", "", "g"), "0.5 CPUs"),
        ((1.0, "CPU", "", "g"), "1 CPU"),
    ],
)
def test_one_of_a_thing_is_not_told_as_several(given: tuple[int, str], text: str) -> None:
    assert counted(*given) == text


def test_no_message_puts_a_plural_behind_a_count_that_may_be_one() -> None:
    assert set(uncounted()) - NEVER_ONE == set()
