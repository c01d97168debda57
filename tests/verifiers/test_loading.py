import functools
import importlib.util
import json
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

import mlflow_rlrisk
from mlflow_rlrisk.errors import VerifierError
from mlflow_rlrisk.verifiers import LoadedVerifier, load_verifier
from mlflow_rlrisk.verifiers.loading import source_digest
from mlflow_rlrisk.verifiers.specs import VerifierSpec, parse_spec
from tests.verifiers.conftest import WriteVerifier

TOP_LEVEL_SOURCE = "def grade(completion, truth):\n    return completion == truth\n"


def test_builtin_names_are_known_with_their_options() -> None:
    assert load_verifier("exact:casefold").kind == "builtin"
    assert load_verifier("regex:a:b").name == "regex:a:b"
    assert load_verifier("numeric").extracts_answers
    digests = [load_verifier(s).digest for s in ("exact", "exact:casefold", "numeric", "regex:a")]
    assert len(set(digests)) == 4
    assert load_verifier("exact").digest == digests[0]


def test_a_function_says_its_dialect_and_name(write_verifier: WriteVerifier) -> None:
    loaded = load_verifier(write_verifier("def grade(prompts, completions, **kwargs): ..."))

    assert (loaded.name, loaded.kind, loaded.dialect) == (
        "own_verifier.py:grade",
        "function",
        "trl",
    )
    assert not loaded.extracts_answers


def test_the_digest_follows_the_source_and_not_the_place(tmp_path: Path) -> None:
    def load(folder: str, source: str) -> LoadedVerifier:
        path = tmp_path / folder / "rewards.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
        return load_verifier(f"{path}:grade")

    here, there = load("a", TOP_LEVEL_SOURCE), load("b", TOP_LEVEL_SOURCE)
    changed = load("b", TOP_LEVEL_SOURCE + "# and a word\n")

    assert here.digest == there.digest != changed.digest


def test_the_digest_covers_the_file_a_function_is_imported_from(tmp_path: Path) -> None:
    (tmp_path / "impl.py").write_text(TOP_LEVEL_SOURCE)
    (tmp_path / "front.py").write_text("from impl import grade\n")
    before = load_verifier(f"{tmp_path}/front.py:grade").digest

    (tmp_path / "impl.py").write_text(TOP_LEVEL_SOURCE.replace("==", "!="))

    assert load_verifier(f"{tmp_path}/front.py:grade").digest != before


def test_a_file_that_imports_nothing_beside_it_keeps_its_digest(tmp_path: Path) -> None:
    # Grades are stored under it.
    source = "import json\n" + TOP_LEVEL_SOURCE
    (tmp_path / "rewards.py").write_text(source)
    (tmp_path / "helper.py").write_text("")
    plain = {"name": "grade", "options": "", "sources": [sha256(source.encode()).hexdigest()]}

    loaded = load_verifier(f"{tmp_path}/rewards.py:grade")

    assert loaded.digest == sha256(json.dumps(plain).encode()).hexdigest()


def write_with_helper(folder: Path, words: str = "{'right'}") -> Path:
    """``rewards.py`` and what it imports, in a package and beside it."""
    (folder / "words").mkdir(parents=True, exist_ok=True)
    (folder / "rewards.py").write_text(
        "from helper import is_right\n"
        "def grade(completion, truth):\n    return float(is_right(completion))\n"
    )
    (folder / "helper.py").write_text(
        "from words.known import WORDS\ndef is_right(completion):\n    return completion in WORDS\n"
    )
    (folder / "words" / "__init__.py").write_text("")
    (folder / "words" / "known.py").write_text(f"WORDS = {words}\n")
    return folder / "rewards.py"


@pytest.mark.parametrize("spec", ["{}:grade", "{}:is_right", "plain:{}:grade"])
def test_the_digest_covers_what_is_imported_from_beside_the_file(tmp_path: Path, spec: str) -> None:
    def digest(path: Path) -> str:
        loaded = load_verifier(spec.format(path)).digest
        assert source_digest(parse_spec(spec.format(path))) == loaded
        return loaded

    here = digest(write_with_helper(tmp_path / "a"))

    assert here == digest(write_with_helper(tmp_path / "b"))
    assert here != digest(write_with_helper(tmp_path / "b", "{'wrong'}"))
    (tmp_path / "b" / "beside.py").write_text("# imported by nothing\n")
    assert here == digest(write_with_helper(tmp_path / "b"))


