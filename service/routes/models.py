"""``GET /v1/models/{name}``: what was assessed of one registered model."""

from flask import Blueprint
from spectree import Response as Answers

from service.auth import caller, dependencies, requires
from service.openapi import API
from service.problems import Problem
from service.schemas import AssessmentView, ModelQuery, ModelView
from service.tables.tokens import Scope


def blueprint() -> Blueprint:
    """The history of models."""
    routes = Blueprint("models", __name__, url_prefix="/v1/models")

    @routes.get("/<name>")
    @requires(Scope.READ)
    @API.validate(resp=Answers(HTTP_200=ModelView), tags=["models"])
    def show(name: str, query: ModelQuery) -> ModelView:
        """The caller's and triggered assessments of a model's versions; an admin sees all."""
        rows = []
        if "\0" not in name:  # which PostgreSQL does not even compare
            rows = dependencies().jobs.page(
                owners=caller().owners,
                model=name,
                before=query.before,
                before_id=query.before_id,
                limit=query.limit,
            )
        if not rows and query.before is None:
            raise Problem("not-found", "no version of this model was assessed here")
        return ModelView(
            name=name,
            assessments=[AssessmentView.of(row) for row in rows],
            **query.following(rows),
        )

    return routes
