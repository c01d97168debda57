"""What an audit says of the truth in other formats, and of answers that are none."""

from pathlib import Path

import pytest

from mlflow_rlrisk.cli import run
from tests.verifier_audit.conftest import Audit


def test_right_answers_in_other_formats_are_not_called_wrong_answers_in_the_console(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--prompts", f"{folder}/p.jsonl", "--verifier", f"{folder}/rewards.py:strict"]
    with pytest.raises(SystemExit):
        run(["audit-verifier", *arguments])

    lines = capsys.readouterr().out.splitlines()

    (dollars,) = [line for line in lines if line.startswith("variant     dollars")]
    assert dollars.endswith("0 of 12 accepted (0.00 to 0.26), 12 graded wrong")


def test_format_variants_show_what_a_strict_verifier_misses(folder: Path, audit: Audit) -> None:
    arguments = ("--verifier", f"{folder}/rewards.py:strict", "--second-verifier", "numeric")

    code, found = audit(*arguments)

    assert code == 0
    missed = {name for name, each in found["variants"].items() if each["num_rejected"]}
    assert {"sentence", "hashes", "spaces", "units", "think_tags", "trailing_zero"} <= missed
    assert "boxed_in_sentence" not in missed
    example = found["variants"]["sentence"]["examples"][0]
    assert example["completion"] == "The answer is 2."
    assert any("sentence rejected" in warning for warning in found["warnings"])
    # Every missed variant is one on which the second verifier, which reads all, disagrees.
    misses = sum(each["num_rejected"] for each in found["variants"].values())
    assert found["disagreement"]["num_disagreements"] == misses
    low, high = (found["disagreement"][end] for end in ("ci_low", "ci_high"))
    assert 0 < low <= found["disagreement"]["value"] <= high < 1


def test_a_verifier_that_fails_on_all_but_gold_answers_is_told(folder: Path, audit: Audit) -> None:
    # Gold answers pass and no wrong one is accepted, but every such rollout would have no reward.
    _, found = audit("--verifier", f"{folder}/rewards.py:fragile")

    kinds = {**found["mutated"], **found["variants"]}
    failed = [name for name, each in kinds.items() if each["num_failed"]]
    (warning,) = found["warnings"]
    assert {"empty", "boxed", "sentence"} <= set(failed)
    assert warning.startswith(f"the verifier failed on {12 * len(failed)} of {12 * len(kinds)} ")
    assert f"({', '.join(failed)}): ValueError: invalid literal" in warning


@pytest.mark.parametrize("verifier", ["numeric", "math"])
def test_our_own_verifiers_read_a_right_answer_in_every_format(audit: Audit, verifier: str) -> None:
    # math took a box in a thought for one of two answers.
    if verifier == "math":
        pytest.importorskip("math_verify")

    _, found = audit("--verifier", verifier)

    shares = {name: each["accepted_share"] for name, each in found["variants"].items()}
    assert shares == dict.fromkeys(shares, 1.0)
    assert {"think_tags", "answer_tag", "units"} <= shares.keys()
    assert found["warnings"] == []