def test_the_digest_of_a_module_covers_what_its_package_gives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "mine" / "rewards"
    package.mkdir(parents=True)
    (tmp_path / "mine" / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    (tmp_path / "mine" / "helper.py").write_text("WORDS = {'right'}\n")
    (package / "words.py").write_text(
        "from ..helper import WORDS\n"
        "def grade(completion, truth):\n    return float(completion in WORDS)\n"
    )
    spec = "mine.rewards.words:grade"
    before = load_verifier(spec).digest

    (tmp_path / "mine" / "helper.py").write_text("WORDS = {'wrong'}\n")

    after = load_verifier(spec).digest
    assert source_digest(parse_spec(spec)) == after != before
    (package / "__init__.py").unlink()  # a namespace in a package: only an import can tell
    assert source_digest(parse_spec(spec)) is None
    assert load_verifier(spec).digest == after


def test_the_digest_of_an_evaluate_script_covers_what_is_copied_with_it(tmp_path: Path) -> None:
    pytest.importorskip("evaluate")
    metric = tmp_path / "own_metric"
    shutil.copytree(Path(__file__).parent / "dialect_rewards" / "own_metric", metric)
    script = metric / "own_metric.py"
    script.write_text("from .sums import TOTAL\n" + script.read_text())

    def digest(total: int) -> str:
        (metric / "sums.py").write_text(f"TOTAL = {total}\n")
        return load_verifier(f"evaluate:{script}").digest

    assert digest(1) != digest(2)


def test_a_helper_that_cannot_be_parsed_is_the_error_of_its_import(tmp_path: Path) -> None:
    path = write_with_helper(tmp_path)
    (tmp_path / "helper.py").write_text("def (\n")

    with pytest.raises(VerifierError, match="SyntaxError"):
        load_verifier(f"{path}:grade")


def test_extract_answer_beside_the_function_is_found(write_verifier: WriteVerifier) -> None:
    loaded = load_verifier(
        write_verifier("""
            def grade(completion, truth): ...
            def extract_answer(completion): ...
        """)
    )

    assert loaded.extracts_answers


def test_a_function_object_is_named_by_where_it_can_be_imported() -> None:
    assert parse_spec(shutil.which) == VerifierSpec("shutil:which", "module", "shutil", "which")
    assert parse_spec(Path.exists).detail == "Path.exists"


def test_a_function_of_a_script_is_named_by_its_file(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from mlflow_rlrisk.verifiers import load_verifier\n"
        "def grade(completion, truth):\n    return 1.0\n"
        "if __name__ == '__main__':\n    print(load_verifier(grade).name)\n"
    )
    root = Path(__file__).parents[2]

    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(root)},
    )

    assert done.stdout == "script.py:grade\n", done.stderr


def test_a_script_that_assesses_when_it_is_imported_starts_no_workers_of_workers(
    tmp_path: Path,
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from mlflow_rlrisk.verifiers import load_verifier\n"
        "def grade(completion, truth):\n    return 1.0\n"
        "load_verifier('script:grade')\n"
    )

    with pytest.raises(VerifierError, match="starts an assessment when it is imported"):
        load_verifier(f"{script}:grade", timeout_s=60.0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "names no verifier"),
        ("fuzzy", "known names: exact, numeric, regex"),
        ("rewards.py", "names no verifier"),
        ("rewards.py:", "names no verifier"),
        ("no/such/rewards.py:grade", "there is no file"),
        ("a-b:grade", "neither a .py file nor a module"),
        ("no_such_module_here:grade", "ModuleNotFoundError"),
        ("json:no_such_function", "has no 'no_such_function'"),
        ("sys:exit", "has no source file"),
        ("json:dumps", "signature not understood"),
        ("exact:lower", "unknown option"),
        ("regex:(", "not a pattern"),
    ],
)
def test_a_spec_that_names_nothing_usable_says_why(spec: str, message: str) -> None:
    with pytest.raises(VerifierError, match=message):
        load_verifier(spec)


