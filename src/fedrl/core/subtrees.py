"""Select parts of a tree of parameters by paths.

    {"actor": (layer, layer), "critic": ...}      parts are "critic", "actor/1", "actor/-1", "bias"

A part consists of all leaves whose path contains its names one after the other; a negative number counts layers from
the end. A tree without some parts has None in their place, which JAX treats as no leaf, so it takes no bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from fedrl.core.errors import ConfigError, nearest
from fedrl.core.types import PyTree

DEEPEST_SHOWN = 2


def without(tree: PyTree, parts: Sequence[str]) -> PyTree:
    """Return the tree with None in place of these parts.

    >>> without({"actor": (1.0, 2.0), "critic": 3.0}, ["actor/-1", "critic"])
    {'actor': (1.0, None), 'critic': None}
    """
    leaves, structure = jax.tree.flatten(tree)
    kept = [None if inside else leaf for leaf, inside in zip(leaves, belonging(tree, parts), strict=True)]
    return jax.tree.unflatten(structure, kept)


def joined(tree: PyTree, rest: PyTree) -> PyTree:
    """Return the tree with every None replaced from `rest`, which is complete.

    >>> joined({"actor": None, "critic": 3.0}, {"actor": 1.0, "critic": 2.0})
    {'actor': 1.0, 'critic': 3.0}
    """
    return jax.tree.map(lambda ours, theirs: theirs if ours is None else ours, tree, rest, is_leaf=lambda x: x is None)


def belonging(tree: PyTree, parts: Sequence[str]) -> list[bool]:
    """Return for each leaf whether it belongs to one of these parts."""
    runs = [tuple(part.split("/")) for part in parts]
    return [any(_inside(run, path) for run in runs) for path in _paths(tree)]


def check_parts(tree: PyTree, parts: Sequence[str], where: str) -> None:
    """Refuse a part that the tree does not have.

    Raises:
        ConfigError: A part does not exist; the message has the argument, the part and the nearest existing one.
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
    """Return whether the names of `run` occur in the path, one after the other."""
    starts = range(len(path) - len(run) + 1)
    return any(all(name in path[at + i] for i, name in enumerate(run)) for at in starts)


def _paths(tree: PyTree) -> list[list[tuple[str, str]]]:
    """Return the path of each leaf, with both names of each step: a position counted from the front and the end."""
    # The length of each sequence is not part of a path, so it is found first, as the largest position in it plus one.
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
