"""A pytree in a file, without its structure: whoever reads it brings a tree of the same structure.

leaves in order --> arrays "0000", "0001", ... + "round" --> safetensors, replaced atomically. No pickle.
"""

from __future__ import annotations

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
ANEW = "Delete it; this seed of the method then starts anew."


def save(path: Path, tree: PyTree, round_number: int) -> None:
    """Write the leaves of a tree, random keys as their raw data."""
    leaves = {f"{i:04d}": np.asarray(_data(leaf), order="C") for i, leaf in enumerate(jax.tree.leaves(tree))}
    write_atomically(path, safetensors.numpy.save({**leaves, ROUND: np.asarray([round_number], np.int64)}))


def round_of(path: Path) -> int:
    """The round a checkpoint was written after; 0 if there is none.

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
        RunError: The file is damaged, or holds another tree.
    """
    with reading(path, ANEW):
        arrays = safetensors.numpy.load(path.read_bytes())
    leaves, structure = jax.tree.flatten(like)
    if set(arrays) != {ROUND, *(f"{i:04d}" for i in range(len(leaves)))}:
        raise RunError(
            f"{path} holds {len(arrays) - 1} arrays and the experiment needs {len(leaves)}: it is the checkpoint of "
            "another experiment or version. Run the experiment anew."
        )
    return jax.tree.unflatten(structure, [_placed(arrays[f"{i:04d}"], leaf, path) for i, leaf in enumerate(leaves)])


def named(params: Params, prefix: str) -> dict[str, np.ndarray]:
    """The leaves of a tree by their paths: `{"seed0/actor/0/weight": ...}`."""
    paths = jax.tree_util.tree_flatten_with_path(params)[0]
    return {f"{prefix}/{_joined(path)}": np.asarray(leaf) for path, leaf in paths}


def unnamed(arrays: dict[str, np.ndarray], prefix: str, like: PyTree) -> Params:
    """The tree whose leaves `named` wrote, of the structure of `like`.

    Raises:
        RunError: A leaf is missing or of another shape.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(like)
    leaves = []
    for path, leaf in paths:
        name = f"{prefix}/{_joined(path)}"
        if name not in arrays or arrays[name].shape != leaf.shape:
            raise RunError(f"There is no array {name!r} of shape {leaf.shape} in this run. It is of another version.")
        leaves.append(arrays[name])
    return jax.tree.unflatten(structure, leaves)


def _joined(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/") or "value"


def _data(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _placed(array: np.ndarray, leaf: Any, path: Path) -> Any:
    raw = _data(leaf)
    if array.shape != raw.shape or array.dtype != raw.dtype:
        raise RunError(
            f"{path} holds an array {array.dtype}{list(array.shape)} where the experiment has "
            f"{raw.dtype}{list(raw.shape)}: it is of another experiment or version. Run the experiment anew."
        )
    if not isinstance(leaf, jax.Array):
        return array
    if _is_key(leaf):
        return jax.device_put(
            jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf)), leaf.sharding
        )
    return jax.device_put(array, leaf.sharding)
