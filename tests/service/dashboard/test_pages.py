"""Every page over a real store: what it says, what it escapes, what it survives."""

import base64
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from google.protobuf.json_format import ParseError
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from werkzeug.datastructures import Headers

from mlflow_rlrisk.errors import ModelReferenceError, SinkError
from service.app import create_app
from service.deps import Dependencies
from service.registry.records import StoredReport, VersionRecord
from service.settings import load_settings
from tests.service.dashboard.addresses import address, application, every_page
from tests.service.dashboard_world import (
    BROKEN,
    HOSTILE_NAME,
    LADDER,
    SIGNED,
    DashboardWorld,
)
from tests.service.running_service import write_settings

pytestmark = [pytest.mark.mlflow, pytest.mark.xdist_group("dashboard")]


@pytest.fixture(scope="module")
def browser(world: DashboardWorld) -> FlaskClient:
    return application(world.deps).test_client()


class _Page(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read(browser: FlaskClient, path: str, status: int = 200) -> _Page:
    answer = browser.get(path)
    assert answer.status_code == status, path
    assert answer.mimetype == "text/html"
    return _Page(answer.text)


def test_the_models_show_the_levels_of_all_their_versions_and_of_who_holds_an_alias(
    browser: FlaskClient,
) -> None:
    page = read(browser, address("models"))

    row = page.text.split(f"{LADDER} What {LADDER} is.")[1].split("What")[0]
    levels = re.findall(r"version (\d) (low|medium|high|unknown|– not assessed)", row)
    assert [number for number, _ in levels] == ["5", "4", "3", "2", "1"]
    by_number = dict(levels)
    assert (by_number["5"], by_number["2"]) == ("– not assessed", "low")
    assert f"champion → 4 {by_number['4']}" in row


def test_the_runs_are_those_that_were_judged_or_look_like_rl(
    world: DashboardWorld, browser: FlaskClient
) -> None:
    page = read(browser, address("runs"))

    assert "stop from step 97" in page.text
    assert "R1@96 trip, R4@97 warn" in page.text
    assert "unjudged" in page.text
    assert "not judged" in page.text
    assert "supervised" not in page.text
    assert sum(tag == "tr" for tag, _ in page.tags) == 3  # the head and two runs
    asked = browser.get(address("runs", id=world.run_id))
    assert asked.headers["Location"] == address("run", run_id=world.run_id)
    assert (
        browser.get(address("runs", id="//evil.example")).headers["Location"].startswith("/runs/")
    )


def test_the_ladder_names_the_version_to_start_from_and_the_one_that_pass_at_1_would_pick(
    browser: FlaskClient,
) -> None:
    page = read(browser, address("model", name=LADDER))

    assert "Start RL from Version 2 low pass@1 alone would pick Version 4" in page.text
    assert "Do not start from version 4 because of its pass@1 alone." in page.text
    assert "resolved against the order by pass@1" in page.text  # the lineage run's paired words
    titles = [word for word in page.words if " goes from " in word]
    assert re.search(r"pass@1 goes from 0\.\d+ to 0\.\d+; pass@16 goes from", titles[0])
    assert "It was not assessed yet" in page.text


def test_the_choice_stands_without_a_lineage_run(
    world: DashboardWorld, browser: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.deps.registry, "lineage", lambda _: None)

    page = read(browser, address("model", name=LADDER))

    assert "Start RL from Version 2 low pass@1 alone would pick Version 4" in page.text
    assert "rlrisk compare pairs the prompts" in page.text


def test_every_page_answers_escapes_what_is_foreign_and_lets_nothing_run(
    world: DashboardWorld, browser: FlaskClient
) -> None:
    for path in every_page(world):
        answer = browser.get(path)
        page = _Page(answer.text)

        assert answer.status_code == 200, path
        assert not {tag for tag, _ in page.tags} & {"script", "img", "iframe", "object"}, path
        attributes = [name for _, attrs in page.tags for name in attrs]
        assert not [name for name in attributes if name.startswith("on") or name == "style"], path
        sources = [attrs.get("href") or "" for tag, attrs in page.tags if tag in ("a", "link")]
        assert all(s.startswith(("/", "#", "data:,")) for s in sources), path
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        css = answer.text.split("<style>")[1].split("</style>")[0]
        assert _digest(css) in policy, path


def _digest(text: str) -> str:
    import hashlib

    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_a_version_shows_level_reasons_components_and_figures(browser: FlaskClient) -> None:
    page = read(browser, address("version", name=HOSTILE_NAME, number=1))

    assert f"{HOSTILE_NAME} , version 1" in page.text
    for heading in ("Why", "What to do next", "What the index is made of", "Gate decisions"):
        assert heading in page.text
    assert "Source file:<path>" in page.text
    assert sum(tag == "svg" for tag, _ in page.tags) >= 5
    assert [tag for tag, _ in page.tags].count("h1") == 1
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (1, "Its report cannot be read: "),
        (2, "cannot be fetched"),
        (3, "Its report is not read: 'file:"),
        (4, "Its report is not read: 'runs:/"),
        (5, "holds values that cannot be drawn"),
        (6, "Its report is about version 1 of"),
    ],
)
def test_a_report_that_does_not_serve_gives_a_page_that_says_why(
    browser: FlaskClient, number: int, words: str
) -> None:
    assert words in read(browser, address("version", name=BROKEN, number=number)).text


