"""What ``compare`` and ``drift`` refuse before the first model is sampled, for that takes hours."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from mlflow_rlrisk.commands.option_values import parse_mapping
from mlflow_rlrisk.errors import CheckpointError, ComparabilityError

_TEMPLATE = "chat template"
_MUST_AGREE = {"tokenizer": "tokenizer_digest", _TEMPLATE: "template_digest"}


def refuse_rounds(command: str, settings: Mapping[str, Any]) -> None:
    """Refuse a budget under which two models may get other prompts and other samples of them.

    Raises:
        UsageError: It is such.
    """
    if settings["budget"] == "auto":
        raise click.UsageError(
            f"{command} needs the same prompts and samples of every model: --budget auto would "
            "stop each where its own level is decided; take --budget fixed"
        )


def refuse_unlike(references: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Screen every model that lies in a local folder, and compare what their small files say.

    What has to be fetched, or has no files at all, is screened when it is assessed.

    Raises:
        ModelReferenceError: A reference names nothing.
        CheckpointError: A model is incomplete, damaged or unsafe.
        ComparabilityError: Two models differ in tokenizer, in the chat template that a prompt goes
            through or, where each would be sampled as it is stored, dtype; all that differ are
            named.
        PromptSetError: The templates differ, and the prompts cannot be read.
    """
    from mlflow_rlrisk.checkpoint import screen_checkpoint
    from mlflow_rlrisk.samplers import DEFAULT_SAMPLER, load_sampler, needs_checkpoint

    build = load_sampler(settings["backend"])
    found = {}
    for reference in references:
        if needs_checkpoint(build, reference):
            try:
                screened = screen_checkpoint(reference, allow_pickle=settings["allow_pickle"])
            except CheckpointError as error:
                raise CheckpointError(f"{reference}: {error}") from error
            if screened is not None:
                found[reference] = screened
    faults = []
    for what, name in _MUST_AGREE.items():
        digests = {reference: getattr(screened, name) for reference, screened in found.items()}
        if len(set(digests.values())) > 1 and (what != _TEMPLATE or _is_templated(settings)):
            shown = ", ".join(
                f"{reference}: {digest[:12] if digest else 'none'}"
                for reference, digest in digests.items()
            )
            faults.append(f"{what} ({shown})")
    dtypes = {
        reference: screened.dtype
        for reference, screened in found.items()
        if screened.dtype is not None
    }
    # Engines take other types than the stored ones, and may take one for both.
    is_plain = settings["backend"] in ("auto", DEFAULT_SAMPLER)
    is_as_stored = is_plain and settings["dtype"] == "auto"
    if is_as_stored and len(set(dtypes.values())) > 1:
        shown = ", ".join(f"{reference}: {dtype}" for reference, dtype in dtypes.items())
        faults.append(f"dtype of the weights ({shown}; --dtype samples all in one)")
    if faults:
        raise ComparabilityError("these models cannot be compared: other " + "; ".join(faults))


def _is_templated(settings: Mapping[str, Any]) -> bool:
    """Whether any prompt goes through a chat template, or an expert's example may."""
    from mlflow_rlrisk.prompts import load_prompts, num_templated

    if settings["expert_data"] is not None:
        return True
    prompts = load_prompts(settings["prompts"], parse_mapping(settings["mapping"]))
    return num_templated(prompts, settings["chat_template"]) > 0


def place_of(reference: str) -> object:
    """What the reference leads to: a folder, or a version of a registered model."""
    from mlflow_rlrisk.model_reference import resolve_reference

    path = Path(reference).expanduser()
    if path.exists():
        return os.path.normpath(path.absolute())  # a link is another name that somebody wants
    source = resolve_reference(reference)
    if source.version is None:
        return reference
    return source.registered_name, source.version
