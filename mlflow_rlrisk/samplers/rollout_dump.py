"""The rollouts of an RL trainer's dump, one row each, found by the text of their prompt.

What a dump did not record stays unknown: without entropies there are none, and a dump from which
the tokens of a completion cannot be counted is refused.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_rlrisk.errors import PromptSetError, SamplerError
from mlflow_rlrisk.forward.padded_rollouts import refuse_padding
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.prompts.schemas import Schema, prompt_content
from mlflow_rlrisk.prompts.sources import Row, parse_json
from mlflow_rlrisk.records import UNKNOWN_TOKEN, FinishReason, Prompt, Rollout, RolloutGroup

LARGEST_TOKEN_ID = 2**24
"""Far above any vocabulary; its logarithm bounds an entropy."""
ROUNDING_NATS = 1e-2
"""Engines that compute in bfloat16 give logprobs a little above 0."""

PER_TOKEN = ("token_ids", "logprobs", "entropies")


class RolloutDump:
    """A ``.parquet`` or ``.jsonl`` file.

    Its columns are ``prompt``, ``completion`` and ``finish_reason``, at least one of ``token_ids``,
    ``logprobs`` and ``entropies``, and where recorded ``sample_index``.
    """

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            SamplerError: It is none of these, or lacks a column.
        """
        self._path = path
        self._rows = _read_dump(path)
        self.identity = {"rollouts": hashlib.sha256(path.read_bytes()).hexdigest()}

    def missing_prompts(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Those of the prompts that have no rollouts.

        Raises:
            SamplerError: Two have the same text.
        """
        _require_distinct(prompts)
        return [prompt for prompt in prompts if prompt.text not in self._rows]

    def groups(self, prompts: Sequence[Prompt]) -> Iterator[RolloutGroup]:
        """The rollouts of each prompt.

        Raises:
            SamplerError: A row is no rollout.
        """
        for prompt in prompts:
            rows = enumerate(self._rows[prompt.text])
            rollouts = tuple(_rollout(prompt, place, row) for place, row in rows)
            yield RolloutGroup(prompt=prompt, rollouts=rollouts)

    def refuse_padding(self, prompts: Sequence[Prompt]) -> None:
        """Padding would be counted as tokens of the completions.

        Raises:
            SamplerError: There is some.
        """
        refuse_padding(self.groups(prompts), str(self._path))


def _require_distinct(prompts: Sequence[Prompt]) -> None:
    """Prompts are matched by text: the rollouts of one would count for each that has it.

    Raises:
        SamplerError: Two have the same.
    """
    by_text: dict[str, Prompt] = {}
    for prompt in prompts:
        first = by_text.setdefault(prompt.text, prompt)
        if first is not prompt:
            num = len({each.text for each in prompts})
            raise SamplerError(
                f"prompts {first.id} and {prompt.id} have the same text ({counted(num, 'text')}, "
                f"{len(prompts)} prompts), by which the rollouts of a dump are found: each text "
                "is needed once, or its rollouts would count several times"
            )


def _read_dump(path: Path) -> dict[str, list[Mapping[str, Any]]]:
    """Rows by prompt text, in sample order."""
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        elif path.suffix in (".jsonl", ".ndjson"):
            frame = pd.DataFrame(_json_rows(path.read_text(encoding="utf-8")))
        else:
            raise SamplerError(
                f"{path} is neither a folder of stored rollouts nor a .parquet or .jsonl file"
            )
    except (OSError, ValueError, OverflowError) as error:
        raise SamplerError(f"{path} cannot be read: {error}") from error
    needed = {"prompt", "completion"} - set(frame.columns)
    if needed:
        raise SamplerError(f"{path} lacks the columns {sorted(needed)}; it has {list(frame)}")
    if not set(PER_TOKEN) & set(frame.columns):
        raise SamplerError(
            f"{path} has none of {', '.join(PER_TOKEN)}: its tokens cannot be counted"
        )
    if "finish_reason" not in frame.columns:
        raise SamplerError(
            f"{path} has no column finish_reason ({', '.join(FinishReason)}): truncated answers "
            "would count as finished"
        )
    if "sample_index" in frame.columns:
        frame = _in_sample_order(path, frame)
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for place, row in enumerate(frame.to_dict("records"), start=1):
        text = _prompt_text(path, place, row["prompt"])
        rows.setdefault(text, []).append({str(k): v for k, v in row.items()})
    return rows


def _prompt_text(path: Path, place: int, value: Any) -> str:
    """As `Prompt.text` has it, of a chat's turns too."""
    try:
        row = Row(f"rollout {place}", {"prompt": value})
        return Prompt(id="", content=prompt_content(row, Schema("prompt", None))).text
    except PromptSetError as error:
        raise SamplerError(f"{path}: {error}") from error


def _json_rows(text: str) -> list[dict[str, Any]]:
    """One object a line; completions may hold U+2028, which separates lines elsewhere."""
    lines = enumerate(text.split("\n"), start=1)
    rows = [parse_json(line, f"line {number}") for number, line in lines if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line is no object")
    return rows


def _in_sample_order(path: Path, frame: Any) -> Any:
    """Sorted by ``sample_index``; a rollout that stands there twice would count double."""
    if not all(isinstance(index, int) for index in frame["sample_index"].tolist()):
        raise SamplerError(f"{path}: sample_index holds values that are no integers")
    keys = frame[["sample_index"]].assign(prompt=frame["prompt"].astype(str))
    repeated = keys.duplicated()
    if repeated.any():
        first = frame[repeated].iloc[0]
        same = counted(int(repeated.sum()), "rollout repeats", "rollouts repeat")
        raise SamplerError(
            f"{path}: {same} the sample_index of another one of "
            f"their prompt (first: {first['sample_index']} of {str(first['prompt'])[:60]!r})"
        )
    return frame.sort_values("sample_index", kind="stable")


def _rollout(prompt: Prompt, place: int, row: Mapping[str, Any]) -> Rollout:
    try:
        values = {name: _array(name, row.get(name)) for name in PER_TOKEN}
        _check_ranges(values)
        reason = _finish_reason(row["finish_reason"])
    except (TypeError, ValueError) as error:
        raise SamplerError(f"prompt {prompt.id}, rollout {place}: {error}") from error
    if not isinstance(row["completion"], str):
        raise SamplerError(f"prompt {prompt.id}, rollout {place}: its completion is no text")
    lengths = {len(value) for value in values.values() if value is not None}
    if len(lengths) != 1:
        raise SamplerError(
            f"prompt {prompt.id}, rollout {place}: {', '.join(PER_TOKEN)} have the lengths "
            f"{sorted(lengths)}; one is needed"
        )
    token_ids = values["token_ids"]
    if token_ids is None:
        token_ids = np.full(lengths.pop(), UNKNOWN_TOKEN)
    return Rollout(
        prompt_id=prompt.id,
        sample_index=place,
        completion=row["completion"],
        token_ids=token_ids.astype(np.int64),
        logprobs=values["logprobs"],
        entropies=values["entropies"],
        finish_reason=reason,
    )


def _finish_reason(value: Any) -> FinishReason:
    if value not in list(FinishReason):
        raise ValueError(f"finish_reason={value!r}: {' or '.join(FinishReason)} is needed")
    return FinishReason(value)


def _array(name: str, value: Any) -> Any:
    """A per-token column of one row; ``None`` where it was not recorded."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    try:
        values = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        values = None
    if values is None or values.ndim != 1:
        raise ValueError(f"{name}: {str(value)[:60]!r} is no list of numbers")
    return values


def _check_ranges(values: Mapping[str, Any]) -> None:
    """Refuse values that cannot be what their column says, such as logprobs in entropies."""
    allowed = {
        "token_ids": (float(UNKNOWN_TOKEN), float(LARGEST_TOKEN_ID)),
        "logprobs": (-np.inf, ROUNDING_NATS),
        "entropies": (-ROUNDING_NATS, np.log(LARGEST_TOKEN_ID)),
    }
    for name, (low, high) in allowed.items():
        found = values[name]
        if found is None:
            continue
        if not np.isfinite(found).all():
            raise ValueError(f"{name} has values that are not finite")
        if ((found < low) | (found > high)).any():
            raise ValueError(f"{name} has values outside {low:g}..{high:g}")
    ids = values["token_ids"]
    if ids is not None and (ids != np.rint(ids)).any():
        raise ValueError("token_ids has values that are no integers")