def test_a_function_that_no_worker_can_import_is_refused() -> None:
    def local(completion: str, truth: str) -> float:
        return 1.0

    for function in (local, lambda completion, truth: 1.0, functools.partial(local, truth="")):
        with pytest.raises(VerifierError, match=r"imported by a worker.*path/to/file\.py:name"):
            load_verifier(function)


def test_a_file_named_like_a_loaded_module_does_not_replace_it(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text(TOP_LEVEL_SOURCE)

    assert load_verifier(f"{tmp_path}/json.py:grade").name == "json.py:grade"


def test_a_package_can_register_verifiers_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "own_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[mlflow_rlrisk.verifiers]\nlength = own_plugin:length\nbroken = own_plugin:broken\n"
    )
    (tmp_path / "own_plugin.py").write_text(
        "from mlflow_rlrisk.verifiers import Outcome\n"
        "class Length:\n"
        "    def __init__(self, limit): self.limit = limit\n"
        "    def problem_with(self, truth, columns): return None\n"
        "    def verify(self, request):\n"
        "        return [Outcome(status='scored', reward=float(len(c) <= self.limit))\n"
        "                for c in request.completions]\n"
        "def length(options): return Length(int(options))\n"
        "def broken(options): return object()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    loaded = load_verifier("length:3")

    assert (loaded.kind, loaded.name) == ("plugin", "length:3")
    with pytest.raises(VerifierError, match="invalid literal"):
        load_verifier("length:x")
    with pytest.raises(VerifierError, match="has no method problem_with"):
        load_verifier("broken")


def register(folder: Path, package: str, version: str = "1.0") -> Path:
    """A package ``own_rewards`` whose verifier ``agrees`` grades by a file beside its factory."""
    info = folder / f"{package}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    points = "[mlflow_rlrisk.verifiers]\nagrees = own_rewards.factory:agrees\n"
    (info / "entry_points.txt").write_text(points)
    home = folder / "own_rewards"
    home.mkdir(exist_ok=True)
    (home / "__init__.py").touch()
    (home / "factory.py").write_text("from own_rewards.rule import Agrees as agrees\n")
    (home / "rule.py").write_text(
        "class Agrees:\n"
        "    def __init__(self, options): pass\n"
        "    def problem_with(self, truth, columns): return None\n"
        "    def verify(self, request): return []\n"
    )
    return home


def test_the_digest_of_a_registered_verifier_holds_what_its_factory_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = register(tmp_path, "own-rewards")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = load_verifier("agrees").digest
    assert load_verifier("agrees").digest == before

    for file in ("factory.py", "rule.py"):
        with (home / file).open("a") as text:
            text.write("# another one\n")
        assert load_verifier("agrees").digest != before
        before = load_verifier("agrees").digest


def test_an_installed_verifier_is_another_one_in_another_version_of_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is installed is not followed: rule.py differs in two releases, factory.py does not.
    digests = set()
    for version in ("1.0", "1.1"):
        installed = tmp_path / version / "site-packages"
        register(installed, "own-rewards", version)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(installed))
            digests.add(load_verifier("agrees").digest)

    assert len(digests) == 2


def test_a_verifier_that_two_packages_register_is_refused_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("own-rewards", "their-rewards"):
        register(tmp_path, package)
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(VerifierError, match="one package must register 'agrees': own-rewards, the"):
        load_verifier("agrees")


def test_the_digest_of_the_code_judge_holds_every_file_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Path(mlflow_rlrisk.__file__).parent
    copy = shutil.copytree(package, tmp_path / package.name)
    script = (
        "from mlflow_rlrisk.verifiers.loading import open_verifier\n"
        "from mlflow_rlrisk.verifiers.specs import parse_spec\n"
        "print(open_verifier(parse_spec('code'))[1].digest)"
    )

    def digest() -> str:
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    before = digest()
    with (copy / "verifiers" / "code" / "compare.py").open("a") as text:
        text.write("# another rule\n")

    assert digest() != before


def test_the_side_of_the_worker_imports_nothing_heavy() -> None:
    # Every replaced worker pays for what is imported here.
    code = (
        "import sys, mlflow_rlrisk.verifiers.worker; "
        "print([m for m in ('numpy', 'pandas', 'pydantic', 'mlflow', 'torch') if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
    assert importlib.util.find_spec("numpy") is not None
