"""Parts of all pages: one file that fetches nothing, with a header, cards and charts."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

from fedrl.report.figures import Figure
from fedrl.report.markup import Markup, element, script_data

# Scripts and styles are inlined; everything else is forbidden, so the page can't send a run's data anywhere.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def document(title: str, sections: list[object], charts: Mapping[str, Figure]) -> str:
    """Return a whole page, with the data of its charts and the scripts that draw them."""
    from plotly.offline import get_plotlyjs

    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title} · fedrl"),
        element("style", Markup(_asset("page.css"))),
    )
    scripts = [script_data(charts, "charts")]
    scripts += [element("script", Markup(code)) for code in (get_plotlyjs(), _asset("page.js"))]
    page = element("html", head, element("body", element("main", sections), scripts), lang="en")
    return f"<!doctype html>\n{page}\n"


def header(kind: str, title: str, about: str) -> Markup:
    """Return the header of a page."""
    return element("header", element("p", kind, class_="kind"), element("h1", title), element("p", about))


def card(title: str, body: object, about: str = "", aside: Markup | None = None) -> Markup:
    """Return a section of the page with a title and a note on its content."""
    head = element("div", element("h2", title), aside, class_="head")
    return element("section", head, element("p", about, class_="note") if about else None, body, class_="card")


def chart(name: str, about: str) -> Markup:
    """Return the element into which `page.js` draws a chart."""
    fallback = element("noscript", "The charts need JavaScript; the numbers are in the tables.")
    return element("div", fallback, id=name, class_="chart", role="img", aria_label=about)


def _asset(name: str) -> str:
    return (files("fedrl.report") / name).read_text("utf-8")
