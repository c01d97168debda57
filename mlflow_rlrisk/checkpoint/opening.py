"""Any model reference becomes a screened local folder with a digest: a `Checkpoint`.

Nothing is loaded here and no code of the checkpoint runs: files are found, screened and hashed.
``mlflow.*.load_model`` is never used, because it runs code that the checkpoint brings along.
"""

import shutil
import tempfile
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mlflow_rlrisk.checkpoint.files import (
    Layout,
    find_layout,
    hash_files,
    matter_of,
    read_config,
    read_template,
    screen_weights,
)
from mlflow_rlrisk.checkpoint.template_probe import refuse_hostile_template
from mlflow_rlrisk.checkpoint.tokenizer_identity import tokenizer_digest
from mlflow_rlrisk.content import text_digest
from mlflow_rlrisk.model_reference import ModelSource, resolve_reference


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class Checkpoint:
    """A local, screened checkpoint folder and what is known of its origin.

    Attributes:
        reference: The reference as it was given.
        model_path: Folder with ``config.json`` and the weights.
        tokenizer_path: Folder with the tokenizer files; equals ``model_path`` in a raw folder.
        digest: SHA-256 over the sorted (path, size, SHA-256) of weights, configuration, tokenizer
            and template.
        tokenizer_digest: SHA-256 over what the tokenizer files say, however they were written.
        template_digest: SHA-256 of the default chat template; ``None`` where there is none.
        config: The parsed ``config.json``.
        num_parameters: Numbers stored in the weight files; ``None`` for pickled weights. Tied
            weights are stored, and counted, once.
        allow_pickle: The operator allowed pickled weights.
        registered_name: Name in the registry, where it came from there.
        version: Version in the registry.
        alias: Alias it was asked for by.
        model_id: The LoggedModel behind it.
        run_id: The run that logged it.
    """

    reference: str
    model_path: Path
    tokenizer_path: Path
    digest: str
    tokenizer_digest: str
    template_digest: str | None
    config: dict[str, Any] = field(repr=False)
    num_parameters: int | None
    allow_pickle: bool = False
    registered_name: str | None = None
    version: str | None = None
    alias: str | None = None
    model_id: str | None = None
    run_id: str | None = None

    @property
    def model_type(self) -> str:
        """The architecture family of ``config.json``, such as ``llama``."""
        return str(self.config["model_type"])

    @property
    def display_name(self) -> str:
        """``name/version`` for a registered version, else the reference."""
        if self.registered_name is not None and self.version is not None:
            return f"{self.registered_name}/{self.version}"
        return self.reference


class Screened(NamedTuple):
    """What is known of a checkpoint without reading its weights."""

    tokenizer_digest: str
    template_digest: str | None
    dtype: str | None
    """Of the weights, where the configuration says it."""


def screen_checkpoint(reference: str | Path, *, allow_pickle: bool = False) -> Screened | None:
    """Screen a checkpoint as `open_checkpoint` does, but hash no weights.

    Returns:
        What its small files say; ``None`` where they would have to be fetched first.

    Raises:
        ModelReferenceError: The reference is malformed or names nothing.
        CheckpointError: The files are incomplete, damaged or unsafe.
    """
    source = resolve_reference(str(reference))
    if source.local_path is None:
        return None
    return _screened(find_layout(source.local_path), allow_pickle=allow_pickle)[0]


def open_checkpoint(reference: str | Path, *, allow_pickle: bool = False) -> Checkpoint:
    """Resolve, fetch, screen and hash a checkpoint.

    Args:
        reference: A local folder, ``models:/name/version``, ``models:/name@alias``,
            ``models:/name/stage``, ``models:/m-<id>`` or ``runs:/<run_id>/path``. An alias or a
            stage is resolved once.
        allow_pickle: Accept pickled weights where there is no safetensors file.

    Returns:
        The checkpoint. Artifacts in a local folder are used in place; others are downloaded into
        a private folder that is removed with the returned object.

    Raises:
        ModelReferenceError: The reference is malformed or names nothing.
        CheckpointError: The files are incomplete, damaged or unsafe.
    """
    source = resolve_reference(str(reference))
    if source.local_path is not None:
        return _inspect(source, source.local_path, allow_pickle=allow_pickle)
    private = Path(tempfile.mkdtemp(prefix="rlrisk-checkpoint-"))
    try:
        checkpoint = _inspect(source, source.download(private), allow_pickle=allow_pickle)
    except BaseException:
        shutil.rmtree(private, ignore_errors=True)
        raise
    weakref.finalize(checkpoint, shutil.rmtree, private, ignore_errors=True)
    return checkpoint


def _inspect(source: ModelSource, folder: Path, *, allow_pickle: bool) -> Checkpoint:
    layout = find_layout(folder)
    screened, config, num_parameters = _screened(layout, allow_pickle=allow_pickle)
    return Checkpoint(
        reference=source.reference,
        model_path=layout.model_path,
        tokenizer_path=layout.tokenizer_path,
        digest=hash_files(matter_of(layout, allow_pickle=allow_pickle)),
        tokenizer_digest=screened.tokenizer_digest,
        template_digest=screened.template_digest,
        config=config,
        num_parameters=num_parameters,
        allow_pickle=allow_pickle,
        registered_name=source.registered_name,
        version=source.version,
        alias=source.alias,
        model_id=source.model_id,
        run_id=source.run_id,
    )


def _screened(layout: Layout, *, allow_pickle: bool) -> tuple[Screened, dict[str, Any], int | None]:
    """The digests of tokenizer and template, the configuration, the number of parameters."""
    config = read_config(layout)
    num_parameters = screen_weights(layout, config, allow_pickle=allow_pickle)
    template = read_template(layout)
    if template is not None:
        refuse_hostile_template(template)
    digest = None if template is None else text_digest(template)
    dtype = config.get("dtype") or config.get("torch_dtype")
    said = dtype if isinstance(dtype, str) else None
    return Screened(tokenizer_digest(layout), digest, said), config, num_parameters
