"""``rlrisk compare``: several versions read as one lineage."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_rlrisk import console
from mlflow_rlrisk.checkpoint.safetensors_header import unique_keys
from mlflow_rlrisk.commands.assessment import DEFAULT_OUT, assess_one, check_writable, write_page
from mlflow_rlrisk.commands.kept_results import keep_result
from mlflow_rlrisk.commands.options import assessment_options, json_option
from mlflow_rlrisk.commands.output import OK, tell
from mlflow_rlrisk.commands.siblings import place_of, refuse_rounds, refuse_unlike
from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.result_lines import comparison_lines, lineage_lines

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlflow_rlrisk.assessment.wiring import Assessment
    from mlflow_rlrisk.lineage import LineageReport


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--base", default=None, help="The checkpoint all were trained from; assessed first.")
@click.option(
    "--series",
    multiple=True,
    metavar="NAME=MODEL,MODEL",
    help="Rungs of one run of training, in its order; several times where there are several runs. "
    "Default: tag rlrisk.series, else the registered model's name.",
)
@click.option(
    "--outcomes",
    type=click.Path(exists=True, dir_okay=False),
    default=None,
    help="JSON object: what RL made of a model; default: what rlrisk outcome recorded.",
)
@assessment_options
@json_option
def compare(
    models: tuple[str, ...],
    base: str | None,
    series: tuple[str, ...],
    outcomes: str | None,
    as_json: bool,
    register: bool,
    **settings: Any,
) -> int:
    """Assess several MODELS and say which may start RL, and why not the best pass@1.

    models:/name stands for all its versions. Models that have to be comparable are; what was
    measured otherwise is refused by name.
    """
    from mlflow_rlrisk.lineage_evidence import with_heldout_rises
    from mlflow_rlrisk.model_reference import named_as, parent_of
    from mlflow_rlrisk.sinks.lineage_page import render_lineage
    from mlflow_rlrisk.sinks.version_outcome import recorded_finals

    refuse_rounds("compare", settings)
    references = _references(models, base)
    if len(references) < 2:
        raise click.UsageError("compare needs at least two models, each of them another")
    parents = {each: named_as(parent_of(each), references) for each in references}
    base = base or _recorded_base(parents)
    runs = _series(series, references)
    known = recorded_finals(references) if outcomes is None else _outcomes(outcomes)
    refuse_unlike(references, settings)
    if register:
        check_writable()
    root = Path(settings.pop("out") or DEFAULT_OUT)
    assessments = [assess_one(each, settings, folders={"out_root": root}) for each in references]
    if settings["expert_data"] is not None:
        assessments = with_heldout_rises(assessments)
    pages = [write_page(assessment) for assessment in assessments]
    lineage = _trace(assessments, base, parents, runs, known, settings)
    page = render_lineage(lineage)
    keep_result(root, "lineage", assessments, lineage.to_dict(), page)
    if register:
        from mlflow_rlrisk.sinks.lineage_run import log_lineage

        run_id = log_lineage(lineage, assessments, pages, page)
        console.say(f"registered  runs:/{run_id}/rlrisk/lineage.html")
    compared = comparison_lines(lineage.ranking, [each.report for each in assessments])
    tell(lineage.to_dict(), *compared, *lineage_lines(lineage), as_json=as_json)
    return OK


def _references(models: tuple[str, ...], base: str | None) -> list[str]:
    """Every model once, the base first; all of them resolved before anything is sampled.

    A model that two references lead to would be compared with itself, and its copy would stand
    between the others.
    """
    from mlflow_rlrisk.model_reference import all_versions

    found = [] if base is None else [base]
    for model in models:
        found += all_versions(model) or [model]
    references: dict[object, str] = {}
    for reference in dict.fromkeys(found):
        first = references.setdefault(place_of(reference), reference)
        if first != reference:
            console.say(f"counted once: {reference} is {first}, spelled another way")
    return list(references.values())


def _recorded_base(parents: "Mapping[str, str | None]") -> str | None:
    """The one model that all recorded parents lead to, where it is among the models."""
    roots = {_root(child, parents) for child, parent in parents.items() if parent is not None}
    if len(roots) != 1:
        return None
    (root,) = roots
    if root in parents:
        return root
    console.say(f"lineage     the versions name {root} as their parent; --base adds it")
    return None


def _root(child: str, parents: "Mapping[str, str | None]") -> str:
    seen = {child}
    while (parent := parents.get(child)) is not None and parent not in seen:
        seen.add(parent)
        child = parent
    return child


def _series(given: tuple[str, ...], references: list[str]) -> dict[str, str]:
    """Name of the run of training by reference, as given or as the registry says.

    Raises:
        UsageError: An option is no NAME=MODEL,MODEL of the models, or names one twice.
    """
    from mlflow_rlrisk.model_reference import series_of

    found: dict[str, str] = {}
    for each in given:
        name, equals, rungs = each.partition("=")
        for rung in rungs.split(","):
            if not (name and equals) or rung not in references or rung in found:
                raise click.UsageError(
                    f"--series {each!r}: NAME=MODEL,MODEL is needed, of the models to compare, "
                    f"each in one series; {rung!r} is not"
                )
            found[rung] = name
    if given:
        return found
    told = {reference: series_of(reference) for reference in references}
    return {reference: name for reference, name in told.items() if name is not None}


def _outcomes(path: str) -> dict[str, float]:
    """Read the outcomes before anything is sampled.

    Raises:
        ConfigError: The file is no JSON object of finite numbers, or names a model twice.
    """
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=unique_keys)
        if not isinstance(raw, dict):
            raise ValueError("it is no object")
        return {name: _finite(name, value) for name, value in raw.items()}
    except (OSError, ValueError, RecursionError) as error:
        need = f"a JSON object of finite numbers by model reference is needed: {error}"
        raise ConfigError("outcomes", path, need) from error


def _finite(name: str, value: object) -> float:
    is_flag = isinstance(value, bool)
    if is_flag or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise ValueError(f"{name} has {value!r:.40}")  # NaN is below nothing
    return float(value)


def _trace(
    assessments: "list[Assessment]",
    base: str | None,
    parents: "Mapping[str, str | None]",
    series: "Mapping[str, str]",
    outcomes: dict[str, float],
    settings: dict[str, Any],
) -> "LineageReport":
    from mlflow_rlrisk.lineage import trace_lineage
    from mlflow_rlrisk.lineage_evidence import member_of, rescalings

    named = {each.report.provenance.model_reference: each for each in assessments}
    members = [
        member_of(each, parent=parents.get(name), series=series.get(name))
        for name, each in named.items()
    ]
    if base in named:
        named = {base: named.pop(base), **named}
    return trace_lineage(
        members,
        base=base,
        outcomes=outcomes,
        rescalings=rescalings(named, parents),
        num_resamples=settings["num_resamples"],
        seed=settings["seed"],
        confidence=settings["confidence"],
    )
