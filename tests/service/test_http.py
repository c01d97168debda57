"""The API over a real socket, with tokens: who may do what, and what is refused how."""

import itertools
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from mlflow_rlrisk.attestation.keys import SigningKey
from service.listening import check_port
from service.problems import SLUGS
from service.tables.tokens import Scope
from tests.service.running_service import (
    COMMAND,
    Client,
    free_port,
    running_service,
    write_settings,
)

pytestmark = pytest.mark.xdist_group("http")  # its server is started once


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, registry: str) -> Path:
    folder = tmp_path_factory.mktemp("service")
    limits = {"max_open": 20, "max_open_per_token": 3, "max_body_bytes": 200_000}
    return write_settings(folder, registry, limits=limits)


@pytest.fixture(scope="module")
def tokens(config: Path) -> Mapping[str, str]:
    from service.settings import load_settings
    from service.tables.opening import open_database
    from service.tables.tokens import TokenTable

    table = TokenTable(open_database(load_settings(config).database))
    made = {str(scope): table.create(str(scope), [scope])[0] for scope in Scope}
    made["other"] = table.create("other", [Scope.ASSESS, Scope.READ])[0]
    made["both"] = table.create("both", [Scope.ASSESS, Scope.READ])[0]
    made["expired"] = table.create("expired", [Scope.ADMIN], expires_at=1.0)[0]
    return made


@pytest.fixture(scope="module")
def url(config: Path, tokens: Mapping[str, str]) -> Iterator[str]:
    with running_service(config, role="api") as service:
        yield service.url


@pytest.fixture(scope="module")
def admin(url: str, tokens: Mapping[str, str]) -> Client:
    return Client(url, tokens["admin"])


@pytest.fixture
def both(url: str, tokens: Mapping[str, str], admin: Client) -> Iterator[Client]:
    yield Client(url, tokens["both"])
    for each in admin.ask("GET", "/v1/assessments?limit=200").json["assessments"]:
        admin.ask("DELETE", f"/v1/assessments/{each['id']}")


ROUTES = {
    ("POST", "/v1/assessments"): "assess",
    ("GET", "/v1/assessments"): "read",
    ("GET", "/v1/assessments/x"): "read",
    ("DELETE", "/v1/assessments/x"): "assess",
    ("GET", "/v1/assessments/x/events"): "read",
    ("GET", "/v1/assessments/x/report"): "read",
    ("POST", "/v1/decisions"): "read",
    ("GET", "/v1/models/x"): "read",
    ("POST", "/v1/runs/x/monitor"): "read",
    ("POST", "/v1/overrides"): "override",
    ("GET", "/v1/overrides"): "override",
    ("GET", "/v1/overrides/x"): "override",
    ("POST", "/v1/overrides/x/approval"): "override",
}
SIGNED = {("POST", "/v1/webhooks/mlflow")}
"""No token has a say there."""


def test_every_route_asks_for_exactly_its_scope(url: str, tokens: Mapping[str, str]) -> None:
    described = Client(url).ask("GET", "/openapi.json").json["paths"]
    documented = {
        (method.upper(), path)
        for path, operations in described.items()
        for method in operations
        if path.startswith("/v1/")
    }
    names = re.compile(r"\{\w+\}")
    assert {(m, names.sub("x", p)) for m, p in documented} == set(ROUTES) | SIGNED

    for (method, path), needed in ROUTES.items():
        body = b"{}" if method == "POST" else None
        for nobody in (None, "rlr_000000000000_" + "A" * 43, "x", tokens["expired"]):
            assert Client(url, nobody).ask(method, path, body).slug == "unauthorized"
        for scope in Scope:
            answer = Client(url, tokens[scope]).ask(method, path, body)
            may = scope in (needed, Scope.ADMIN)
            assert (answer.status == 403) is not may, (method, path, scope)


def test_a_revoked_token_is_refused_at_once_and_no_secret_is_stored(url: str, config: Path) -> None:
    def tokens_command(*arguments: str) -> dict[str, str]:
        command = [sys.executable, "-c", COMMAND, "tokens", *arguments, "--config", str(config)]
        done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
        return dict(json.loads(done.stdout))

    made = tokens_command("create", "pipeline", "--scope", "read")
    before = Client(url, made["token"]).ask("GET", "/v1/assessments").status
    tokens_command("revoke", made["id"])
    after = Client(url, made["token"]).ask("GET", "/v1/assessments")

    assert (before, after.slug) == (200, "unauthorized")
    secret = made["token"].removeprefix(f"rlr_{made['id']}_").encode()
    stored = b"".join(path.read_bytes() for path in config.parent.glob("rlrisk-service.db*"))
    assert made["id"].encode() in stored
    assert len(secret) == 43
    assert secret not in stored


