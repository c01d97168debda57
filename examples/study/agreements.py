"""Agreement of each checkpoint's rollouts: of its report, or measured once more on its weights.

Reports state ``agreement_accuracy`` since the twelfth test. ``results/agreement.jsonl`` has a row
for each older checkpoint whose weights were still there, or came out the same when they were made
again: the tool assessed it as for its row in ``pairs.jsonl``. Their outcomes were known by then.
Checkpoints of the same weights, trained at two rates, share a row.
"""

from functools import cache

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from examples.study.predictors import RESULTS, report_of
from examples.study.rows import PairRow
from mlflow_rlrisk.report_record import Metric
from mlflow_rlrisk.risk.luck import AGREEMENT

FILE = "agreement.jsonl"


class AgreementRow(TypedDict):
    """``agreement`` is value, lower and upper end of ``rlrisk/agreement_accuracy``."""

    lineage: str
    checkpoint: str
    weights: str
    agreement: list[float]


AGREEMENT_ROW = TypeAdapter(AgreementRow)


def read_agreements() -> list[AgreementRow]:
    """The rows of the file, each checked against the schema."""
    path = RESULTS / FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [AGREEMENT_ROW.validate_json(line) for line in lines]


def agreement_of(row: PairRow) -> Metric | None:
    """The agreement of a checkpoint; ``None`` where it was never measured on its weights.

    How many prompts had rollouts that agree was not kept in the file; it is taken as enough, as it
    is of all reports that say it (73 of 100 and more).
    """
    report = report_of(row["report"])
    if AGREEMENT in report.metrics:
        return report.metrics[AGREEMENT]
    found = _by_weights().get(row["digests"]["weights"])
    if found is None:
        return None
    value, low, high = found
    return Metric(value=value, ci_low=low, ci_high=high, num_prompts=report.num_prompts)


@cache
def _by_weights() -> dict[str, list[float]]:
    return {row["weights"]: row["agreement"] for row in read_agreements()}
