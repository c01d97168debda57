"""Figures of a report page, kept beside the rollouts: drawing them takes longer than all else.

``figures.json`` holds them under a digest of what they are drawn from: the report without its
provenance, the files of this package and matplotlib's version. Where any of it differs they are
drawn anew, so that the page is always the one that the report alone gives.
"""

import json
import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlflow_rlrisk.content import json_digest, own_code
from mlflow_rlrisk.report import RiskReport
from mlflow_rlrisk.rollouts.shards import write_text_atomically
from mlflow_rlrisk.sinks.html import draw_figures, render
from mlflow_rlrisk.sinks.templating import own_markup

FIGURES = "figures.json"

logger = logging.getLogger(__name__)


def render_beside(report: RiskReport, folder: Path) -> str:
    """`render` with the figures that are kept in ``folder``; drawn and kept where there are none.

    Raises:
        RolloutStoreError: The folder does not take the file.
    """
    key = _key(report)
    figures = _kept(folder / FIGURES, key)
    if figures is None:
        figures = draw_figures(report)
        body = {"key": key, "digest": json_digest(figures), "figures": figures}
        write_text_atomically(folder / FIGURES, json.dumps(body) + "\n")
    return render(report, figures)


def _key(report: RiskReport) -> str:
    drawn = {name: value for name, value in report.to_dict().items() if name != "provenance"}
    return json_digest([own_code(), version("matplotlib"), drawn])


def _kept(path: Path, key: str) -> list[dict[str, Any]] | None:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["key"] != key:
            return None
        if raw["digest"] != json_digest(raw["figures"]):
            raise ValueError("it is not as it was written")
        return [{**each, "svg": own_markup(each["svg"])} for each in raw["figures"]]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        logger.warning("%s is not used: %s", path, error)
        return None
