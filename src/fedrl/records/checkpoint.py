"""Checkpoints: the leaves of a pytree in a file; the reader supplies a tree of the same structure.

leaves in order --> arrays "0000", "0001", ... + "round" --> safetensors, replaced atomically. No pickle, which would
execute what it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from fedrl.core.errors import RunError
from fedrl.core.types import Params, PyTree
from fedrl.records.files import reading, write_atomically

ROUND = "round"
AGAIN = "Run the experiment again."
ANEW = "Delete it; this seed of the method then starts anew."


def save(path: Path, tree: PyTree, round_number: int, before: Callable[[], object] = lambda: None) -> None:
    """Write the leaves of a tree, random keys as their raw data.

    Args:
        path: The file.
        tree: The tree.
        round_number: The number of the last round.
        before: Called when the content is on the disk, and the file is not replaced yet.
    """
    # Positions name the leaves, since paths through a state may contain anything.
    leaves = {f"{i:04d}": np.asarray(_data(leaf), order="C") for i, leaf in enumerate(jax.tree.leaves(tree))}
    content = safetensors.numpy.save({**leaves, ROUND: np.asarray([round_number], np.int64)})
    write_atomically(path, content, before=before)


def round_of(path: Path) -> int:
    """Return the round after which a checkpoint was written; 0 if there is none.

    Raises:
        RunError: The file is damaged.
    """
    try:
        with reading(path, ANEW), safetensors.safe_open(path, "numpy") as file:
            return int(file.get_tensor(ROUND)[0])
    except FileNotFoundError:
        return 0


def load(path: Path, like: PyTree) -> PyTree:
    """Read a tree of the structure, shapes and types of `like`, each leaf onto the same device.

    Raises:
        RunError: The file is damaged, or contains another tree.
    """
    return placed(arrays_of(path), like, path)


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a checkpoint.

    Raises:
        RunError: The file is damaged.
    """
    with reading(path, ANEW):
        return dict(safetensors.numpy.load(path.read_bytes()))


def placed(arrays: Mapping[str, np.ndarray], like: PyTree, path: Path, cure: str = AGAIN) -> PyTree:
    """Return the tree of a checkpoint's arrays, each leaf on the device of its leaf in `like`.

    Raises:
        RunError: They are those of another tree; the message ends with `cure`.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(like)
    leaves = [leaf for _, leaf in paths]
    # The structure is not in the file, so only their number, shapes and types show that it is of another experiment.
    if set(arrays) != {ROUND, *(f"{i:04d}" for i in range(len(leaves)))}:
        raise RunError(
            f"{path} has {len(arrays) - 1} arrays and the experiment needs {len(leaves)}: it is the checkpoint of "
            f"another experiment or version. {cure}"
        )
    names = [_joined(where) for where, _ in paths]
    read = [_placed(arrays[f"{i:04d}"], leaf, path, names[i], cure) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, read)


def named(params: Params, prefix: str) -> dict[str, np.ndarray]:
    """Return the leaves of a tree by their paths: `{"seed0/actor/0/weight": ...}`."""
    paths = jax.tree_util.tree_flatten_with_path(params)[0]
    return {f"{prefix}/{_joined(path)}": np.asarray(leaf) for path, leaf in paths}


def unnamed(arrays: dict[str, np.ndarray], prefix: str, like: PyTree) -> Params:
    """Return the tree of leaves that `named` made, with the structure of `like`.

    Raises:
        RunError: A leaf is missing or of another shape.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(like)
    leaves = []
    for path, leaf in paths:
        name = f"{prefix}/{_joined(path)}"
        if name not in arrays or arrays[name].shape != leaf.shape:
            raise RunError(
                f"The run has no array {name!r} of shape {leaf.shape}. It was written by another version. "
                "Run the experiment again."
            )
        leaves.append(arrays[name])
    return jax.tree.unflatten(structure, leaves)


def _joined(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/") or "value"


def _data(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _placed(array: np.ndarray, leaf: Any, path: Path, name: str, cure: str) -> Any:
    raw = _data(leaf)
    if array.shape != raw.shape or array.dtype != raw.dtype:
        raise RunError(
            f"{path} has the array {name} as {array.dtype}{list(array.shape)}, and the experiment as "
            f"{raw.dtype}{list(raw.shape)}: it is of another experiment or version. {cure}"
        )
    # Some state lives on the host as NumPy (scheduler, clock): putting it on a device would change its type.
    if not isinstance(leaf, jax.Array):
        return array
    if _is_key(leaf):
        return jax.device_put(
            jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf)), leaf.sharding
        )
    return jax.device_put(array, leaf.sharding)
