"""Any known dataset of prompts -> `PromptSet`, with a digest of its content.

`sources` reads tables, `schemas` recognises whose columns they are, `prompt_set` puts the set
together.
"""

from mlflow_rlrisk.prompts.prompt_set import (
    ID_LENGTH,
    PromptSet,
    content_digest,
    load_prompts,
    not_rendered,
    num_templated,
    prompt_digest,
)

__all__ = [
    "ID_LENGTH",
    "PromptSet",
    "content_digest",
    "load_prompts",
    "not_rendered",
    "num_templated",
    "prompt_digest",
]
