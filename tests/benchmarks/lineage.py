"""What a lineage costs: 100 versions x 10^4 prompts, and six versions beside assessing them.

python -m tests.benchmarks.lineage [--versions 100] [--prompts 10000] [--skip-models]
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.demo.make_base import BASE
from mlflow_rlrisk.demo.make_data import HELDOUT
from mlflow_rlrisk.demo.task import MAX_NEW_TOKENS, reward
from mlflow_rlrisk.lineage import LineageMember, trace_lineage
from mlflow_rlrisk.sinks.lineage_page import render_lineage
from mlflow_rlrisk.wiring import Assessment, run_assessment
from tests.prompt_statistics import prompts, report_of


def simulated(num_versions: int, num_prompts: int) -> list[LineageMember]:
    rng = np.random.default_rng(0)
    members = []
    for version in range(num_versions):
        rates = rng.beta(1.0 + version / 20, 2.0, size=num_prompts)
        statistics = tuple(prompts(rng.binomial(16, rates), 16, 0.3))
        report = report_of(statistics, model=f"models:/m/{version}", num_resamples=200)
        members.append(
            LineageMember(name=f"models:/m/{version}", report=report, statistics=statistics)
        )
    return members


def many(num_versions: int, num_prompts: int) -> None:
    members = simulated(num_versions, num_prompts)
    wall, cpu = time.perf_counter(), time.process_time()
    lineage = trace_lineage(members, base="models:/m/0")
    traced = (time.perf_counter() - wall, time.process_time() - cpu)
    wall = time.perf_counter()
    page = render_lineage(lineage)
    print(f"{num_versions} versions x {num_prompts} prompts, 2000 resamples:")
    print(f"  traced in {traced[0]:.1f} s wall, {traced[1]:.1f} s CPU; {len(lineage.pairs)} pairs")
    print(f"  page of {len(page) / 1e6:.2f} MB in {time.perf_counter() - wall:.1f} s")


def beside_assessing(num_versions: int) -> None:
    """CPU time of assessing, of opening the stored assessments again, and of the lineage."""
    config = AssessmentConfig(
        sampling=SamplingConfig(num_samples=64, max_new_tokens=MAX_NEW_TOKENS), group_size=8
    )
    with tempfile.TemporaryDirectory() as folder:
        import shutil

        models = []
        for version in range(num_versions):
            model = Path(folder, f"model-{version}")
            shutil.copytree(BASE, model)
            models.append(model)

        def assess(model: Path) -> Assessment:
            out = Path(folder, "out", model.name)
            return run_assessment(model, HELDOUT, verifier=reward, config=config, out_dir=out)

        started = time.process_time()
        assessments = [assess(model) for model in models]
        sampled = time.process_time() - started
        started = time.process_time()
        assessments = [assess(model) for model in models]
        reopened = time.process_time() - started
        members = [
            LineageMember(
                name=each.report.provenance.model_reference,
                report=each.report,
                statistics=each.statistics,
            )
            for each in assessments
        ]
        started = time.process_time()
        render_lineage(trace_lineage(members, base=members[0].name))
        compared = time.process_time() - started
    print(f"{num_versions} versions of the demo's base, 200 prompts x 64 rollouts (CPU time):")
    print(f"  assessing them {sampled:.1f} s; opening them again {reopened:.1f} s")
    print(f"  lineage and page {compared:.2f} s = {compared / sampled:.1%} of assessing")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", type=int, default=100)
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--skip-models", action="store_true")
    options = parser.parse_args()
    many(options.versions, options.prompts)
    if not options.skip_models:
        beside_assessing(6)


if __name__ == "__main__":
    main()
