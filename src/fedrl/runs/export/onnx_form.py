"""A policy as an ONNX model (extra `onnx`): one node per step, built with `onnx.helper`.

observation [batch, *features] float32, or [batch] int64 --> action, and
    probabilities [batch, actions]                            of softmax policies
    values [batch, actions]                                   of a table
    mean [batch, *features], standard_deviation [*features]   of Gaussian policies
    scores [batch, ...]                                       of several choices: those of each, one after another

The action of several choices is [batch, entries], one after another, int64 if all are discrete, else float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from fedrl.core.errors import ConfigError
from fedrl.runs.export.checking import ExportedOutputs, batch_of
from fedrl.runs.export.plain import Choice, PlainPolicy
from fedrl.runs.spaces import start_of

OPSET, IR_VERSION = 17, 8
"""The opset of 2022, which runtimes of small devices support."""
SCORES = {"softmax": "probabilities", "table": "values", "gaussian": "mean", "product": "scores"}


class OnnxNodes:
    """Nodes and constants, in order."""

    def __init__(self, helper: Any) -> None:
        self.helper = helper
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def add(self, kind: str, *inputs: str | np.ndarray, name: str = "", **attributes: Any) -> str:
        """Add a node and its constants, and return the name of its output."""
        output = name or f"{kind.lower()}_{len(self.nodes)}"
        names = [self.constant(f"{output}_{i}", x) if isinstance(x, np.ndarray) else x for i, x in enumerate(inputs)]
        self.nodes.append(self.helper.make_node(kind, names, [output], **attributes))
        return output

    def constant(self, name: str, value: np.ndarray) -> str:
        """Add a constant and return its name."""
        self.constants[name] = np.ascontiguousarray(value)
        return name


def written_onnx(policy: PlainPolicy, who: Mapping[str, Any]) -> bytes:
    """Return the content of the model's file.

    Raises:
        ConfigError: ONNX is not installed.
    """
    onnx = imported()
    graph = OnnxNodes(onnx.helper)
    return model_of(graph, policy, _scores(graph, policy), who)


def model_of(graph: OnnxNodes, policy: PlainPolicy, scores: str, who: Mapping[str, Any]) -> bytes:
    """Return the content of a model's file whose graph has the scores, by name, and not yet the action.

    Raises:
        ConfigError: ONNX is not installed.
    """
    onnx = imported()
    outputs = [_action(graph, policy, scores, onnx), scores]
    if "log_std" in policy.arrays:
        deviation = np.exp(policy.arrays["log_std"]).reshape(policy.spaces.action.shape or ())
        outputs.append(graph.add("Identity", deviation, name="standard_deviation"))
    types = onnx.TensorProto
    discrete = isinstance(policy.spaces.observation, gym.spaces.Discrete)
    features = list(policy.spaces.observation.shape or ())
    known = {
        "observation": (types.INT64 if discrete else types.FLOAT, ["batch", *features]),
        "action": (_action_type(policy, onnx), None),
    }

    def info(name: str) -> Any:
        kind, shape = known.get(name, (types.FLOAT, None))
        return onnx.helper.make_tensor_value_info(name, kind, shape or _shape(policy, name))

    body = onnx.helper.make_graph(
        graph.nodes,
        "policy",
        [info("observation")],
        [info(name) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in graph.constants.items()],
    )
    model = onnx.helper.make_model(
        body, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="fedrl"
    )
    onnx.helper.set_model_props(model, {name: str(value) for name, value in who.items()})
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def opened_onnx(content: bytes, policy: PlainPolicy) -> Callable[[np.ndarray], ExportedOutputs]:
    """Return the function of the model, by the reference implementation of ONNX."""
    from onnx.reference import ReferenceEvaluator

    session = ReferenceEvaluator(imported().load_from_string(content))

    def found(seen: np.ndarray) -> ExportedOutputs:
        actions, scores, *_ = session.run(None, {"observation": batch_of(policy.spaces.observation, seen)})
        return ExportedOutputs(np.asarray(actions), np.asarray(scores))

    return found


def imported() -> Any:
    """Import the package.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import onnx
        import onnx.checker
        import onnx.compose
        import onnx.helper
        import onnx.numpy_helper
    except ImportError:
        raise ConfigError(
            "to is 'onnx', and the package onnx is not installed. Install it: pip install 'fedrl[onnx]'."
        ) from None
    return onnx


def _scores(graph: OnnxNodes, policy: PlainPolicy) -> str:
    arrays, last = policy.arrays, SCORES[policy.head]
    x = "observation"
    discrete = isinstance(policy.spaces.observation, gym.spaces.Discrete)
    if discrete:
        x = graph.add("Sub", x, np.asarray(start_of(policy.spaces.observation), np.int64))
    if policy.head == "table":
        return graph.add("Gather", arrays["q"], x, name=last, axis=0)
    if not discrete:
        x = graph.add("Flatten", x, axis=1)
    if policy.limit is not None:
        x = graph.add("Div", graph.add("Sub", x, arrays["mean"]), arrays["scale"])
        limit = np.float32(policy.limit)
        x = graph.add("Clip", x, np.asarray(-limit), np.asarray(limit))
    if "embedding" in arrays:
        x = _with_embedding(graph, x, arrays["embedding"])
    if policy.filters:
        x = _filtered(graph, policy, x)
    for i in range(policy.layers):
        weight, bias = (
            graph.constant(f"weight{i}", arrays[f"weight{i}"]),
            graph.constant(f"bias{i}", arrays[f"bias{i}"]),
        )
        if discrete and i == 0:  # a number that is observed picks a column
            columns = graph.add("Gather", graph.add("Transpose", weight, perm=[1, 0]), x, axis=0)
            x = graph.add("Add", columns, bias)
        else:
            x = graph.add("Gemm", x, weight, bias, transB=1)
        kind = policy.activation if i + 1 < policy.layers else policy.output_activation
        x = _bent(graph, kind, x) if kind else x
    if policy.head == "softmax":
        return graph.add("Softmax", x, name=last, axis=-1)
    if policy.head == "product":
        parts = [(choice, _columns(graph, x, choice.scores)) for choice in policy.choices]
        each = [graph.add("Softmax", part, axis=-1) if choice.discrete else part for choice, part in parts]
        return graph.add("Concat", *each, name=last, axis=1)
    return graph.add("Reshape", x, _sizes(policy.spaces.action.shape or ()), name=last, allowzero=0)


