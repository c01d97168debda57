"""The rows of the report page's tables: a report's values as the words and figures to print."""

from typing import Any

from mlflow_rlrisk.metrics.catalogue import CATALOGUE, spec_of
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.report import Component, ExampleRollout, RiskReport
from mlflow_rlrisk.sinks.wording import estimate, interval, number, shown
from mlflow_rlrisk.thresholds import REGISTRY


def component_row(component: Component) -> dict[str, Any]:
    """An assessed component of the index."""
    return {
        "name": component.name,
        "meaning": component.measure,
        "missing": None,
        "value": estimate(component.x),
        "interval": interval(component.x_low, component.x_high),
        "severity": f"{component.q:.2f}",
        "width": round(component.q * 100, 1),
        "ok": f"{component.ok:g}",
        "bad": f"{component.bad:g}",
        "weight": f"{component.weight:g}",
        "source": component.source,
        "scope": component.scope,
    }


def not_assessed_rows(report: RiskReport) -> list[dict[str, Any]]:
    """Components of the policy without a value, with the reason."""
    rows = []
    for name, why in report.not_assessed.items():
        line, settings = REGISTRY.get(f"component.{name}"), report.policy.components.get(name)
        rows.append(
            {
                "name": name,
                "meaning": line.meaning if line else "",
                "missing": why,
                "ok": f"{settings.ok:g}" if settings else "",
                "bad": f"{settings.bad:g}" if settings else "",
                "weight": f"{settings.weight:g}" if settings else "",
                "source": line.source if line else "",
                "scope": line.scope if line else "",
            }
        )
    return rows


def _ordered(names: dict[str, Any]) -> list[str]:
    """Names in the catalogue's order; pass@k by k, unknown ones last."""
    rank = {spec.name: position for position, spec in enumerate(CATALOGUE)}

    def key(name: str) -> tuple[int, int, str]:
        spec = spec_of(name)
        tail = name.rpartition("_")[2]
        k = int(tail) if tail.isdigit() else 0
        return (rank[spec.name] if spec else len(rank), k, name)

    return sorted(names, key=key)


def _meaning(name: str) -> str:
    """The catalogue's words without the backticks of its Markdown."""
    spec = spec_of(name)
    return spec.meaning.replace("`", "") if spec else ""


def metric_rows(report: RiskReport) -> list[dict[str, str]]:
    """Every metric with its interval, in the catalogue's order."""
    rows = []
    for name in _ordered(report.metrics):
        metric, spec = report.metrics[name], spec_of(name)
        rows.append(
            {
                "name": name,
                "meaning": _meaning(name),
                "value": estimate(metric.value),
                "interval": interval(metric.ci_low, metric.ci_high),
                "num_prompts": f"{metric.num_prompts:,}",
                "unit": spec.unit if spec else "",
                "direction": str(spec.direction) if spec else "",
            }
        )
    return rows


def undefined_rows(report: RiskReport) -> list[dict[str, str]]:
    """Every undefined metric with its reason."""
    return [
        {
            "name": name,
            "meaning": _meaning(name),
            "reason": shown(report.undefined[name]),
        }
        for name in _ordered(report.undefined)
    ]


def example_row(example: ExampleRollout, threshold: float | None) -> dict[str, Any]:
    """One sampled rollout with its grade; all text is foreign."""
    key, word = _grade(example, threshold)
    meta = [counted(example.num_tokens, "token", spec=",")]
    if example.mean_entropy is not None:
        meta.append(f"{number(example.mean_entropy)} nats/token")
    if example.finish_reason == "length":
        meta.append("truncated")
    optional = (
        ("Reference answer", example.truth),
        ("Answer found by the verifier", example.answer),
        ("Reason of the verifier", example.reason),
    )
    rows = [
        {"label": label, "value": shown(value)} for label, value in optional if value is not None
    ]
    place = f"sample {example.sample_index} of prompt {example.prompt_id}"
    return {
        "grade_key": key,
        "grade": word,
        "peek": " ".join(shown(example.completion, 160).split()) or "(empty)",
        "meta": " · ".join(meta),
        "prompt": shown(example.prompt),
        "completion": shown(example.completion),
        "rows": [*rows, {"label": "Rollout", "value": place}],
    }


def _grade(example: ExampleRollout, threshold: float | None) -> tuple[str, str]:
    if example.reward is None:
        key = "none" if example.status == "not_applicable" else "failed"
        return key, {"none": "– not applicable", "failed": "! not graded"}[key]
    if threshold is None and example.reward not in (0.0, 1.0):
        return "graded", f"reward {number(example.reward)}"
    if example.reward >= (1.0 if threshold is None else threshold):
        return "correct", "✓ correct"
    return "wrong", "✗ wrong"


def provenance_rows(report: RiskReport) -> list[dict[str, Any]]:
    """What the report was made from: references, settings, digests."""
    source, sampling = report.provenance, report.config.sampling
    drawn = ", ".join(f"{name} {value}" for name, value in sampling.model_dump().items())
    words = {
        "model": source.model_reference,
        "LoggedModel": source.model_id,
        "training run": source.run_id,
        "prompt set": source.prompts,
        "verifier": source.verifier,
        "sampler": ", ".join(f"{name} {value}" for name, value in source.sampler.items()),
        "sampling": drawn,
        "group size": str(report.config.group_size),
        "policy": report.policy.name,
        "started": source.started_at,
        "finished": source.finished_at,
        "libraries": ", ".join(f"{name} {value}" for name, value in source.libraries.items()),
    }
    rows: list[dict[str, Any]] = [
        {"label": label, "value": shown(value), "is_code": False}
        for label, value in words.items()
        if value
    ]
    rows += [
        {"label": f"SHA-256 of the {name}", "value": value, "is_code": True}
        for name, value in source.digests.items()
    ]
    return [*rows, {"label": "SHA-256 of this report", "value": report.digest, "is_code": True}]
