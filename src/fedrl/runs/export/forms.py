"""The forms of export: the bytes are written, compared with the policy, and only then become a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedrl.core.checks import check_one_of
from fedrl.core.errors import ConfigError, nearest
from fedrl.core.types import Params
from fedrl.records.files import write_atomically
from fedrl.runs.export.checking import OBSERVATIONS, Exported, ExportedOutputs, Reference, compared
from fedrl.runs.export.jax2onnx_form import written_traced
from fedrl.runs.export.numpy_form import opened_numpy, written_numpy
from fedrl.runs.export.onnx_form import opened_onnx, written_onnx
from fedrl.runs.export.plain import PlainPolicy, plain_policy
from fedrl.runs.export.torch_form import opened_torch, written_torch

ENDINGS = {"numpy": ".py", "torch": ".pt2", "onnx": ".onnx"}
"""The suffix of the files of each form."""

Write = Callable[[PlainPolicy, Mapping[str, Any]], bytes]
Open = Callable[[bytes, PlainPolicy], Callable[[np.ndarray], ExportedOutputs]]

FORMS: dict[str, tuple[Write, Open]] = {
    "numpy": (written_numpy, opened_numpy),
    "torch": (written_torch, opened_torch),
    "onnx": (written_onnx, opened_onnx),
}


def export_policy(
    learner: Mapping[str, Any],
    params: Params,
    reference: Reference,
    who: Mapping[str, Any],
    path: Path,
    to: str | None = None,
) -> Exported:
    """Write a policy to a file that runs without fedrl.

    Args:
        learner: The table of the learner, with all parameters.
        params: The acting parameters.
        reference: The policy to compare the file with.
        who: The metadata of the file: the seed, the agent, the version of fedrl.
        path: The path of the file.
        to: The form; by default, the suffix of the path decides.

    Returns:
        The path, and the largest difference of outputs from those of the policy.

    Raises:
        ConfigError: The form is unknown, a package is missing, or the network is user-defined and can't be converted.
        RunError: The file can't be written, or its outputs differ from those of the policy.
    """
    form = form_of(path, to)
    write, open_again = FORMS[form]
    policy = plain_policy(learner, params, reference.spaces)
    if policy.own and form != "onnx":
        raise ConfigError(
            f"{policy.own} It is user-defined, so its steps are known only as a function, and {form!r} needs them one "
            "by one. Export it to 'onnx', or act with policy.predict."
        )
    if policy.own and policy.choices:
        raise ConfigError(
            f"{policy.own} Its outputs are known only as a function, and an action of several choices has outputs for "
            "each, which this function does not tell apart. Use the network mlp, or act with policy.predict."
        )
    content = written_traced(policy, who, reference.traced) if policy.own else write(policy, who)
    difference = compared(policy, reference, open_again(content, policy), form)
    write_atomically(path, content, "Name another file.")
    return Exported(path, OBSERVATIONS, difference)


def form_of(path: Path, to: str | None = None) -> str:
    """Return the given form, or that of the suffix of a path.

    Raises:
        ConfigError: The form or the suffix is unknown.
    """
    if to is not None:
        check_one_of(to, tuple(ENDINGS), "to")
        return to
    forms = {ending: form for form, ending in ENDINGS.items()}
    if path.suffix not in forms:
        raise ConfigError(
            f"{path} ends with {path.suffix!r}, which is not the suffix of a form. {nearest(path.suffix, forms)}"
        )
    return forms[path.suffix]
