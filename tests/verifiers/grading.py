"""One prompt graded through a pool of its own."""

from mlflow_rlrisk.records import Grade, Prompt
from mlflow_rlrisk.verifiers import VerifierPool
from tests.verifiers.conftest import make_group

PROMPT = Prompt(id="p", content="2+2=", truth="4", columns={"answer": "4"})


def grade(spec: str, *completions: str, timeout_s: float = 20.0) -> tuple[Grade, ...]:
    with VerifierPool(spec, timeout_s=timeout_s) as pool:
        (graded,) = pool.grade([make_group(PROMPT, *completions)])
    return graded.grades


def rewards(grades: tuple[Grade, ...]) -> list[float | None]:
    return [grade.reward for grade in grades]
