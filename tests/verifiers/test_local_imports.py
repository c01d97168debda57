import json
import warnings
from pathlib import Path

import pytest

from mlflow_rlrisk.verifiers import loading
from mlflow_rlrisk.verifiers.local_imports import local_imports


def written(folder: Path, **sources: str) -> Path:
    """Files below ``folder``; ``a__b`` is ``a/b.py``, ``a__init`` is ``a/__init__.py``."""
    for name, source in sources.items():
        parts = ["__init__" if part == "init" else part for part in name.split("__")]
        path = folder.joinpath(*parts).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return folder


def found(source: Path, module: str | None = None) -> set[str]:
    root = source.parents[len(module.split(".")) - 1 if module else 0]
    return {path.relative_to(root).as_posix() for path in local_imports(source, module)}


@pytest.mark.parametrize(
    ("statement", "files"),
    [
        ("import helper", {"helper.py"}),
        (
            "import helper as h, math, pack.words",
            {"helper.py", "pack/__init__.py", "pack/words.py"},
        ),
        ("from helper import WORDS", {"helper.py"}),
        ("from pack import words", {"pack/__init__.py", "pack/words.py"}),
        ("from pack.words import WORDS", {"pack/__init__.py", "pack/words.py"}),
        ("from pack import *", {"pack/__init__.py", "pack/words.py", "pack/deep/__init__.py"}),
        ("from . import helper", {"helper.py"}),
        ("from .helper import WORDS", {"helper.py"}),
        ("from plain import words", {"plain/words.py"}),
        ("def grade(c):\n    if c:\n        from helper import WORDS", {"helper.py"}),
        (
            "try:\n    import helper\nexcept ImportError:\n    import spare",
            {"helper.py", "spare.py"},
        ),
        ("import os, json, numpy.linalg, no_such_module", set()),
        ("from __future__ import annotations\nfrom .. import helper\nfrom ..... import x", set()),
        ("import helper, helper.more", {"helper.py"}),
    ],
)
def test_each_way_to_import_a_file_beside_is_seen(
    tmp_path: Path, statement: str, files: set[str]
) -> None:
    folder = written(
        tmp_path / "home",
        rewards=statement,
        helper="",
        spare="",
        other="",
        pack__init="",
        pack__words="",
        pack__deep__init="",
        plain__words="",
    )
    written(tmp_path, helper="# above the folder")

    assert found(folder / "rewards.py") == files


def test_what_is_imported_is_followed_in_its_turn_and_circles_end(tmp_path: Path) -> None:
    folder = written(
        tmp_path,
        rewards="import pack.first",
        pack__init="",
        pack__first="from . import second",
        pack__second="import last, rewards",
        pack__last="# `last` is not this one",
        last="from pack import first",
    )

    assert found(folder / "rewards.py") == {
        "pack/__init__.py",
        "pack/first.py",
        "pack/second.py",
        "last.py",
    }


def test_a_module_imports_from_where_its_name_starts_and_not_from_its_folder(
    tmp_path: Path,
) -> None:
    folder = written(
        tmp_path,
        pack__sub__rewards="import math, top, pack.words\nfrom ..other import X",
        pack__sub__math="# `math` is not this one",
        pack__init="",
        pack__words="",
        pack__other="",
        top="",
    )
    needed = {"top.py", "pack/__init__.py", "pack/words.py", "pack/other.py"}

    assert found(folder / "pack/sub/rewards.py", "pack.sub.rewards") == needed


def test_a_file_in_a_package_reaches_the_package_by_its_name(tmp_path: Path) -> None:
    folder = written(
        tmp_path,
        pack__rewards="from pack.words import WORDS\nfrom .other import X\nimport beside",
        pack__init="",
        pack__words="",
        pack__other="",
        pack__beside="",
        beside="",
    )

    files = local_imports(folder / "pack" / "rewards.py")

    assert {path.relative_to(folder).as_posix() for path in files} == {
        "pack/__init__.py",
        "pack/words.py",
        "pack/other.py",
        "pack/beside.py",
    }


@pytest.mark.parametrize("place", ["lib/python3.12/site-packages", "usr/lib/python3/dist-packages"])
def test_an_installed_file_and_the_standard_library_import_nothing(
    tmp_path: Path, place: str
) -> None:
    folder = written(tmp_path / place, rewards="import helper", helper="")

    assert local_imports(folder / "rewards.py") == {}
    assert local_imports(folder / "rewards.py", "rewards") == {}
    assert local_imports(Path(json.__file__), "json") == {}
    assert local_imports(Path(loading.__file__), loading.__name__) == {}


def test_a_checkout_of_this_package_beside_the_file_is_a_library() -> None:
    assert all(path.name == "__init__.py" for path in local_imports(Path(__file__), __name__))


def test_what_cannot_be_parsed_or_read_imports_nothing(tmp_path: Path) -> None:
    folder = written(tmp_path, rewards="import broken, gone, deep", helper="", deep="-" * 100_000)
    (folder / "broken.py").write_bytes(b"import helper\n\xff\0def")
    (folder / "gone.py").symlink_to(folder / "nowhere.py")

    assert found(folder / "rewards.py") == {"broken.py", "deep.py"}
    assert local_imports(folder / "broken.py") == local_imports(folder / "nowhere.py") == {}


def test_reading_a_file_warns_of_nothing(tmp_path: Path) -> None:
    # An invalid escape is said by the import, once.
    folder = written(tmp_path, rewards="import helper\nX = '\\d'", helper="")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files = found(folder / "rewards.py")

    assert files == {"helper.py"}
