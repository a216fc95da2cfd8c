"""A policy as one Python file that needs NumPy alone: the source of `numpy_policy` with the facts and weights in it.

The weights stand in the file as text: there is one thing to copy to a device, and all that is run there can be read.
"""

from __future__ import annotations

import base64
import importlib.resources
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fedrl.environments.adapters.entries import entries_of
from fedrl.runs.export.checking import ExportedOutputs
from fedrl.runs.export.plain import PlainPolicy
from fedrl.runs.spaces import space_table

WIDTH = 108


def written_numpy(policy: PlainPolicy, who: Mapping[str, Any]) -> bytes:
    """Return the content of the file."""
    facts = {
        **who,
        "observation": space_table(policy.spaces.observation),
        "action": space_table(policy.spaces.action),
        "head": policy.head,
        "layers": policy.layers,
        "activation": policy.activation,
        "output_activation": policy.output_activation,
        "filters": policy.filters,
        "stride": policy.stride,
        "limit": policy.limit,
        "epsilon": policy.epsilon,
        "choices": [[choice.discrete, choice.scores.stop - choice.scores.start] for choice in policy.choices],
    }
    source = importlib.resources.files("fedrl.runs.export").joinpath("numpy_policy.py").read_text(encoding="utf-8")
    for name, text in (("FACTS", _facts(facts)), ("ARRAYS", _arrays(policy.arrays))):
        source = source.replace(f"{name}: dict[str, Any] = {{}}\n", f"{name}: dict[str, Any] = {{\n{text}}}\n")
    return source.encode()


def opened_numpy(content: bytes, policy: PlainPolicy) -> Callable[[np.ndarray], ExportedOutputs]:
    """Return the function of the file, as an importing program sees it."""
    names: dict[str, Any] = {"__name__": "policy"}
    exec(compile(content, "policy.py", "exec"), names)

    def found(seen: np.ndarray) -> ExportedOutputs:
        actions = names["predict"](seen)
        flat = entries_of(policy.spaces.action, actions) if policy.choices else np.asarray(actions)
        return ExportedOutputs(flat, np.asarray(names["scores"](seen)))

    return found


def _facts(facts: Mapping[str, Any]) -> str:
    return "".join(f"    {json.dumps(name)}: {value!r},\n" for name, value in facts.items())


def _arrays(arrays: Mapping[str, np.ndarray]) -> str:
    lines: list[str] = []
    for name, array in arrays.items():
        text = base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode()
        lines.append(f"    {json.dumps(name)}: (\n        {array.shape},\n        (\n")
        lines += [f'            "{text[i : i + WIDTH]}",\n' for i in range(0, len(text), WIDTH)]
        lines.append("        ),\n    ),\n")
    return "".join(lines)
