"""Which model references are taken: registry names, run artifacts, folders that were listed.

The form is checked before anything is asked of anybody; where a version's files lie is checked
again after the registry has answered, because whoever registers a version writes its ``source``.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from service.problems import Problem
from service.settings import ServiceSettings

if TYPE_CHECKING:
    from mlflow_rlrisk import ModelSource

_NAME = r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,255}"
NAMES = "names have A-Z a-z 0-9 space . _ - and begin with a letter or digit"
_VERSION = re.compile(rf"models:/({_NAME})/([1-9][0-9]{{0,9}})")
_ALIAS = re.compile(rf"models:/({_NAME})@([A-Za-z0-9_-]{{1,255}})")
_RUN = re.compile(r"runs:/[0-9a-f]{32}/[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+){0,8}")
_LOGGED = re.compile(r"models:/m-[0-9a-f]{8,64}")
_ODD = re.compile(r"[%?#\\\x00-\x1f\x7f]")
"""What another reader of an address could take for something else."""
_PROXIED = ("mlflow-artifacts",)


def check_form(reference: str, settings: ServiceSettings) -> None:
    """Refuse a reference that is not of the forms that are taken; asks nobody.

    Raises:
        Problem: ``model-uri-refused``.
    """
    if ".." in reference.split("/"):
        raise Problem("model-uri-refused", "'..' is not allowed")
    if any(form.fullmatch(reference) for form in (_VERSION, _ALIAS, _RUN, _LOGGED)):
        return
    if reference.startswith("/") and _is_below(reference, settings.model_roots):
        return
    raise Problem(
        "model-uri-refused",
        "models:/name/version, models:/name@alias, models:/m-<id>, runs:/<id>/path"
        f" or a folder that the operator listed is needed; {NAMES}",
    )


def version_of(reference: str) -> tuple[str, str] | None:
    """Name and version of ``models:/name/version``; ``None`` for another form."""
    match = _VERSION.fullmatch(reference)
    return None if match is None else (match[1], match[2])


def alias_of(reference: str) -> tuple[str, str] | None:
    """Name and alias of ``models:/name@alias``; ``None`` for another form."""
    match = _ALIAS.fullmatch(reference)
    return None if match is None else (match[1], match[2])


def refusal_of_source(source: "ModelSource", settings: ServiceSettings) -> str | None:
    """Why files at this place are not taken; ``None`` where they are."""
    if source.local_path is not None:
        roots = (*settings.model_roots, *settings.artifact_roots)
        if _is_below(str(source.local_path), roots):
            return None
        return "the version's files lie in a folder that the operator did not list"
    where = source.artifact_uri or ""
    is_plain = ".." not in where.split("/") and not _ODD.search(where)
    parts = urlparse(where)
    if is_plain and parts.scheme in _PROXIED and not parts.netloc:
        return None
    for root in settings.artifact_roots:
        is_below = where.startswith(root.rstrip("/") + "/")
        if "://" in root and is_plain and is_below and _host(where) == _host(root):
            return None
    return "the version's files lie in a store that the operator did not list"


def _host(address: str) -> str:
    """Host with user, for an operator's root may name one (``wasbs://container@account/``)."""
    return urlparse(address).netloc


def has_links(folder: Path) -> bool:
    """Whether anything below ``folder`` is a link or no plain file."""
    return any(
        entry.is_symlink() or not (entry.is_file() or entry.is_dir()) for entry in folder.rglob("*")
    )


def _is_below(path: str, roots: tuple[str, ...]) -> bool:
    if "\0" in path or len(path) > 4096:
        return False
    real = Path(path).resolve()
    return any(real.is_relative_to(Path(root).resolve()) for root in roots if "://" not in root)