def test_a_report_of_another_model_is_no_rung_of_the_ladder(browser: FlaskClient) -> None:
    page = read(browser, address("model", name=BROKEN))

    assert "No version can be judged yet None of them" in page.text
    assert "Version 6: Its report is about version 1" in page.text


@pytest.mark.parametrize(
    ("number", "word", "more"),
    [
        (1, "proven", "The attestation is about another report than the one that is stored."),
        (2, "expired", "it expired at"),
        (3, "refused", "The signature does not hold"),
        (4, "none", "proves nothing to the gate"),
    ],
)
def test_the_attestation_is_checked_not_believed(
    browser: FlaskClient, number: int, word: str, more: str
) -> None:
    page = read(browser, address("version", name=SIGNED, number=number))

    assert f"attestation: {word}" in page.text
    assert more in page.text


def test_without_a_policy_file_an_attestation_is_not_called_proven(
    world: DashboardWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world.deps.registry is not None
    monkeypatch.setattr(world.deps.registry.gate, "_policy", None)
    record = world.deps.registry.version(SIGNED, "1")

    assert world.deps.registry.gate.attestation(record).state == "unchecked"


def test_the_run_page_draws_the_curves_and_says_to_stop(
    world: DashboardWorld, browser: FlaskClient
) -> None:
    page = read(browser, address("run", run_id=world.run_id))

    assert re.search(r"Stop \(step \d+\) R1 and R4 corroborate", page.text)
    assert any(tag == "svg" for tag, _ in page.tags)
    followed = browser.get(address("run", run_id=world.run_id, live=1))
    assert followed.headers["Refresh"].endswith(address("run", run_id=world.run_id, live=1))
    assert "Refresh" not in browser.get(address("run", run_id=world.run_id)).headers
    empty = read(browser, address("run", run_id=world.lineage_run))
    assert "Nothing to judge" in empty.text


def test_assessments_show_how_far_they_are(browser: FlaskClient) -> None:
    page = read(browser, address("jobs"))

    assert "1 queued · 1 running · 1 succeeded · 1 failed" in page.text
    assert "640 of 1,280 samples" in page.text
    bars = [attrs for tag, attrs in page.tags if tag == "progress"]
    assert [(bar["value"], bar["max"]) for bar in bars] == [("640", "1280")]
    assert "3 min" in page.text
    assert "trigger new: version created (webhook)" in page.text
    assert page.text.count("lookahead grpo-400") == page.text.count("lookahead") == 1


def test_the_audit_log_is_paged_filtered_and_its_chain_checked(
    world: DashboardWorld, browser: FlaskClient, tmp_path: Path
) -> None:
    first = read(browser, address("audit"))
    assert "The chain of 130 entries holds" in first.text
    overrides = first.text.split("Overrides asked for over this service")[1]
    assert "pending agreed with the owners bob" in overrides
    assert "failed override-refused: <path> cannot be overridden" in overrides
    assert "1 to 100 of 130" in first.text
    assert "101 to 130 of 130" in read(browser, address("audit", page=2)).text
    found = read(browser, address("audit", model=HOSTILE_NAME, outcome="block"))
    assert re.search(r"1 to 11 of 11", found.text)  # n % 12 == 4 for n < 130

    engine = sa.create_engine(world.uri)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TRIGGER rlrisk_gate_log_no_UPDATE"))
        change = "UPDATE rlrisk_gate_log SET outcome = :o WHERE sequence = 7"
        before = connection.execute(
            sa.text("SELECT outcome FROM rlrisk_gate_log WHERE sequence = 7")
        ).scalar_one()
        connection.execute(sa.text(change), {"o": "promoted"})
    try:
        assert "broken at entry 7" in read(browser, address("audit")).text
        version = read(browser, address("version", name=LADDER, number=4))
        assert "decisions are not shown: the gate log is broken at entry 7" in version.text
    finally:
        with engine.begin() as connection:
            connection.execute(sa.text(change), {"o": before})
        engine.dispose()


@pytest.mark.parametrize(
    "path",
    [
        "/models/absent",
        "/models/absent/versions/1",
        f"/models/{LADDER}/versions/99",
        f"/models/{LADDER}/versions/{10**20}",
        "/runs/0123456789abcdef0123456789abcdef",
        "/runs/..%2Fetc",
        "/?after=nonsense",
        "/models/%00",
        "/models/a'b%22c",
    ],
)
def test_what_is_not_there_is_a_page_that_says_so(browser: FlaskClient, path: str) -> None:
    answer = browser.get(path)

    assert answer.status_code == 404, path


class _FakeRegistry:
    """A registry whose names MLflow refuses nowadays, and one that is away."""

    def versions(self, name: str) -> tuple[VersionRecord, ...]:
        if name == "away":
            raise SinkError("model 'away': MLflow does not answer (ConnectionError)")
        if name != "org//team/modèle 1 ":
            raise ModelReferenceError(f"model {name!r}: there is none")
        return (VersionRecord(name=name, version="1", created_at=datetime.now(UTC)),)

    def report(self, _: VersionRecord) -> StoredReport:
        return StoredReport(report=None, run_id=None, problem="none", is_assessed=False)

    def lineage(self, _: object) -> None:
        return None


def test_names_with_slashes_and_spaces_have_a_page_and_an_absent_mlflow_is_said() -> None:
    deps = Dependencies(jobs=None, registry=_FakeRegistry())  # type: ignore[arg-type]
    browser = application(deps).test_client()

    assert "modèle" in read(browser, address("model", name="org//team/modèle 1 ")).text
    assert "MLflow does not answer" in read(browser, "/models/away", 502).text


def test_with_tokens_a_browser_signs_in_with_one_that_may_read(world: DashboardWorld) -> None:
    browser = application(replace(world.deps, tokens=world.tokens)).test_client()
    reader, _ = world.tokens.create("ann", ["read"])
    assessor, _ = world.tokens.create("bob", ["assess"])

    assert browser.get("/").headers["WWW-Authenticate"].startswith("Basic realm=")
    assert browser.get("/jobs", headers=_basic("rlr_0_guess")).status_code == 401
    assert browser.get("/jobs", headers=_basic(assessor)).status_code == 403
    mine = browser.get("/jobs", headers=_basic(reader))
    assert mine.status_code == 200
    assert "1,280" not in mine.text  # the jobs of others are theirs
    assert browser.get("/", headers={"Authorization": f"Bearer {reader}"}).status_code == 200


def _basic(password: str) -> Headers:
    text = base64.b64encode(f"anyone:{password}".encode()).decode()
    return Headers({"Authorization": f"Basic {text}"})


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("database is locked at /srv/secret/mlflow.db"),
        TypeError("'NoneType' of /srv"),  # an answer of another kind, as its client meets it
        ParseError("Failed to parse version field"),
    ],
)
def test_a_registry_that_fails_inside_is_no_crash(
    world: DashboardWorld, browser: FlaskClient, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    assert world.deps.registry is not None
    for method in ("search_registered_models", "get_registered_model", "get_run"):
        monkeypatch.setattr(world.deps.registry.client, method, fail)

    for path in ("/", address("model", name=LADDER), address("run", run_id=world.run_id)):
        page = read(browser, path, 502)
        assert "MLflow does not answer" in page.text
        assert "/srv" not in page.text


def test_a_registry_that_answers_with_no_number_where_one_is_needed_is_said_not_to_answer(
    world: DashboardWorld, browser: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(*_: object, **__: object) -> object:
        version = SimpleNamespace(name=LADDER, version="x", creation_timestamp=None)
        return PagedList([version], None)

    assert world.deps.registry is not None
    monkeypatch.setattr(world.deps.registry.client, "search_model_versions", odd)

    for path in ("/", address("model", name=LADDER)):
        assert "MLflow does not answer" in read(browser, path, 502).text


@pytest.mark.parametrize(
    ("error", "status", "title"),
    [
        (sa.exc.OperationalError("SELECT", {}, OSError("/srv")), 503, "The database"),
        (KeyError("/srv"), 500, "The service failed"),
    ],
)
def test_what_fails_here_is_a_page_too_and_what_is_refused_a_document_as_before(
    world: DashboardWorld,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
    title: str,
) -> None:
    settings = load_settings(write_settings(tmp_path, "http://127.0.0.1:9"))
    browser = create_app(settings, world.deps).test_client()

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(world.deps.jobs, "page", fail)

    page = read(browser, "/jobs", status)
    assert title in page.text
    assert "/srv" not in page.text
    refused = browser.get("/jobs", headers={"X-Long": "x" * 9000})
    assert (refused.status_code, refused.mimetype) == (431, "application/problem+json")
    assert browser.post("/jobs").status_code == 405
