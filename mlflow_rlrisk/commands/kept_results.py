"""Where ``compare`` and ``drift`` leave their results, beside the assessments that they read."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_rlrisk import console

if TYPE_CHECKING:
    from mlflow_rlrisk.assessment.wiring import Assessment


def keep_result(
    root: Path,
    kind: str,
    assessments: "Sequence[Assessment]",
    result: Mapping[str, Any],
    page: str,
) -> None:
    """Write JSON and page under a name of their own, and as the newest ``kind`` in ``root``.

    The name is made of the folders of the assessments, so that a result of other models, prompts
    or settings in the same ``root`` stays, and one of the same is replaced.
    """
    from mlflow_rlrisk.rollouts.shards import write_text_atomically

    folders = "\n".join(str(each.folder) for each in assessments)
    own = f"{kind}.{hashlib.sha256(folders.encode()).hexdigest()[:12]}"
    text = json.dumps(result, ensure_ascii=False, allow_nan=False)
    for name in (own, kind):
        write_text_atomically(root / f"{name}.json", text)
        write_text_atomically(root / f"{name}.html", page)
    console.say(f"{kind:<12}{root / own}.html")
