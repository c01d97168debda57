"""The templates of the pages: everything is escaped but what this package drew itself."""

from functools import cache
from typing import TYPE_CHECKING, Any

from mlflow_rlrisk.plurals import counted

if TYPE_CHECKING:
    from jinja2 import Template


@cache
def template(name: str) -> "Template":
    """A template below ``templates/``; a name it uses without a value is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mlflow_rlrisk.sinks"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["counted"] = counted
    return environment.get_template(name)


def own_markup(text: str) -> Any:
    """Mark text that this package drew itself as markup; nothing else may pass through here."""
    from markupsafe import Markup

    return Markup(text)


def figure_box(name: str, title: str, svg: str, caption: str) -> dict[str, Any]:
    """A figure as the pages show it."""
    return {"id": name, "title": title, "svg": own_markup(svg), "caption": caption}