def _columns(graph: OnnxNodes, x: str, which: slice) -> str:
    first, last, axis = (np.asarray([number], np.int64) for number in (which.start, which.stop, 1))
    return graph.add("Slice", x, first, last, axis)


def _sizes(features: Sequence[int]) -> np.ndarray:
    """Return the shape of a batch of such arrays; 0 keeps the first axis."""
    return np.asarray([0, *features] if features else [-1], np.int64)


def _with_embedding(graph: OnnxNodes, x: str, embedding: np.ndarray) -> str:
    batch = graph.add("Slice", graph.add("Shape", x), np.asarray([0]), np.asarray([1]))
    target = graph.add("Concat", batch, np.asarray([embedding.size], np.int64), axis=0)
    return graph.add("Concat", x, graph.add("Expand", embedding, target), axis=1)


def _filtered(graph: OnnxNodes, policy: PlainPolicy, x: str) -> str:
    x = graph.add("Transpose", graph.add("Reshape", x, _sizes(policy.planes)), perm=[0, 3, 1, 2])
    for i in range(policy.filters):
        weight = graph.constant(f"filter{i}", policy.arrays[f"filter{i}"].transpose(0, 3, 1, 2))
        bias = graph.constant(f"filter_bias{i}", policy.arrays[f"filter_bias{i}"])
        x = _bent(graph, policy.activation, graph.add("Conv", x, weight, bias, strides=[policy.stride] * 2))
    return graph.add("Flatten", x, axis=1)


def _bent(graph: OnnxNodes, kind: str, x: str) -> str:
    one = {"tanh": "Tanh", "relu": "Relu", "elu": "Elu"}
    if kind in one:
        return graph.add(one[kind], x)
    if kind == "silu":
        return graph.add("Mul", x, graph.add("Sigmoid", x))
    assert kind == "gelu", kind
    cube = graph.add("Mul", graph.add("Mul", x, x), x)
    inner = graph.add("Add", x, graph.add("Mul", cube, np.asarray(0.044715, np.float32)))
    bend = graph.add("Tanh", graph.add("Mul", inner, np.asarray(math.sqrt(2.0 / math.pi), np.float32)))
    half = graph.add("Mul", x, np.asarray(0.5, np.float32))
    return graph.add("Mul", half, graph.add("Add", bend, np.asarray(1.0, np.float32)))


def _action(graph: OnnxNodes, policy: PlainPolicy, scores: str, onnx: Any) -> str:
    space = policy.spaces.action
    if isinstance(space, gym.spaces.Discrete):
        best = graph.add("ArgMax", scores, axis=-1, keepdims=0)
        return graph.add("Add", best, np.asarray(int(space.start), np.int64), name="action")
    kind = _action_type(policy, onnx)
    if policy.choices:
        columns = [_entry(graph, choice, _columns(graph, scores, choice.scores), kind) for choice in policy.choices]
        return graph.add("Concat", *columns, name="action", axis=1)
    assert isinstance(space, gym.spaces.Box)
    return graph.add("Cast", _clipped(graph, scores, space.low, space.high), name="action", to=kind)


def _entry(graph: OnnxNodes, choice: Choice, scores: str, kind: int) -> str:
    """Return the entries of one of several choices, `[batch, entries]`."""
    if choice.discrete:
        best = graph.add("ArgMax", scores, axis=-1, keepdims=1)
        return graph.add("Cast", graph.add("Add", best, np.asarray(int(choice.space.start), np.int64)), to=kind)
    return graph.add(
        "Cast", _clipped(graph, scores, choice.space.low.reshape(-1), choice.space.high.reshape(-1)), to=kind
    )


def _clipped(graph: OnnxNodes, x: str, low: np.ndarray, high: np.ndarray) -> str:
    return graph.add("Min", graph.add("Max", x, low.astype(np.float32)), high.astype(np.float32))


def _action_type(policy: PlainPolicy, onnx: Any) -> int:
    space = policy.spaces.action
    if policy.choices:
        whole = all(choice.discrete for choice in policy.choices)
        return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(np.int64 if whole else np.float32)))
    dtype = np.dtype(np.int64 if isinstance(space, gym.spaces.Discrete) else space.dtype)
    return int(onnx.helper.np_dtype_to_tensor_dtype(dtype))


def _shape(policy: PlainPolicy, output: str) -> list[Any]:
    if policy.choices:
        entries = sum(math.prod(choice.space.shape) for choice in policy.choices)
        return ["batch", policy.choices[-1].scores.stop if output == "scores" else entries]
    features = list(policy.spaces.action.shape or ())
    if output == "standard_deviation":
        return features
    if output in ("probabilities", "values"):
        assert isinstance(policy.spaces.action, gym.spaces.Discrete)
        return ["batch", int(policy.spaces.action.n)]
    return ["batch", *features]
