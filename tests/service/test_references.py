"""References and sources that attack whoever follows them, without a server."""

from pathlib import Path

import pytest

from mlflow_rlrisk import ConfigError, ModelSource
from service.app import create_app
from service.deps import Dependencies
from service.problems import Problem
from service.registry.references import check_form, refusal_of_source
from service.settings import ServiceSettings, load_settings
from service.tables.assessments import AssessmentTable
from service.tables.opening import open_database
from service.tables.tokens import TokenTable
from tests.service.running_service import write_settings

RUN = "runs:/" + "0" * 32
REFUSED = [
    *("models:/m/1/../../x", f"{RUN}/a/../../../etc", "models:/m/1/..", "models:/../m/1"),
    *("models:/m%2F1", "models:/m/%31", "models:/%252e%252e/1", f"{RUN}/%2e%2e/x"),
    *("models:/m\u22151", "models:/m\uff0f1", "models\uff1a/m/1", "models:\u2044m/1"),
    *("models:/m/\u0661", "models:/m/\uff11", "models:/\u0430/1", "models:/m\u200b/1"),
    *("models:/m/1 ", " models:/m/1", "models:/m/1\r\nX: y", "models:/m/1\x00", "models:/m/1\\x"),
    *("models:/m/1;x", "models:/m/01", "models:/m/1e3", "models:/m/99999999999", "models:///m/1"),
    *(f"{RUN}//x", f"{RUN}/x/", f"{RUN.upper()}/x", "runs:/" + "g" * 32 + "/x", f"{RUN}/x?y"),
    *("dbfs:/m", "s3://AKIA:secret@b/m", "wasbs://c@a/m", "hdfs://h/m", "ftp://u:p@h/m"),
    *("file:/etc", "file://localhost/etc", "FILE:///etc", "data:,x", "jar:file:/m!/x"),
    *("/proc/self/cwd/etc", "//host/share", "/dev/fd/0", "models:/m-zz", "models:/m-" + "0" * 65),
]


@pytest.fixture
def settings(tmp_path: Path) -> ServiceSettings:
    (tmp_path / "root" / "inside").mkdir(parents=True)
    (tmp_path / "root" / "out").symlink_to("/etc")
    (tmp_path / "root-beside").mkdir()
    return ServiceSettings(
        tracking_uri="http://mlflow",
        prompt_sets={},
        verifiers={},
        model_roots=(str(tmp_path / "root"),),
        artifact_roots=("s3://bucket/models/", "wasbs://box@store.example/m"),
    )


@pytest.mark.parametrize("reference", REFUSED)
def test_a_hostile_reference_is_refused_by_its_form(
    reference: str, settings: ServiceSettings
) -> None:
    with pytest.raises(Problem) as refused:
        check_form(reference, settings)

    assert refused.value.slug == "model-uri-refused"


def test_a_folder_is_taken_where_it_really_lies(tmp_path: Path, settings: ServiceSettings) -> None:
    check_form(str(tmp_path / "root" / "inside"), settings)

    for outside in ("root/out", "root/out/ssh", "root-beside", "root/../root-beside", ""):
        with pytest.raises(Problem):
            check_form(f"{tmp_path}/{outside}", settings)


@pytest.mark.parametrize(
    "where",
    [
        *(
            "http://evil.example/m",
            "https://u:p@h/m",
            "s3://other/m",
            "s3://bucket/models-beside/m",
        ),
        *("s3://bucket/models/../x", "s3://bucket/models/%2e%2e/x", "s3://bucket/models"),
        *("s3://u:p@bucket/models/m", "S3://bucket/models/m", "s3://bucket/models/m?x=1"),
        *("mlflow-artifacts://evil/m", "mlflow-artifacts:/1/../../2", "mlflow-artifacts:/%2e%2e/2"),
        *("mlflow-artifacts:/1/m?x=1", "mlflow-artifacts:/1/m#x", "mlflow-artifacts:/1\\..\\m"),
        *("wasbs://u@store.example/m/x", "dbfs:/m", "hf://gpt2", "gs://b/m", ""),
    ],
)
def test_a_version_whose_files_lie_elsewhere_is_refused(
    where: str, settings: ServiceSettings
) -> None:
    source = ModelSource(reference="models:/m/1", artifact_uri=where)

    assert refusal_of_source(source, settings) is not None


@pytest.mark.parametrize(
    "where",
    ["s3://bucket/models/m", "wasbs://box@store.example/m/x", "mlflow-artifacts:/1/models/m-0/a"],
)
def test_a_version_whose_files_lie_where_the_operator_said_is_taken(
    where: str, settings: ServiceSettings
) -> None:
    source = ModelSource(reference="models:/m/1", artifact_uri=where)

    assert refusal_of_source(source, settings) is None


def test_a_version_that_points_at_a_folder_is_held_to_the_roots(
    tmp_path: Path, settings: ServiceSettings
) -> None:
    inside, out = tmp_path / "root" / "inside", tmp_path / "root" / "out"

    assert refusal_of_source(ModelSource(reference="x", local_path=inside), settings) is None
    assert refusal_of_source(ModelSource(reference="x", local_path=out), settings) is not None


def test_the_machine_itself_is_answered_beside_the_names_that_the_operator_allows(
    tmp_path: Path,
) -> None:
    # The health check of an image asks 127.0.0.1.
    config = write_settings(tmp_path, "http://127.0.0.1:9", allowed_hosts=["rlrisk.internal"])
    settings = load_settings(config)
    jobs = AssessmentTable(open_database(settings.database))
    caller = create_app(settings, Dependencies(jobs=jobs)).test_client()

    for host, status in (
        ("127.0.0.1:8787", 200),
        ("rlrisk.internal", 200),
        ("evil.example", 400),
        ("127.0.0.1.evil.example", 400),
    ):
        assert caller.get("/livez", headers={"Host": host}).status_code == status, host


@pytest.mark.parametrize("path", ["/v1/assessments", "/v1/decisions"])
def test_a_name_of_other_letters_is_refused_with_those_that_are_taken(
    tmp_path: Path, path: str
) -> None:
    # MLflow takes it, and a refusal that only asks for models:/name/version is of no help.
    settings = load_settings(write_settings(tmp_path, "http://127.0.0.1:9"))
    jobs = AssessmentTable(open_database(settings.database))
    caller = create_app(settings, Dependencies(jobs=jobs)).test_client()
    more = {} if path.endswith("decisions") else {"prompt_set": "heldout", "verifier": "chains"}

    answer = caller.post(path, json={"model": "models:/größe+1/1", **more})

    assert answer.status_code == 422
    assert "A-Z a-z 0-9 space . _ -" in answer.get_json(force=True)["detail"]


@pytest.mark.parametrize("name", ["", "x" * 129, "two\nlines", "\x1b[31mred", "no\udcfftext"])
def test_a_token_is_for_a_name_that_can_be_shown(tmp_path: Path, name: str) -> None:
    table = TokenTable(open_database(f"sqlite:///{tmp_path / 'jobs.db'}"))

    with pytest.raises(ConfigError, match="1 to 128 printable characters are needed"):
        table.create(name, ["read"])
    assert table.list() == []
    assert table.create("größe ☃", ["read"])[1].name == "größe ☃"
