"""Every page in a real Chromium: widths, colour schemes, keyboard, no script, axe."""

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import pytest
from mlflow import MlflowClient
from playwright.sync_api import Browser, FloatRect, Locator, Route, expect
from werkzeug.serving import make_server

import service.dashboard
import service.dashboard.page
from service.app import create_app
from service.settings import load_settings
from service.tables.assessment_rows import State
from service.tables.tokens import Scope
from tests.service.dashboard.addresses import address
from tests.service.dashboard.chromium import (
    SCHEMES,
    SCREENS,
    Looked,
    brightness,
    chromium,
    picture,
    sideways,
    tabbed,
    violations,
)
from tests.service.dashboard_world import BROKEN, EMPTY, HOSTILE_NAME, LADDER, SIGNED
from tests.service.dashboard_world import DashboardWorld as World
from tests.service.running_service import write_settings

pytestmark = [pytest.mark.mlflow, pytest.mark.xdist_group("dashboard")]

PAGES: Mapping[str, Callable[[World], str]] = {
    "models": lambda _: address("models"),
    "ladder": lambda _: address("model", name=LADDER),
    "model-without-versions": lambda _: address("model", name=EMPTY),
    "version": lambda _: address("version", name=LADDER, number=4),
    "version-hostile": lambda _: address("version", name=HOSTILE_NAME, number=1),
    "version-signed": lambda _: address("version", name=SIGNED, number=1),
    "version-unreadable": lambda _: address("version", name=BROKEN, number=1),
    "jobs": lambda _: address("jobs"),
    "runs": lambda _: address("runs"),
    "run": lambda world: address("run", run_id=world.run_id),
    "audit": lambda _: address("audit", model=HOSTILE_NAME, outcome="block"),
    "report": lambda world: f"/v1/assessments/{_finished(world)}/report?format=html",
}
SHARED: Mapping[str, Mapping[str, Sequence[str]]] = {
    "model-without-versions": {"desktop": ["dark"], "phone": ["light"]},
    "version": {"desktop": ["dark"], "phone": ["light"]},
    "version-hostile": {"desktop": ["light"], "phone": ["dark"]},
    "version-signed": {"desktop": ["dark"], "phone": ["light"]},
    "version-unreadable": {"desktop": ["dark"], "phone": ["light"]},
    "report": {"desktop": ["light"], "phone": ["dark"]},
}
"""Pages built of the same parts as others share the four corners; axe takes its time."""


def _finished(world: World) -> str:
    rows = world.deps.jobs.page(owners=None, limit=100)
    return next(each.id for each in rows if each.state == State.SUCCEEDED)


