"""What makes two tokenizers one: what they do to text, not how their files were written.

Every ``save_pretrained`` rewrites ``tokenizer_config.json`` and adds keys about the loading. An
SFT checkpoint would then never be comparable with its base although every prompt gives the same
tokens. JSON files are hashed by content without such keys; everything else byte for byte. Chat
templates have a digest of their own.
"""

import json
from pathlib import Path

from mlflow_rlrisk.checkpoint.files import Layout, read_json, tokenizer_files
from mlflow_rlrisk.content import FileEntry, content_digest, file_entry, text_digest

UNREAD = {
    "tokenizer_config.json": frozenset(
        {
            "_commit_hash",
            "chat_template",
            "is_local",
            "local_files_only",
            "model_max_length",
            "name_or_path",
            "padding_side",
            "processor_class",
            "truncation_side",
        }
    ),
    "tokenizer.json": frozenset({"padding", "truncation"}),
}
"""Keys that change no token id here: prompts are neither padded nor cut by the tokenizer."""

_TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")


def tokenizer_digest(layout: Layout) -> str:
    """SHA-256 over what the tokenizer files say.

    Raises:
        CheckpointError: A JSON file cannot be read.
    """
    return content_digest(
        _entry(layout, name, path)
        for name, path in tokenizer_files(layout)
        if not name.startswith(_TEMPLATES)
    )


def _entry(layout: Layout, name: str, path: Path) -> FileEntry:
    if name not in UNREAD:
        return file_entry(name, path)
    found = read_json(layout, path)
    kept = {key: value for key, value in found.items() if key not in UNREAD[name]}
    text = json.dumps(kept, sort_keys=True, ensure_ascii=False)
    return FileEntry(name, len(text), text_digest(text))
