"""A hook of MkDocs: the pages of the reference, one per room, are written from the sources, so no name is missing.

    src/fedrl/ROOM/**.py  --ast-->  public names of each module  -->  reference/ROOM.md, rendered by mkdocstrings

A name that a package exports (`__all__`) is shown where users import it from, and not again where it is defined.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

SOURCES = Path(__file__).parents[2] / "src"
PACKAGE = "fedrl"
TITLE = "Reference"
EXPORTS_ONLY = {"cli"}
"""Rooms whose modules are not for import."""
DATA = "examples"
"""A folder of the package that holds no modules."""


def on_config(config: Any) -> Any:
    """Put the pages into the navigation."""
    pages = [{room or PACKAGE: f"reference/{room or PACKAGE}.md"} for room in rooms()]
    config.nav = [{TITLE: ["reference.md", *pages]} if TITLE in entry else entry for entry in config.nav]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages."""
    for room in rooms():
        files.append(File.generated(config, f"reference/{room or PACKAGE}.md", content=page(room)))
    return files


def rooms() -> list[str]:
    """Return the packages of fedrl; "" is fedrl itself, with the modules that are in no room."""
    return ["", *sorted(path.parent.name for path in (SOURCES / PACKAGE).glob("*/__init__.py"))]


def page(room: str) -> str:
    """Return the page of a room: what it exports, then what its modules define besides."""
    folder = SOURCES / PACKAGE / room
    found = sorted(path for path in (folder.rglob("*.py") if room else folder.glob("*.py")) if DATA not in path.parts)
    modules = {dotted(path): ast.parse(path.read_text(encoding="utf-8")) for path in found}
    if room in EXPORTS_ONLY:
        modules = {name: module for name, module in modules.items() if "__all__" in assigned(module)}
    # Packages come first, as what they export is not shown again.
    order = sorted(modules, key=lambda name: ("__all__" not in assigned(modules[name]), name))
    home = ".".join(filter(None, [PACKAGE, room]))
    text, shown = [f"# {home}\n"], set[str]()
    for name in order:
        members = [each for each in public(modules[name]) if f"{name}.{each}" not in shown]
        origins = {local: origin for origin, local in imported(modules[name])}
        shown |= {origins[each] for each in members if each in origins}
        if members:
            story = (ast.get_docstring(modules[name]) or "").partition("\n\n")[0]
            text.append(f"{'' if name == home else f'## {name}'}\n\n{story}\n")
            text += [directive(f"{name}.{each}", origins.get(each, ""), found) for each in members]
    return "\n".join(text)


def directive(name: str, origin: str, files: list[Path]) -> str:
    """Return what makes mkdocstrings show an object under the name by which users import it."""
    if not any(dotted(path) == name for path in files):
        return f"::: {name}\n"
    # A module of the same name hides the object from mkdocstrings, so it is shown from its home.
    label = name.rpartition(".")[2]
    return f"[](){{ #{name} }}\n\n::: {origin}\n    options:\n      heading: {name}\n      toc_label: {label}\n"


def dotted(path: Path) -> str:
    """Return the name of a module."""
    parts = path.relative_to(SOURCES).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def public(module: ast.Module) -> list[str]:
    """Return the public names of a module: its `__all__`, or else its functions, classes and types."""
    names = assigned(module)
    if "__all__" in names:
        return [str(name) for name in ast.literal_eval(names["__all__"])]
    found = []
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.append(node.name)
        elif isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias":
            found.append(ast.unparse(node.target))
    return [name for name in found if not name.startswith("_")]


def assigned(module: ast.Module) -> dict[str, ast.expr]:
    """Return what a module assigns to each of its names."""
    return {
        target.id: node.value
        for node in module.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def imported(module: ast.Module) -> list[tuple[str, str]]:
    """Return the origin and the local name of all that a module imports, also for type checkers alone."""
    return [
        (f"{node.module}.{alias.name}", alias.asname or alias.name)
        for node in ast.walk(module)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    ]