@pytest.fixture(scope="module")
def url(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = load_settings(write_settings(tmp_path_factory.mktemp("settings"), world.uri))
    app = create_app(settings, replace(world.deps, tokens=world.tokens))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


@pytest.fixture(scope="module")
def token(world: World) -> str:
    return world.tokens.create("eve", [Scope.ADMIN])[0]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def screens(browser: Browser, token: str) -> Mapping[str, Looked]:
    headers = {"Authorization": f"Bearer {token}"}
    return {
        name: Looked(browser.new_context(extra_http_headers=headers, **screen))
        for name, screen in SCREENS.items()
    }


def check_looks(looked: Looked, where: str, name: str, schemes: Sequence[str] = SCHEMES) -> None:
    """The page that is open: nothing sticks out, axe finds nothing, the scheme is followed."""
    for scheme in schemes:
        looked.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        picture(looked.page, f"{name}-{where}-{scheme}")
        assert sideways(looked.page) == []
        assert violations(looked.page) == []
        assert (brightness(looked.page) > 128) == (scheme == "light")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_desktop_and_phone_in_light_and_dark_and_axe_and_console_are_silent(
    world: World, url: str, screens: Mapping[str, Looked], name: str
) -> None:
    corners = SHARED.get(name, dict.fromkeys(SCREENS, SCHEMES))
    for where, schemes in corners.items():
        looked = screens[where]
        looked.open(url + PAGES[name](world))

        check_looks(looked, where, name, schemes)


@pytest.mark.parametrize("name", ["n" * 250, "名" * 250])
def test_one_long_name_hides_nothing_of_the_other_models(
    world: World, url: str, screens: Mapping[str, Looked], name: str
) -> None:
    # Whoever may register a model pushed all levels out of everybody's window.
    client = MlflowClient(world.uri, world.uri)
    client.create_registered_model(name)
    try:
        for where, looked in screens.items():
            page = looked.open(url + address("models"))
            cells = page.locator("tr", has=page.get_by_role("link", name=LADDER)).locator("td")
            edges = [box["x"] + box["width"] for box in map(_box, cells.all())]

            assert max(edges) <= SCREENS[where]["viewport"]["width"]
            check_looks(looked, where, "long-name", ["light"])
    finally:
        client.delete_registered_model(name)


def _box(cell: Locator) -> FloatRect:
    box = cell.bounding_box()
    assert box is not None
    return box


def test_what_is_not_there_is_a_page_of_the_same_quality(
    url: str, screens: Mapping[str, Looked]
) -> None:
    for where, looked in screens.items():
        page = looked.open(url + address("model", name="absent"), 404)

        assert page.inner_text("h1") == "Not found"
        check_looks(looked, where, "not-found")


def test_a_browser_is_asked_to_sign_in_and_the_token_is_the_password(
    url: str, browser: Browser, token: str
) -> None:
    stranger = Looked(browser.new_context())
    stranger.page.route("**/jobs", _dismissed)
    page = stranger.open(url + "/jobs", 401)

    assert page.inner_text("h1") == "Sign in"
    assert "scope read" in page.inner_text("main")
    check_looks(stranger, "desktop", "sign-in")

    known = Looked(browser.new_context(http_credentials={"username": "me", "password": token}))
    assert known.open(url + "/jobs").inner_text("h1") == "Assessments"


def _dismissed(route: Route) -> None:
    """What is shown once the question for a password is dismissed; headless, nobody is asked."""
    answer = route.fetch()
    kept = {name: value for name, value in answer.headers.items() if name != "www-authenticate"}
    assert len(kept) == len(answer.headers) - 1
    route.fulfill(response=answer, headers=kept)


@pytest.mark.parametrize("name", PAGES)
def test_tab_alone_reaches_all_that_can_be_used_in_document_order_and_shows_where_it_is(
    world: World, url: str, screens: Mapping[str, Looked], name: str
) -> None:
    page = screens["desktop"].open(url + PAGES[name](world))

    wanted, reached = tabbed(page)

    places = [each["place"] for each in reached if each["place"] >= 0]
    assert places == list(range(len(wanted))), wanted
    regions = [each for each in reached if each["place"] < 0]
    assert [each["what"] for each in regions if not each["scrolls"]] == []
    assert [each["what"] for each in reached if each["ring"] < 2 or not each["seen"]] == []


@pytest.mark.parametrize("name", [LADDER, HOSTILE_NAME])
def test_what_the_gate_said_is_read_on_a_desktop_without_moving_the_log_to_the_side(
    name: str, url: str, screens: Mapping[str, Looked]
) -> None:
    page = screens["desktop"].open(url + address("audit", model=name))
    picture(page, f"log-{len(name)}")

    log = page.locator(".scroll").first

    assert log.evaluate("e => e.scrollWidth - e.clientWidth") == 0


def test_the_log_is_filtered_with_the_keyboard_alone(
    url: str, screens: Mapping[str, Looked]
) -> None:
    page = screens["desktop"].open(url + address("audit"))
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # over the navigation

    page.keyboard.press("Tab")
    page.keyboard.type(LADDER)
    page.keyboard.press("Tab")
    page.keyboard.type("block")
    page.keyboard.press("Tab")
    with page.expect_navigation():
        page.keyboard.press("Enter")

    assert "1 to 11 of 11" in page.inner_text("caption >> nth=0")  # n % 12 == 0 for n < 130
    assert page.url.endswith(f"model={LADDER}&outcome=block")


def test_without_script_a_page_says_the_same(
    world: World, url: str, browser: Browser, screens: Mapping[str, Looked], token: str
) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    plain = Looked(browser.new_context(java_script_enabled=False, extra_http_headers=headers))

    for path in (PAGES[name](world) for name in ("models", "ladder", "version", "jobs", "audit")):
        with_script = screens["desktop"].open(url + path).inner_text("body")

        assert plain.open(url + path).inner_text("body") == with_script
        assert len(with_script) > 200


def test_a_followed_page_shows_how_far_an_assessment_came_by_itself(
    world: World, url: str, screens: Mapping[str, Looked], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (service.dashboard, service.dashboard.page):
        monkeypatch.setattr(module, "REFRESH_S", 1)
    (running,) = world.deps.jobs.page(state=State.RUNNING)
    page = screens["phone"].open(url + address("jobs"))
    page.tap("text=Follow")
    bar = page.locator("progress")
    assert bar.get_attribute("value") == "640"

    assert running.progress is not None
    further = {**running.progress, "num_samples_done": 960}
    world.deps.jobs.update(running.id, running.fence, stage="sample", progress=further)

    try:
        expect(bar).to_have_attribute("value", "960", timeout=20_000)
        assert "960 of 1,280 samples" in page.inner_text("main")
        assert screens["phone"].complaints == []
        page.tap("text=Stop following")
        page.wait_for_url(re.compile("/jobs$"))
    finally:
        world.deps.jobs.update(running.id, running.fence, stage="sample", progress=running.progress)
