"""A policy with a user-defined network or learner as an ONNX model (extra `jax2onnx`).

observation --> what JAX traced, converted by jax2onnx --> scores --> action

The parts outside the network are those of `onnx_form`.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import jax
import numpy as np

from fedrl.core.errors import ConfigError
from fedrl.runs.export.onnx_form import OPSET, SCORES, OnnxNodes, imported, model_of
from fedrl.runs.export.plain import PlainPolicy
from fedrl.runs.spaces import start_of

PREFIX = "network_"


def written_traced(policy: PlainPolicy, who: Mapping[str, Any], scores: Callable[[jax.Array], jax.Array]) -> bytes:
    """Return the content of the model's file.

    Args:
        policy: The spaces and the head of the policy.
        who: The metadata of the file.
        scores: The probabilities of actions, or the continuous actions, of a float32 batch `[batch, *features]`.

    Raises:
        ConfigError: A package is missing, or an operation can't be converted.
    """
    onnx = imported()
    graph = OnnxNodes(onnx.helper)
    network = onnx.compose.add_prefix(_converted(policy, scores), PREFIX).graph
    x = "observation"
    if isinstance(policy.spaces.observation, gym.spaces.Discrete):
        x = graph.add("Sub", x, np.asarray(start_of(policy.spaces.observation), np.int64))
        x = graph.add("Cast", x, to=onnx.TensorProto.FLOAT)
    graph.add("Identity", x, name=network.input[0].name)
    graph.constants |= {each.name: onnx.numpy_helper.to_array(each) for each in network.initializer}
    graph.nodes += network.node
    last = graph.add("Identity", network.output[0].name, name=SCORES[policy.head])
    return model_of(graph, policy, last, who)


def _converted(policy: PlainPolicy, scores: Callable[[jax.Array], jax.Array]) -> Any:
    """Return the model that jax2onnx makes of a function."""
    try:
        from jax2onnx import to_onnx
    except ImportError:
        raise ConfigError(
            f"{policy.own} It is user-defined, so its export to ONNX needs jax2onnx, which is not installed. Install "
            "it: pip install 'fedrl[jax2onnx]'."
        ) from None
    shape = ("batch", *(policy.spaces.observation.shape or ()))
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # of the library about its own insides
            model = to_onnx(scores, [shape], model_name="network", opset=OPSET)
    except Exception as fault:
        said = str(fault).strip().partition("\n")[0]
        raise ConfigError(
            f"{policy.own} jax2onnx can't convert it: {type(fault).__name__}: {said}. Write it with other operations, "
            "or act with policy.predict."
        ) from fault
    if len(model.functions) or any(each.domain for each in model.opset_import):
        raise ConfigError(
            f"{policy.own} jax2onnx made functions of parts of it, which a policy can't contain. Remove their "
            "decorators, or act with policy.predict."
        )
    return model
