"""A trained policy in one file that needs Python and NumPy alone, written by fedrl.

    from policy import predict

    action = predict(observation)        one observation, or a batch with one axis more in front
    action = predict(observation, deterministic=False, seed=0)

FACTS says what it observes and does, and which run it is of.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

FACTS: dict[str, Any] = {}
ARRAYS: dict[str, Any] = {}


def predict(observation: Any, deterministic: bool = True, seed: int | None = None) -> Any:
    """Return the action for one observation, or the actions for a batch.

    Args:
        observation: Numbers of the shape of one observation, or a batch with one axis more in front.
        deterministic: The best action; otherwise one is sampled.
        seed: Of the sampled actions. None: another one at each call.
    """
    batch, single = _batch(observation)
    found = _scores(batch)
    if "discrete" in FACTS["action"]:
        shares = None if deterministic else _probabilities(found)
        actions = found.argmax(-1) if shares is None else _drawn(shares, np.random.default_rng(seed))
        actions = actions + FACTS["action"]["start"]
        return int(actions[0]) if single else actions
    if FACTS["choices"]:
        random = None if deterministic else np.random.default_rng(seed)
        return _element(FACTS["action"], iter(_chosen(found, random)), single)
    if not deterministic:
        noise = np.random.default_rng(seed).standard_normal(found.shape)
        found = found + np.exp(_WEIGHTS["log_std"]) * noise
    space = FACTS["action"]
    low, high = (np.asarray(space[name], np.float64) for name in ("low", "high"))
    actions = np.clip(found.reshape(-1, *space["box"]), low, high).astype(space["dtype"])
    return actions[0] if single else actions


def _chosen(found: np.ndarray, random: np.random.Generator | None) -> list[np.ndarray]:
    """Return the entries of each of several choices, `[batch, entries]`; discrete ones are counted from 0."""
    columns, first = [], 0
    for i, (discrete, width) in enumerate(FACTS["choices"]):
        x = found[:, first : first + width]
        first += width
        if discrete:
            x = (x.argmax(-1) if random is None else _drawn(x, random))[:, None]
        elif random is not None:
            x = x + np.exp(_WEIGHTS[f"log_std{i}"]) * random.standard_normal(x.shape)
        columns.append(x)
    return columns


def _element(space: dict[str, Any], columns: Iterator[np.ndarray], single: bool) -> Any:
    """Return the next columns as an action of a space, or as a batch of them."""
    if "tuple" in space:
        return tuple(_element(part, columns, single) for part in space["tuple"])
    if "dict" in space:
        return {key: _element(part, columns, single) for key, part in space["dict"]}
    if "box" in space:
        low, high = (np.asarray(space[name], np.float64) for name in ("low", "high"))
        actions = np.clip(next(columns).reshape(-1, *space["box"]), low, high).astype(space["dtype"])
    elif "discrete" in space:
        actions = next(columns)[:, 0] + space["start"]
    else:
        shape = (
            np.shape(space["multi_discrete"])
            if "multi_discrete" in space
            else tuple(np.atleast_1d(space["multi_binary"]))
        )
        numbers = np.concatenate([next(columns) for _ in range(math.prod(shape))], -1).reshape(-1, *shape)
        actions = (numbers + np.asarray(space.get("start", 0))).astype(space.get("dtype", "int8"))
    return actions[0] if single else actions


def scores(observation: Any) -> np.ndarray:
    """Return the scores of actions, `[batch, actions]`: values, probabilities or means."""
    return _scores(_batch(observation)[0])


def _batch(observation: Any) -> tuple[np.ndarray, bool]:
    """Return the observations, `[batch, features]`, and whether a single one was given."""
    seen, space = np.asarray(observation), FACTS["observation"]
    shape = tuple(space.get("box", ()))
    if seen.shape not in (shape, seen.shape[:1] + shape):
        raise ValueError(
            f"The observation has the shape {seen.shape}; one has {shape}, a batch one axis more in front."
        )
    single = seen.shape == shape
    if "discrete" not in space:
        return seen.reshape(1 if single else len(seen), math.prod(shape)).astype(np.float32), single
    numbers = np.atleast_1d(seen) - space["start"]
    if not ((numbers >= 0) & (numbers < space["discrete"])).all():
        raise ValueError(
            f"The observation is {seen}; observations are {space['discrete']} numbers from {space['start']}."
        )
    return numbers, single


def _scores(x: np.ndarray) -> np.ndarray:
    if FACTS["head"] == "table":
        return _WEIGHTS["q"][x]
    if FACTS["limit"] is not None:
        x = np.clip((x - _WEIGHTS["mean"]) / _WEIGHTS["scale"], -FACTS["limit"], FACTS["limit"])
    if "embedding" in _WEIGHTS:
        x = np.concatenate([x, np.broadcast_to(_WEIGHTS["embedding"], (len(x), _WEIGHTS["embedding"].size))], -1)
    if FACTS["filters"]:
        x = _filtered(x)
    for i in range(FACTS["layers"]):
        weight, bias = _WEIGHTS[f"weight{i}"], _WEIGHTS[f"bias{i}"]
        # a number that is observed picks a column: the product with a vector of zeros and a one
        x = (weight[:, x].T if x.ndim == 1 else x @ weight.T) + bias
        kind = FACTS["activation" if i + 1 < FACTS["layers"] else "output_activation"]
        x = _bent(kind, x) if kind else x
    if FACTS["head"] == "gaussian":
        return x
    if not FACTS["choices"]:
        return _softmax(x)
    parts = np.split(x, np.cumsum([width for _, width in FACTS["choices"]])[:-1], -1)
    each = zip(FACTS["choices"], parts, strict=True)
    return np.concatenate([_softmax(part) if discrete else part for (discrete, _), part in each], -1)


def _filtered(x: np.ndarray) -> np.ndarray:
    """Return the result of the convolutions, `[batch, features]`, channel by channel."""
    height, width, *depth = FACTS["observation"]["box"]
    x = x.reshape(-1, height, width, depth[0] if depth else 1).transpose(0, 3, 1, 2)
    for i in range(FACTS["filters"]):
        weight, bias, stride = _WEIGHTS[f"filter{i}"], _WEIGHTS[f"filter_bias{i}"], FACTS["stride"]
        views = np.lib.stride_tricks.sliding_window_view(x, weight.shape[1:3], (2, 3))[:, :, ::stride, ::stride]
        x = _bent(FACTS["activation"], np.einsum("nchwuv,ouvc->nohw", views, weight) + bias[:, None, None])
    return x.reshape(len(x), -1)


def _softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _bent(kind: str, x: np.ndarray) -> np.ndarray:
    if kind == "tanh":
        return np.tanh(x)
    if kind == "relu":
        return np.maximum(x, 0.0)
    if kind == "elu":
        return np.where(x > 0.0, x, np.expm1(np.minimum(x, 0.0)))
    if kind == "silu":
        return x * 0.5 * (1.0 + np.tanh(0.5 * x))
    assert kind == "gelu", kind
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))


def _probabilities(scores: np.ndarray) -> np.ndarray:
    """Return the probability of each action, `[batch, actions]`."""
    if FACTS["head"] == "softmax":
        return scores
    best = scores == scores.max(-1, keepdims=True)
    return FACTS["epsilon"] / scores.shape[-1] + (1.0 - FACTS["epsilon"]) * best / best.sum(-1, keepdims=True)


def _drawn(shares: np.ndarray, random: np.random.Generator) -> np.ndarray:
    limits = np.cumsum(shares, -1)
    return (random.random((len(shares), 1)) * limits[:, -1:] >= limits[:, :-1]).sum(-1)


def _read(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the arrays, whose bytes are text in this file."""
    bytes_of = {name: base64.b64decode("".join(text)) for name, (_, text) in arrays.items()}
    # float64: products round less, and a device without a fast float32 loses nothing
    return {name: np.frombuffer(bytes_of[name], "<f4").reshape(arrays[name][0]).astype(float) for name in arrays}


_WEIGHTS = _read(ARRAYS)
