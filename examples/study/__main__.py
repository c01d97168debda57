"""``python -m examples.study lookahead|run|collect``: make the study's data, or write it down.

``collect`` replaces the rows of the lineages that the folder holds and keeps all others.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from examples.study.settings import StudySettings

RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str] | None = None) -> None:
    """Parse and dispatch."""
    parser = argparse.ArgumentParser(prog="python -m examples.study", description=__doc__)
    parser.add_argument("what", choices=("lookahead", "run", "collect", "settings"))
    parser.add_argument("--out", type=Path, default=Path("study"), help="folder to work in")
    parser.add_argument("--only", help="one lineage")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="a toy study, to see it run")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where collect writes")
    options = parser.parse_args(arguments)
    results = options.results.resolve()
    from examples.study.planned_settings import STUDIES
    from examples.study.settings import TINY

    studies = {"SETTINGS.json": TINY} if options.tiny else STUDIES
    known = [each.name for settings in studies.values() for each in settings.lineages]
    if options.only and options.only not in known:
        parser.error(f"--only {options.only}: known {known}")
    if options.what != "settings":
        options.out.mkdir(parents=True, exist_ok=True)
        _use_folder(options.out)
    from examples.study import sweep
    from examples.study.rows import read_pairs, write_pairs

    wanted = [
        settings
        for settings in studies.values()
        if options.only in (None, *(each.name for each in settings.lineages))
    ]
    if options.what == "lookahead":
        from examples.study.looking_ahead import look_ahead_of_all

        for settings in wanted:
            look_ahead_of_all(settings, only=options.only, say=_say)
        return
    if options.what == "run":
        for settings in wanted:
            sweep.run_sweep(settings, only=options.only, workers=options.workers, say=_say)
        return
    results.mkdir(parents=True, exist_ok=True)
    for name, settings in studies.items():
        (results / name).write_text(sweep.settings_json(settings), encoding="utf-8")
    if options.what == "collect":
        rows = [row for settings in studies.values() for row in sweep.collected_rows(settings)]
        pairs, here = results / "pairs.jsonl", {row["lineage"] for row in rows}
        kept = read_pairs(pairs) if pairs.is_file() else []
        write_pairs(pairs, [*(row for row in kept if row["lineage"] not in here), *rows])
        for row in rows:
            target = results / row["report"]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(row["report"], target)
        _collect_lookaheads(results, studies.values())
        _say(f"{len(rows)} checkpoints, {sum(len(row['outcomes']) for row in rows)} runs")


def _collect_lookaheads(results: Path, studies: "Iterable[StudySettings]") -> None:
    from examples.study import looking_ahead
    from examples.study.layout import sweep_order

    read = (looking_ahead.stored(each, own) for own in studies for each in sweep_order(own))
    rows = [row for row in read if row is not None]
    path, here = results / looking_ahead.FILE, {row["lineage"] for row in rows}
    kept = looking_ahead.read_lookaheads(path) if path.is_file() else []
    kept = [row for row in kept if row["lineage"] not in here]
    looking_ahead.write_lookaheads(path, [*kept, *rows])


def _use_folder(folder: Path) -> None:
    """Work in ``folder``; this process and its workers still find the study's modules."""
    here = str(Path.cwd())
    os.environ["PYTHONPATH"] = os.pathsep.join(
        part for part in (here, os.environ.get("PYTHONPATH")) if part
    )
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.chdir(folder)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
