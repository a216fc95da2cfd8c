"""Parts of a tree of parameters, named as one would write them down.

    {"actor": (layer, layer), "critic": ...}      "critic", "actor/1", "actor/-1", "bias": all of these are parts

A part is a run of names that occurs in a leaf's path; a negative number counts layers from the end. A tree without
some parts has None in their places, which JAX takes for nothing: it has fewer leaves and costs fewer bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from fedrl.core.errors import ConfigError, nearest
from fedrl.core.types import PyTree

DEEPEST_SHOWN = 2


def without(tree: PyTree, parts: Sequence[str]) -> PyTree:
    """The tree with None in the places of these parts.

    >>> without({"actor": (1.0, 2.0), "critic": 3.0}, ["actor/-1", "critic"])
    {'actor': (1.0, None), 'critic': None}
    """
    leaves, structure = jax.tree.flatten(tree)
    kept = [None if inside else leaf for leaf, inside in zip(leaves, belonging(tree, parts), strict=True)]
    return jax.tree.unflatten(structure, kept)


def joined(tree: PyTree, rest: PyTree) -> PyTree:
    """The tree with every None filled from `rest`, which is whole.

    >>> joined({"actor": None, "critic": 3.0}, {"actor": 1.0, "critic": 2.0})
    {'actor': 1.0, 'critic': 3.0}
    """
    return jax.tree.map(lambda ours, theirs: theirs if ours is None else ours, tree, rest, is_leaf=lambda x: x is None)


def belonging(tree: PyTree, parts: Sequence[str]) -> list[bool]:
    """Of each leaf, whether it belongs to one of these parts."""
    runs = [tuple(part.split("/")) for part in parts]
    return [any(_inside(run, path) for run in runs) for path in _paths(tree)]


def check_parts(tree: PyTree, parts: Sequence[str], where: str) -> None:
    """Refuse a part that the tree does not have.

    Raises:
        ConfigError: It names the argument, the part and the nearest one that exists.
    """
    for part in parts:
        if not any(belonging(tree, [part])):
            paths = [[names[0] for names in path] for path in _paths(tree)]
            known = {"/".join(path[:depth]) for path in paths for depth in range(1, min(DEEPEST_SHOWN, len(path)) + 1)}
            raise ConfigError(
                f"{where} has {part!r}, which is no part of the parameters. {nearest(part, known)} Deeper parts are "
                "named by their path, the last layer by '-1'."
            )


def _inside(run: tuple[str, ...], path: list[tuple[str, str]]) -> bool:
    """Whether the names of `run` occur in the path, one after the other."""
    starts = range(len(path) - len(run) + 1)
    return any(all(name in path[at + i] for i, name in enumerate(run)) for at in starts)


def _paths(tree: PyTree) -> list[list[tuple[str, str]]]:
    """Of each leaf, its path: both names of each step, those of a position counted from either end."""
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    lengths: dict[Any, int] = {}
    for path in paths:
        for depth, entry in enumerate(path):
            if isinstance(entry, jax.tree_util.SequenceKey):
                lengths[path[:depth]] = max(lengths.get(path[:depth], 0), entry.idx + 1)

    def names(path: Any, depth: int) -> tuple[str, str]:
        entry = path[depth]
        if isinstance(entry, jax.tree_util.SequenceKey):
            return str(entry.idx), str(entry.idx - lengths[path[:depth]])
        name = str(entry.name if isinstance(entry, jax.tree_util.GetAttrKey) else getattr(entry, "key", entry))
        return name, name

    return [[names(path, depth) for depth in range(len(path))] for path in paths]
