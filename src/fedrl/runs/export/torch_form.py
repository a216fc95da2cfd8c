"""A policy as an exported program of PyTorch (extra `torch`): it runs without fedrl, and can be trained further.

    torch.export.load("policy.pt2").module()(observation) --> action, scores

The scores are the probabilities of actions, the values of a table, or the means; of several choices at once, those of
each in a row, and the action is `[batch, entries]`. Weights are parameters of the program
under the names of `PlainPolicy.arrays`.
"""

from __future__ import annotations

import io
import json
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from fedrl.core.errors import ConfigError
from fedrl.runs.export.checking import ExportedOutputs, batch_of
from fedrl.runs.export.plain import Choice, PlainPolicy
from fedrl.runs.spaces import start_of


def written_torch(policy: PlainPolicy, who: Mapping[str, Any]) -> bytes:
    """Return the content of the file, with `who` as "fedrl.json".

    Raises:
        ConfigError: PyTorch is not installed.
    """
    torch = imported()
    space = policy.spaces.observation
    example = torch.from_numpy(batch_of(space, np.full((2, *(space.shape or ())), start_of(space))))
    shapes = {"observation": {0: torch.export.Dim("batch", min=1)}}
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch about its own insides
        program = torch.export.export(_module(torch, policy).eval(), (example,), dynamic_shapes=shapes)
        torch.export.save(program, file, extra_files={"fedrl.json": json.dumps(dict(who))})
    return file.getvalue()


def opened_torch(content: bytes, policy: PlainPolicy) -> Callable[[np.ndarray], ExportedOutputs]:
    """Return the function of the program."""
    torch = imported()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.export.load(io.BytesIO(content)).module()

    def found(seen: np.ndarray) -> ExportedOutputs:
        with torch.no_grad():
            actions, scores = module(torch.from_numpy(batch_of(policy.spaces.observation, seen)))
        return ExportedOutputs(actions.numpy(), scores.numpy())

    return found


def imported() -> Any:
    """Import the package.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import torch
        import torch.export
    except ImportError:
        raise ConfigError(
            "to is 'torch', and PyTorch is not installed. Install it: pip install 'fedrl[torch]'."
        ) from None
    return torch


def _module(torch: Any, policy: PlainPolicy) -> Any:
    """The steps as a module; its class is made here, since PyTorch is imported only when it is asked for."""

    class Acting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, array in policy.arrays.items():
                value = torch.from_numpy(np.array(array))
                if name in ("mean", "scale"):
                    self.register_buffer(name, value)
                else:
                    self.register_parameter(name, torch.nn.Parameter(value))

        def forward(self, observation: Any) -> tuple[Any, Any]:
            scores = self.scores(observation)
            return _action(torch, policy, scores), scores

        def scores(self, observation: Any) -> Any:
            discrete = isinstance(policy.spaces.observation, gym.spaces.Discrete)
            x = observation - start_of(policy.spaces.observation) if discrete else observation.flatten(1)
            if policy.head == "table":
                return self.q[x]
            if policy.limit is not None:
                x = ((x - self.mean) / self.scale).clamp(-policy.limit, policy.limit)
            if "embedding" in policy.arrays:
                x = torch.cat([x, self.embedding.expand(x.shape[0], -1)], 1)
            x = _filtered(torch, policy, self, x)
            for i in range(policy.layers):
                weight, bias = getattr(self, f"weight{i}"), getattr(self, f"bias{i}")
                x = weight.T[x] + bias if discrete and i == 0 else torch.nn.functional.linear(x, weight, bias)
                kind = policy.activation if i + 1 < policy.layers else policy.output_activation
                x = _bent(torch, kind, x) if kind else x
            return _headed(torch, policy, x)

    return Acting()


def _filtered(torch: Any, policy: PlainPolicy, module: Any, x: Any) -> Any:
    """Return the result of the convolutions, channel by channel; what is given, if there are none."""
    if not policy.filters:
        return x
    x = x.reshape(-1, *policy.planes).permute(0, 3, 1, 2)
    for i in range(policy.filters):
        weight, bias = getattr(module, f"filter{i}").permute(0, 3, 1, 2), getattr(module, f"filter_bias{i}")
        x = _bent(torch, policy.activation, torch.nn.functional.conv2d(x, weight, bias, policy.stride))
    return x.flatten(1)


def _headed(torch: Any, policy: PlainPolicy, x: Any) -> Any:
    """Return the scores from the outputs of the network."""
    if policy.head == "softmax":
        return x.softmax(-1)
    if policy.choices:
        parts = [(choice.discrete, x[:, choice.scores]) for choice in policy.choices]
        return torch.cat([part.softmax(-1) if discrete else part for discrete, part in parts], 1)
    return x.reshape(-1, *(policy.spaces.action.shape or ()))


def _action(torch: Any, policy: PlainPolicy, scores: Any) -> Any:
    space = policy.spaces.action
    if isinstance(space, gym.spaces.Discrete):
        return scores.argmax(-1) + int(space.start)
    if policy.choices:
        columns = [_entries(torch, choice, scores[:, choice.scores]) for choice in policy.choices]
        return torch.cat(columns, 1)  # whole numbers become float32 beside some
    return _clipped(torch, scores, space).to(getattr(torch, np.dtype(space.dtype or np.float32).name))


def _entries(torch: Any, choice: Choice, scores: Any) -> Any:
    """Return the entries of one of several choices, `[batch, entries]`."""
    if choice.discrete:
        return scores.argmax(-1, keepdim=True) + int(choice.space.start)
    return _clipped(torch, scores.reshape(-1, *choice.space.shape), choice.space).flatten(1)


def _clipped(torch: Any, x: Any, space: Any) -> Any:
    low, high = (torch.from_numpy(np.array(bound, np.float32)) for bound in (space.low, space.high))
    return torch.minimum(torch.maximum(x, low), high)


def _bent(torch: Any, kind: str, x: Any) -> Any:
    if kind == "gelu":
        return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))
    return torch.tanh(x) if kind == "tanh" else getattr(torch.nn.functional, kind)(x)
