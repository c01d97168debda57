"""Any model reference -> a screened local folder with a digest: a `Checkpoint`.

`opening` finds and screens it; what it screens are the `files`, their `safetensors_header`, the
`configuration_screen`, the `template_probe` and the `tokenizer_identity`.
"""

from mlflow_rlrisk.checkpoint.opening import (
    Checkpoint,
    Screened,
    open_checkpoint,
    screen_checkpoint,
)

__all__ = [
    "Checkpoint",
    "Screened",
    "open_checkpoint",
    "screen_checkpoint",
]
