"""Templates to answers: everything foreign is escaped, and the browser is told to run nothing.

The pages need no script, so the policy allows none. Our own figures carry their colours and widths
in style attributes, which a policy can only allow wholesale; they are lifted into one style
element, and the policy names that element by its digest.
"""

import base64
import hashlib
import re
from functools import cache
from html import unescape
from typing import TYPE_CHECKING, Any

from flask import Response, url_for
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.sinks import templating
from mlflow_rlrisk.sinks.wording import estimate, interval, moment, shown

if TYPE_CHECKING:
    from jinja2 import Template

REFRESH_S = 10
"""Between two readings of a page that is followed."""

_STYLE = re.compile(r' style="([^"]*)"')
_POLICY = (
    "default-src 'none'; style-src 'self' 'sha256-{digest}'; img-src data:; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def own_figure(svg: str) -> Markup:
    """Mark a figure or a page body that `mlflow_rlrisk.sinks` drew as markup; nothing else."""
    return Markup(svg)


def answer(
    template: str, /, *, status: int = 200, refresh_to: str | None = None, **values: Any
) -> Response:
    """Render a template of this dashboard.

    Args:
        template: Its file name.
        status: HTTP status.
        refresh_to: Where the browser goes by itself after `REFRESH_S`; only where asked for.
        **values: What it shows; a name it uses without a value is an error.
    """
    html, css = _lifted(_template(template).render(values))
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    html = html.replace("<!-- lifted -->", f"<style>{css}</style>", 1)
    response = Response(html, status=status, mimetype="text/html")
    response.headers.update(_HEADERS)
    response.headers["Content-Security-Policy"] = _POLICY.format(digest=digest)
    if refresh_to is not None:
        response.headers["Refresh"] = f"{REFRESH_S}; url={refresh_to}"
    return response


@cache
def stylesheet() -> str:
    """The style of the report page with what only these pages have."""
    return templating.template("page.css").render() + _template("dashboard.css").render()


@cache
def _template(name: str) -> "Template":
    environment = Environment(
        loader=PackageLoader("service.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["url_for"] = url_for
    environment.filters.update(
        counted=counted, shown=shown, moment=moment, estimate=estimate, interval=interval
    )
    return environment.get_template(name)


def _lifted(html: str) -> tuple[str, str]:
    """Move style attributes into rules; text cannot hold one, for its quotes are escaped."""
    rules: dict[str, int] = {}

    def lift(match: re.Match[str]) -> str:
        return f' data-s="{rules.setdefault(match[1], len(rules))}"'

    lifted = _STYLE.sub(lift, html)
    css = "".join(f'[data-s="{at}"]{{{unescape(style)}}}' for style, at in rules.items())
    if "<" in css:
        raise ValueError("a style holds markup")
    return lifted, css
