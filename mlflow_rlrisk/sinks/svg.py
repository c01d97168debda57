"""One drawing as an SVG element of a page.

Drawn through matplotlib's object interface with the SVG backend alone, so no figure of the
caller's is touched and no display is needed. Colours are written as CSS variables with a fallback,
so that one figure fits a light and a dark page; identifiers are hashed with a fixed salt and
prefixed with the figure's name, so that the same report gives the same bytes and several figures
live in one page.
"""

import io
import re
import threading
from html import escape
from typing import Any

_DRAWING = threading.Lock()
"""matplotlib's settings are the process's: two threads that set them would undo each other's."""
_WIDTH_IN, _HEIGHT_IN = 4.6, 2.9
_SALT = "mlflow-rlrisk"  # any fixed text: matplotlib hashes clip paths with it

# Sentinels that no drawing uses for anything else; `_themed` turns them into CSS variables.
INK, MUTED, LINE, ACCENT, STARVED, SATURATED = (f"#00000{i}" for i in range(1, 7))
_CSS = {
    INK: "var(--ink,#1b2230)",
    MUTED: "var(--muted,#566072)",
    LINE: "var(--line,#d9dee6)",
    ACCENT: "var(--accent,#2a5bd0)",
    STARVED: "var(--starved,#b4541a)",
    SATURATED: "var(--saturated,#6a45b8)",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: searchable, and in the page's own font
    "svg.hashsalt": _SALT,
    "font.size": 10.0,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
}


def one_figure(name: str, alt: str, draw: Any, *, height: float = _HEIGHT_IN) -> str:
    """Draw on one pair of axes; the SVG is an element of a page and a file of its own.

    Args:
        name: Prefix of all identifiers.
        alt: What is seen, in words.
        draw: Gets the axes.
        height: Inches, where the figure's width is 4.6.
    """

    def on_axes(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.patch.set_alpha(0.0)
        draw(axes)

    return figure_of(name, alt, on_axes, height=height)


def figure_of(name: str, alt: str, draw: Any, *, height: float) -> str:
    """Like `one_figure`, but ``draw`` gets the figure."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with _DRAWING, mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_IN, height), layout="constrained")
        canvas = FigureCanvasSVG(figure)
        figure.patch.set_alpha(0.0)
        draw(figure)
        buffer = io.StringIO()
        # `savefig` would draw all of it twice.
        canvas.print_svg(buffer, metadata={"Date": None})  # type: ignore[no-untyped-call]
    return _embeddable(buffer.getvalue(), name, alt)


def _embeddable(svg: str, name: str, alt: str) -> str:
    """Cut a stand-alone SVG file down to an element of the page with names of its own."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)  # it would style the page
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = body.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    for sentinel, variable in _CSS.items():
        body = body.replace(sentinel, variable)
    view = re.search(r'viewBox="[^"]+"', body)
    if view is None:
        raise ValueError("matplotlib wrote an SVG without a viewBox")
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'{view.group()} role="img" aria-labelledby="{name}-alt">'
        f'<title id="{name}-alt">{escape(alt)}</title>'
    )
    return head + body[body.index(">") + 1 :].strip()
