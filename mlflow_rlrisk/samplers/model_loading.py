"""Load a screened checkpoint with plain transformers and refuse what would sample nonsense.

transformers fills missing weights with random numbers and only logs it, and it replaces a missing
tokenizer by an empty one; both end here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlflow_rlrisk.checkpoint import Checkpoint
from mlflow_rlrisk.checkpoint.configuration_screen import PACKED
from mlflow_rlrisk.config import AssessmentConfig
from mlflow_rlrisk.errors import CheckpointError, ConfigError, MissingDependencyError
from mlflow_rlrisk.plurals import counted

if TYPE_CHECKING:
    import torch

TIED = 2
"""A tied head is stored once and made twice before it is tied."""
SLACK = 2**28
"""Numbers in buffers that are not stored, such as masks of older architectures."""


def require_transformers() -> None:
    """Check that the ``hf`` extra is there.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("sampling with transformers", "hf") from error


def pick_device(name: str) -> "torch.device":
    """The device of a setting; ``auto`` is CUDA where there is one.

    Raises:
        ConfigError: The name is unknown or the device is not there.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError("device", name, "must be auto, cpu, cuda or cuda:<index>") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError("device", name, "must be auto, cpu, cuda or cuda:<index>")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError("device", name, f"this machine has {torch.cuda.device_count()} GPUs")
    return device


def load_model(checkpoint: Checkpoint, config: AssessmentConfig) -> Any:
    """Load the weights, whole and finite, on the device.

    Raises:
        CheckpointError: The architecture is unknown, weights are missing, of a wrong shape or
            not finite, or the vocabulary has a single word.
        MissingDependencyError: The ``hf`` extra is not installed.
    """
    require_transformers()
    from transformers import AutoModelForCausalLM

    loader: Any = AutoModelForCausalLM
    try:
        _refuse_absurd_size(checkpoint)
        with _no_progress_bar():
            model, loaded = loader.from_pretrained(
                checkpoint.model_path,
                dtype=config.dtype,
                trust_remote_code=False,
                local_files_only=True,
                use_safetensors=None if checkpoint.allow_pickle else True,
                ignore_mismatched_sizes=True,  # reported below by name, and refused
                output_loading_info=True,
            )
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{checkpoint.display_name}: transformers cannot load it: {_shown(error)}"
        ) from error
    _refuse_partial(checkpoint, loaded)
    model = model.to(pick_device(config.device)).eval()
    vocab_size = model.get_input_embeddings().weight.shape[0]
    if vocab_size < 2:
        raise CheckpointError(
            f"{checkpoint.display_name}: its vocabulary has {vocab_size} token; every rollout "
            "would be the same and RL could not learn"
        )
    _refuse_not_finite(checkpoint, model)
    # Padding is masked by position here; with a pad id some models search every input for it.
    # Some configurations accept a number only, which is why it is set past their check.
    vars(model.config)["pad_token_id"] = None
    return model


def load_config(checkpoint: Checkpoint) -> Any:
    """The configuration as transformers reads it, what the file leaves out filled in.

    Raises:
        CheckpointError: transformers does not know it.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(
            checkpoint.model_path, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:
        raise CheckpointError(
            f"{checkpoint.display_name}: transformers cannot read its config.json: {_shown(error)}"
        ) from error


def _refuse_absurd_size(checkpoint: Checkpoint) -> None:
    """Build the architecture without memory first: what is missing would be allocated.

    Raises:
        CheckpointError: It would hold far more numbers than the weight files.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if checkpoint.num_parameters is None:
        return
    config = load_config(checkpoint)
    maker: Any = AutoModelForCausalLM
    with torch.device("meta"):
        model = maker.from_config(config, trust_remote_code=False)
    size = sum(each.numel() for each in (*model.parameters(), *model.buffers()))
    factor = PACKED if "quantization_config" in checkpoint.config else TIED
    if size > factor * checkpoint.num_parameters + SLACK:
        raise CheckpointError(
            f"{checkpoint.display_name}: its configuration makes a model of {size:,} numbers, its "
            f"weights hold {checkpoint.num_parameters:,}"
        )


def _shown(error: Exception) -> str:
    return str(error) or type(error).__name__


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """The caller shows progress; bars of the loader would tear its lines."""
    logging: Any = import_module("transformers.utils.logging")
    was_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            logging.enable_progress_bar()


def _refuse_partial(checkpoint: Checkpoint, loaded: dict[str, Any]) -> None:
    for kind, one, many, meaning in (
        ("missing_keys", "weight is", "weights are", "missing and would be random"),
        (
            "mismatched_keys",
            "weight has",
            "weights have",
            "another shape than the configuration says",
        ),
        ("unexpected_keys", "weight belongs", "weights belong", "to no part of the architecture"),
        ("error_msgs", "weight", "weights", "could not be converted"),
    ):
        keys = sorted(str(key) for key in loaded.get(kind) or ())
        if keys:
            raise CheckpointError(
                f"{checkpoint.display_name}: {counted(len(keys), one, many)} {meaning}: "
                f"{', '.join(keys[:4])}"
            )


def _refuse_not_finite(checkpoint: Checkpoint, model: Any) -> None:
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise CheckpointError(
                f"{checkpoint.display_name}: the weight {name} has values that are not finite"
            )


def load_tokenizer(checkpoint: Checkpoint, vocab_size: int) -> Any:
    """Load the tokenizer and check that it is the checkpoint's own.

    Args:
        checkpoint: The checkpoint.
        vocab_size: Rows of the model's embedding.

    Raises:
        CheckpointError: There is none, it is empty, or it has more words than the model.
    """
    from transformers import AutoTokenizer

    if not _has_vocabulary(checkpoint):
        raise CheckpointError(
            f"{checkpoint.display_name}: no tokenizer in {checkpoint.tokenizer_path}; save it "
            "beside the model"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            checkpoint.tokenizer_path, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:
        raise CheckpointError(
            f"{checkpoint.display_name}: its tokenizer cannot be loaded: {_shown(error)}"
        ) from error
    num_words = len(tokenizer)
    if num_words < 2:
        raise CheckpointError(
            f"{checkpoint.display_name}: its tokenizer ({type(tokenizer).__name__}) is empty"
        )
    if num_words > vocab_size:
        raise CheckpointError(
            f"{checkpoint.display_name}: its tokenizer has {num_words} words, the model's "
            f"embedding {vocab_size} rows"
        )
    return tokenizer


def _has_vocabulary(checkpoint: Checkpoint) -> bool:
    folder = checkpoint.tokenizer_path
    names = ("tokenizer.json", "vocab.json", "vocab.txt")
    return any((folder / name).is_file() for name in names) or any(folder.glob("*.model"))
