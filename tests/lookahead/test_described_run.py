"""``rlrisk lookahead`` where the RL run is described by its own settings."""

from pathlib import Path

from click.testing import CliRunner

from mlflow_rlrisk.assess import assess
from mlflow_rlrisk.commands.lookahead import lookahead
from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.errors import InsufficientRolloutsError
from tests.tiny_models import write_llama


def test_the_command_says_what_of_the_run_was_sampled_otherwise(tmp_path: Path) -> None:
    config = AssessmentConfig(
        sampling=SamplingConfig(num_samples=8, max_new_tokens=3),
        num_resamples=200,
        device="cpu",
        verifier_workers=1,
    )
    prompts = [{"prompt": f"{a}+{a}=", "answer": "e"} for a in range(9)]
    folder = tmp_path / "out"
    assess(write_llama(tmp_path), prompts, verifier="exact", config=config, out_dir=folder)
    (tmp_path / "run.yaml").write_text(
        "num_generations: 16\ntemperature: 1.0\nmax_completion_length: 3\ntop_p: 0.9\n"
        "learning_rate: 0.01\nmax_steps: 4000\n"
    )

    told = CliRunner().invoke(lookahead, [str(folder), "--rl-config", str(tmp_path / "run.yaml")])

    differing = [line.split() for line in told.stderr.splitlines() if line.startswith("not the")]
    assert [words[3] for words in differing] == ["group_size=8", "top_p=1.0"]
    assert [words[-1] for words in differing] == ["16", "0.9"]
    assert isinstance(told.exception, InsufficientRolloutsError)  # 128 groups a half are needed
