import json
from pathlib import Path

import pytest

from tests.monitor.histories import pilot_rows


@pytest.fixture
def dying(tmp_path: Path) -> Path:
    """The log of the published run that died, as JSONL."""
    path = tmp_path / "dying.jsonl"
    path.write_text(
        "".join(json.dumps({"step": s, **metrics}) + "\n" for s, metrics in pilot_rows())
    )
    return path
