"""Where each page of the dashboard is, by its own `url_for`."""

from typing import Any

from flask import Flask, url_for

from service.dashboard import blueprint
from service.deps import Dependencies
from tests.service.dashboard_world import (
    BROKEN,
    EMPTY,
    HOSTILE_NAME,
    LADDER,
    SIGNED,
    DashboardWorld,
)


def application(deps: Dependencies) -> Flask:
    """The dashboard alone."""
    app = Flask("test", static_folder=None)
    app.register_blueprint(blueprint(deps))
    return app


def address(endpoint: str, **values: Any) -> str:
    """The path of a page."""
    app = application(Dependencies(jobs=None, registry=object()))  # type: ignore[arg-type]
    with app.test_request_context():
        return url_for(f"dashboard.{endpoint}", **values)


def every_page(world: DashboardWorld) -> list[str]:
    """All that ``world`` has."""
    paths = [address(each) for each in ("models", "jobs", "runs", "audit")]
    paths.append("/audit?page=2&outcome=block")
    paths.append(address("run", run_id=world.run_id))
    for name, count in ((LADDER, 5), (HOSTILE_NAME, 1), (BROKEN, 6), (EMPTY, 0), (SIGNED, 4)):
        paths.append(address("model", name=name))
        paths += [address("version", name=name, number=each) for each in range(1, count + 1)]
    return paths
