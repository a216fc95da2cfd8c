"""The built site has an anchor for every exported name, and no link leads nowhere: `make test-docs` builds it first."""

import ast
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import fedrl

ROOT = Path(__file__).parents[2]
SITE, SOURCES = ROOT / "site", Path(fedrl.__file__).parents[1]


class Page(HTMLParser):
    """The anchors of a page, and where its links lead."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := given.get(name))}
        self.links += [value for name in ("href", "src") if (value := given.get(name))]


@cache
def pages() -> dict[Path, Page]:
    found = {path: Page(path) for path in sorted(SITE.rglob("*.html")) if path.name != "404.html"}
    assert found, f"{SITE} has no pages: make docs"
    return found


def exported(folder: Path) -> list[str]:
    """Every name in every `__all__`, with its module."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                parts = path.relative_to(folder.parent).with_suffix("").parts
                module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
                found += [f"{module}.{name}" for name in ast.literal_eval(node.value)]
    return found


def dead(pages: dict[Path, Page]) -> list[str]:
    """The links inside the site that lead to no file, or to no anchor of it."""
    found = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                found.append(f"{path.relative_to(SITE)}: {link}")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{path.relative_to(SITE)}: {link}, which is no anchor")
    return found


def test_every_exported_name_has_an_anchor():
    anchors = set().union(*(page.anchors for page in pages().values()))
    names = exported(SOURCES / "fedrl")
    assert [name for name in names if name not in anchors] == []
    assert len(names) > 200
    assert {"fedrl.learners.ppo", "fedrl.aggregators.mean", "fedrl.environments.adapters.gymnasium"} <= set(names)


def test_no_link_leads_nowhere():
    assert dead(pages()) == []
    assert sum(len(page.links) for page in pages().values()) > 1000


def test_the_check_of_links_finds_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "SITE", tmp_path)
    (tmp_path / "a.html").write_text('<a href="b.html#x">1</a><a href="b.html#y">2</a><a href="c.html">3</a>')
    (tmp_path / "b.html").write_text('<p id="x"><a href="https://example.org/nowhere">4</a>')
    found = dead({path: Page(path) for path in tmp_path.iterdir()})
    assert found == ["a.html: b.html#y, which is no anchor", "a.html: c.html"]


def test_every_page_of_the_documents_is_in_the_site():
    for path in (ROOT / "docs").rglob("*.md"):
        name = path.relative_to(ROOT / "docs").with_suffix("")
        assert (SITE / name / "index.html").is_file() or (SITE / name.with_suffix(".html")).is_file(), name


def test_what_the_readme_names_is_there():
    text = (ROOT / "README.md").read_text()
    for link in [*re.findall(r"\]\((?!https?:)([^)#]+)", text), *re.findall(r"`((?:docs|src|tests)/[\w./-]+)`", text)]:
        assert (ROOT / link).exists(), link