def test_beyond_loopback_without_a_token_it_refuses_to_start(tmp_path: Path, registry: str) -> None:
    config = write_settings(tmp_path, registry)
    command = [sys.executable, "-c", COMMAND, "serve", "--config", str(config)]

    done = subprocess.run(
        [*command, "--host", "0.0.0.0"], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 2
    assert "beyond loopback a token is needed" in done.stderr


def test_a_supervisor_reads_on_standard_output_what_is_up_and_where(
    tmp_path: Path, registry: str
) -> None:
    config, port = write_settings(tmp_path, registry), free_port()
    key = tmp_path / "key.pem"
    signing = SigningKey.generate()
    signing.write(key)
    options = ["--port", str(port), "--signing-key", str(key), "--worker-name", "w", "--json"]
    command = [sys.executable, "-c", COMMAND, "serve", "--config", str(config), *options]
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as service,
    ):
        try:
            assert service.stdout is not None
            told = [json.loads(service.stdout.readline()) for _ in range(3)]
            url = f"http://127.0.0.1:{port}"
            alive = Client(url).ask("GET", "/livez").status
        finally:
            service.terminate()
        more = service.stdout.read()

    about = {each.pop("role"): each for each in told}
    pids = {each.pop("pid") for each in about.values()}
    assert (len(pids), service.pid in pids, alive, more) == (3, False, 200, "")
    place = str(tmp_path / "rlrisk-service" / f"signer-{socket.gethostname()}.sock")
    assert about == {
        "api": {"url": url, "dashboard": f"{url}/", "signs": True},
        "worker": {"name": "w"},
        "signer": {"key_ids": [signing.key_id], "socket": place},
    }


