"""A route or store method that is new in MLflow fails here until somebody has thought about it."""

import pytest
from mlflow.store.model_registry.abstract_store import AbstractStore

from tests.gate.route_lists import (
    ENDPOINTS,
    GUARDED,
    HARMLESS,
    PREFIXES,
    STORE_METHODS,
    STORE_METHODS_BUILT_ON_THEM,
    STORE_METHODS_HARMLESS,
)


def test_every_route_of_the_registry_service_is_known() -> None:
    assert set(ENDPOINTS) == GUARDED | HARMLESS.keys()


def test_every_method_of_a_registry_store_is_known() -> None:
    from mlflow_rlrisk.gate.store import _GatedStore

    public = {name for name in vars(AbstractStore) if not name.startswith("_")}
    known = STORE_METHODS | STORE_METHODS_BUILT_ON_THEM | STORE_METHODS_HARMLESS

    assert public == known
    assert {*STORE_METHODS, "delete_registered_model_alias"} == {
        name for name in vars(_GatedStore) if not name.startswith("_") and name in public
    }


@pytest.mark.filterwarnings("ignore")  # MLflow warns of its own WSGI bridge
def test_the_server_has_no_other_routes_about_registered_models() -> None:
    from mlflow.server import app
    from mlflow.server.fastapi_app import create_fastapi_app

    def about_models(path: str) -> bool:
        return "registered-model" in path or "model-version" in path

    served = {str(rule) for rule in app.url_map.iter_rules() if about_models(str(rule))}
    native = {
        path
        for r in create_fastapi_app().routes
        if about_models(path := str(getattr(r, "path", "")))
    }
    listed = {f"{p}{path}" for p in PREFIXES for e in ENDPOINTS.values() for _, path in e}

    assert served - listed == {"/model-versions/get-artifact"}  # reads by number
    assert native - listed == set()
