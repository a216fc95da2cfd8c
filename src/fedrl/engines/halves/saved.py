"""Files with the state of a half: named arrays and a digest, without secrets.

    save(path, "agent", federation, run) --> safetensors, replaced as a whole --> load(path, "agent", federation, like)

The header names the kind of half and the federation, so that a half can't load the file of another one. Nothing in a
file is executed. Keys are derived from roots that are not in it: the root of the run and a party's secret are files of
their own. Arrays of the caller, such as the update that was sent last, may be saved beside the state, in one step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from fedrl.core import durable
from fedrl.core.errors import RunError, reason
from fedrl.core.types import PyTree
from fedrl.engines.halves.agent import AgentRun

FORMAT = "1"
KINDS = ("agent", "server")


BESIDE = "beside/"
"""The beginning of the names of arrays beside the state."""


def save(path: Path, kind: str, federation: str, run: PyTree, beside: Mapping[str, np.ndarray] | None = None) -> None:
    """Save the state of a half; even after a crash the file has either the old content or the new.

    Only the owner may read the file, because the state of an agent contains its data. The new content is on the disk
    when this function returns.

    Args:
        path: Path of the file.
        kind: "agent" or "server".
        federation: `fedrl.federation.wire_digest.WireDigest.digest` of its federation.
        run: An `AgentRun` or a `ServerRun`.
        beside: Further arrays to save in the same step, by name: `load_beside` returns them.

    Raises:
        RunError: The file can't be written. The old file stays.
    """
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in _named(run)}
    arrays |= {f"{BESIDE}{name}": np.asarray(array, order="C") for name, array in (beside or {}).items()}
    header = {"format": FORMAT, "kind": kind, "federation": federation, "digest": _digest(arrays)}
    content = safetensors.numpy.save(arrays, header)
    try:
        durable.replace(path, content, 0o600)
    except OSError as fault:
        raise RunError(f"{path} can't be written: {reason(fault)}. Name an existing folder with free space.") from fault


def load(path: Path, kind: str, federation: str, like: PyTree) -> PyTree:
    """Load the state of a half, in the shapes and dtypes of `like`; an agent with its pending job, if there is one.

    Args:
        path: Path of the file.
        kind: "agent" or "server".
        federation: Digest that it was saved with.
        like: State returned by `start()` of this half.

    Raises:
        RunError: The file is damaged, belongs to the other half or to another federation, or has other arrays.
    """
    arrays = {name: array for name, array in _checked(path, kind, federation).items() if not name.startswith(BESIDE)}
    if isinstance(like, AgentRun):
        # Saved between sending and verdict, an agent has its pending state in the file as well.
        like = like._replace(pending=like.agents if any(name.startswith("pending/") for name in arrays) else ())
    names = [name for name, _ in _named(like)]
    wrong = sorted(set(names) ^ set(arrays)) or [
        name for name, leaf in _named(like) if (arrays[name].shape, arrays[name].dtype) != (leaf.shape, leaf.dtype)
    ]
    if wrong:
        raise RunError(
            f"{path} and this {kind} differ in {wrong[0]!r}, and in {len(wrong) - 1} more arrays. It was written by "
            "another version. Start again without it."
        )

    def placed(name: str, leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray):
            return arrays[name]
        # Placed as `like` is: an array with another sharding would make every program compile again.
        return jax.device_put(arrays[name], leaf.sharding if leaf.committed else None)

    return jax.tree.unflatten(jax.tree.structure(like), [placed(*each) for each in _named(like)])


def load_beside(path: Path, kind: str, federation: str) -> dict[str, np.ndarray]:
    """Load the arrays that were saved beside the state, by name.

    Args:
        path: Path of the file.
        kind: "agent" or "server".
        federation: Digest that it was saved with.

    Raises:
        RunError: The file is damaged, or belongs to the other half or to another federation.
    """
    arrays = _checked(path, kind, federation)
    return {name.removeprefix(BESIDE): array for name, array in arrays.items() if name.startswith(BESIDE)}


def _checked(path: Path, kind: str, federation: str) -> dict[str, np.ndarray]:
    """Return all arrays of a file of this half and federation."""
    header, arrays = _read(path)
    for name, mine in (("format", FORMAT), ("kind", kind), ("federation", federation)):
        if header.get(name) != mine:
            raise RunError(
                f"{path} has the {name} {header.get(name)!r}, and {mine!r} is needed. It belongs to another half or "
                "federation. Name the file of this half, or start again without it."
            )
    if header.get("digest") != _digest(arrays):
        raise RunError(f"{path} is damaged: its digest does not match its content. Restore it, or start again.")
    return arrays


def _named(tree: PyTree) -> list[tuple[str, Any]]:
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in paths]


def _digest(arrays: dict[str, np.ndarray]) -> str:
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        found.update(json.dumps([name, str(array.dtype), list(array.shape)]).encode())
        found.update(array.tobytes())
    return found.hexdigest()


def _read(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    if not path.is_file():  # reading a pipe would never end
        raise RunError(f"{path} does not exist, or is no file. Name the file of this half, or start again without it.")
    try:
        with safetensors.safe_open(path, "numpy") as file:
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as fault:
        raise RunError(f"{path} can't be read: {fault}. Restore it, or start again without it.") from fault