def test_a_service_that_cannot_start_says_so_in_json(tmp_path: Path, registry: str) -> None:
    config = write_settings(tmp_path, registry)
    command = [sys.executable, "-c", COMMAND, "serve", "--config", str(config), "--json"]

    done = subprocess.run(
        [*command, "--host", "0.0.0.0"], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "invalid_config"


def test_on_a_port_that_another_program_has_it_refuses_to_start(
    tmp_path: Path, registry: str
) -> None:
    config = write_settings(tmp_path, registry)
    hasty = f"import service.listening; service.listening.PATIENCE_S = 0.5; {COMMAND}"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-c", hasty, "serve", "--config", str(config), "--port", port]

        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 2
    assert f"port={port}: no service can listen there on 127.0.0.1" in done.stderr
    assert "gunicorn" not in done.stderr  # nothing of it was started


def test_a_port_that_is_freed_in_time_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as before:
        port = before.getsockname()[1]
        threading.Timer(0.5, before.close).start()

        check_port("127.0.0.1", port)

    assert f"port {port} on 127.0.0.1 is taken" in caplog.text


@pytest.mark.parametrize(
    ("body", "slug"),
    [
        (b"", "invalid-json"),
        (b'{"model":', "invalid-json"),
        (b"\xff\xfe{}", "invalid-json"),
        (b'{"a": NaN}', "invalid-json"),
        (b'{"a": 1e999}', "invalid-json"),
        (b'{"a": 1, "a": 2}', "invalid-json"),
        (b"[" * 100_000, "invalid-json"),
        (b'{"a": ' + b"9" * 5000 + b"}", "invalid-json"),
        (b"[]", "invalid-field"),
        (b"null", "invalid-field"),
        (b"{}", "invalid-field"),
        (b'{"model": "\\ud800"}', "invalid-field"),
        (b'{"\\udfff": 1}', "invalid-field"),
        (b'{"model": "' + b"m" * 70_000 + b'"}', "invalid-field"),
        (b" " * 300_000, "too-large"),
    ],
)
def test_a_body_that_is_no_strict_json_is_a_problem_document(
    admin: Client, body: bytes, slug: str
) -> None:
    for path in ("/v1/assessments", "/v1/decisions"):
        assert admin.ask("POST", path, body).slug == slug


def test_what_is_no_json_or_no_route_is_a_problem_document(admin: Client) -> None:
    typed = admin.ask("POST", "/v1/assessments", b"{}", Content_Type="text/plain")
    packed = admin.ask("POST", "/v1/assessments", b"{}", Content_Encoding="gzip")
    absent = admin.ask("GET", "/v1/nothing")
    method = admin.ask("PATCH", "/v1/assessments")
    strange = admin.ask("GET", "/v1/assessments?limit=0&state=lost")
    loaded = admin.ask("GET", "/livez", X_Filler="x" * 8000, Y_Filler="y" * 8000)

    assert [typed.slug, packed.slug, absent.slug, method.slug] == [
        *("media-type", "media-type", "not-found", "method"),
    ]
    assert strange.slug == "invalid-field"
    assert loaded.slug == "header-too-large"
    assert absent.json["request_id"] == absent.headers["X-Request-Id"]


HOSTILE = [
    *("http://169.254.169.254/latest", "https://evil.example/m", "file:///etc", "s3://b/k"),
    *("hf://gpt2", "gpt2", "meta-llama/Llama-3", "", " ", "\0", "/", "/etc", "/etc/passwd"),
    *("models:/", "models:/a", "models:/a/0", "models:/a/-1", "models:/a/1/", "models:/a/1/../2"),
    *("models://host/a/1", "models:/a/1?x=1", "models:/a/1#x", "models:/a%2f..%2fb/1"),
    *("runs:/", "runs:/x/y", "runs:/" + "0" * 32 + "/../x", "runs:/" + "0" * 32 + "/a%2fb"),
    *("mlflow-artifacts:/x", "dbfs:/x", "gs://b/x", "\\\\host\\share", "C:\\x", "~/x", "."),
    *("models:/a/latest", "models:/a/Production", "models:/a@", "models:/a@b@c", "models:/ａ/1"),
    *("models:/a/1\n", "models:/a\u202e/1", "MODELS:/a/1", "models:a/1", "user:pw@host/x"),
]


def test_hostile_model_references_are_refused_before_anything_is_asked(admin: Client) -> None:
    wrapped = [
        before + each + after
        for each, before, after in itertools.product(
            HOSTILE, ("", "../", "%00"), ("", "/..", "\0", "%2e%2e")
        )
    ]
    assert len(wrapped) >= 300

    for reference in wrapped:
        answer = admin.assess(reference)
        assert answer.slug in ("model-uri-refused", "invalid-field"), (reference, answer.body)
        assert "evil.example" not in answer.json["detail"]


def test_a_key_gives_the_same_assessment_and_refuses_another_body(both: Client) -> None:
    first = both.assess("models:/chains-sft/1", headers={"Idempotency_Key": "k1"})
    again = both.assess("models:/chains-sft/1", headers={"Idempotency_Key": "k1"})
    other = both.assess("models:/chains-sft/2", headers={"Idempotency_Key": "k1"})
    plain = both.assess("models:/chains-sft/1")

    assert (first.status, again.status, plain.status) == (202, 200, 202)
    assert first.json["id"] == again.json["id"] != plain.json["id"]
    assert first.headers["Location"] == f"/v1/assessments/{first.json['id']}"
    assert other.slug == "idempotency-conflict"
    assert both.assess("models:/a/1", headers={"Idempotency_Key": "x" * 129}).status == 400


def test_somebody_elses_assessment_is_not_there(
    both: Client, url: str, tokens: Mapping[str, str], admin: Client
) -> None:
    mine = both.assess("models:/chains-sft/1").json["id"]
    other = Client(url, tokens["other"])

    for method, suffix in (("GET", ""), ("DELETE", ""), ("GET", "/events"), ("GET", "/report")):
        assert other.ask(method, f"/v1/assessments/{mine}{suffix}").slug == "not-found"
    assert other.ask("GET", "/v1/assessments").json["assessments"] == []
    assert admin.ask("GET", f"/v1/assessments/{mine}").json["state"] == "queued"


def test_beyond_the_queue_limit_the_answer_says_when_to_come_again(both: Client) -> None:
    accepted = [both.assess("models:/chains-sft/1") for _ in range(3)]
    refused = both.assess("models:/chains-sft/1")
    both.ask("DELETE", f"/v1/assessments/{accepted[0].json['id']}")
    later = both.assess("models:/chains-sft/1")

    assert [each.status for each in accepted] == [202, 202, 202]
    assert refused.slug == "quota"
    assert int(refused.headers["Retry-After"]) >= 1
    assert later.status == 202


@pytest.mark.parametrize(
    ("more", "pointer"),
    [
        ({"prompt_set": "/etc/passwd"}, "/prompt_set"),
        ({"verifier": "os:system"}, "/verifier"),
        ({"policy": "mine"}, "/policy"),
        ({"lookahead": "mine"}, "/lookahead"),
        ({"lookahead": {"learning_rate": 1.0}}, "/lookahead"),
        ({"sampling": {"num_samples": 100_000}}, "/sampling/num_samples"),
        ({"sampling": {"num_samples": 2.5}}, "/sampling/num_samples"),
        ({"sampling": {"temperature": 0}}, "/sampling/temperature"),
        ({"group_size": 3, "sampling": {"num_samples": 2}}, "/sampling/num_samples"),
        ({"group_size": 1}, "/group_size"),
        ({"device": "cuda"}, "/device"),
        ({"allow_pickle": True}, "/allow_pickle"),
    ],
)
def test_an_unusable_field_is_named_by_its_pointer(
    admin: Client, more: dict[str, object], pointer: str
) -> None:
    answer = admin.assess("models:/chains-sft/1", **more)

    assert answer.slug == "invalid-field"
    assert pointer in [each["pointer"] for each in answer.json["errors"]]


def test_a_version_without_a_report_is_inconclusive_not_an_error(admin: Client) -> None:
    answer = admin.ask("POST", "/v1/decisions", {"model": "models:/chains-sft/1"})

    assert answer.status == 200
    assert answer.json["outcome"] == "inconclusive"


def test_the_document_lists_the_problems_of_the_table(admin: Client) -> None:
    found = admin.ask("GET", "/openapi.json").json

    listed = {
        slug
        for operations in found["paths"].values()
        for operation in operations.values()
        for status, answer in operation["responses"].items()
        if int(status) >= 400 and "application/problem+json" in answer.get("content", {})
        for slug in answer["description"].split(", ")
    }
    assert found["openapi"].startswith("3.1")
    assert listed <= set(SLUGS)
    of_no_operation_in_particular = {"header-too-large", "method", "uri-too-long"}
    assert set(SLUGS) - listed <= of_no_operation_in_particular
