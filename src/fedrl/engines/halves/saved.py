"""What a half remembers, in a file of its own kind: named arrays, a digest, and no secret.

    save(path, "agent", federation, run) --> safetensors, replaced as a whole --> load(path, "agent", federation, like)

A file says of what kind it is and what federation it belongs to, so neither half takes the other's for its own. Nothing
in a file is executed. Keys are derived from roots that are not in it: the root of the run and a party's secret are
files of their own.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from fedrl.core.errors import RunError
from fedrl.core.types import PyTree
from fedrl.engines.halves.agent import AgentRun

FORMAT = "1"
KINDS = ("agent", "server")


def save(path: Path, kind: str, federation: str, run: PyTree) -> None:
    """Write what a half remembers; whoever reads the file, even after a crash, finds the old content or the new.

    The owner of the file alone may read it: what an agent remembers is made of its data.

    Args:
        path: Where to.
        kind: "agent" or "server".
        federation: `fedrl.federation.wire_digest.WireDigest.digest` of what it runs.
        run: An `AgentRun` or a `ServerRun`.

    Raises:
        RunError: The file can't be written. What was there stays.
    """
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in _named(run)}
    header = {"format": FORMAT, "kind": kind, "federation": federation, "digest": _digest(arrays)}
    content = safetensors.numpy.save(arrays, header)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.draft")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as fault:
        draft.unlink(missing_ok=True)
        raise RunError(f"{path} can't be written: {fault}. Name a place that is there and has room.") from fault


def load(path: Path, kind: str, federation: str, like: PyTree) -> PyTree:
    """Read what a half remembered, in the shapes and types of `like`: an agent with its turn, if one is pending.

    Args:
        path: Where from.
        kind: "agent" or "server".
        federation: As it was saved with.
        like: What `start()` of this half gives.

    Raises:
        RunError: The file is damaged, of the other half, of another federation, or holds something else.
    """
    header, arrays = _read(path)
    for name, mine in (("format", FORMAT), ("kind", kind), ("federation", federation)):
        if header.get(name) != mine:
            raise RunError(
                f"{path} has the {name} {header.get(name)!r}, and {mine!r} is needed. It belongs to something else. "
                "Name the file of this half, or begin anew without it."
            )
    if header.get("digest") != _digest(arrays):
        raise RunError(f"{path} is damaged: its digest is not that of its content. Restore it, or begin anew.")
    if isinstance(like, AgentRun):
        like = like._replace(pending=like.agents if any(name.startswith("pending/") for name in arrays) else ())
    names = [name for name, _ in _named(like)]
    wrong = sorted(set(names) ^ set(arrays)) or [
        name for name, leaf in _named(like) if (arrays[name].shape, arrays[name].dtype) != (leaf.shape, leaf.dtype)
    ]
    if wrong:
        raise RunError(
            f"{path} and this {kind} differ in {wrong[0]!r}, and in {len(wrong) - 1} arrays more. It was written by "
            "another version. Begin anew without it."
        )

    def placed(name: str, leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray):
            return arrays[name]
        return jax.device_put(arrays[name], leaf.sharding if leaf.committed else None)  # else programs compile again

    return jax.tree.unflatten(jax.tree.structure(like), [placed(*each) for each in _named(like)])


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
    if not path.is_file():  # a pipe would never end
        raise RunError(f"{path} is not there, or is no file. Name the file of this half, or begin anew without it.")
    try:
        with safetensors.safe_open(path, "numpy") as file:
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as fault:
        raise RunError(f"{path} can't be read: {fault}. Restore it, or begin anew without it.") from fault
