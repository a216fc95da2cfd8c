"""The forms of export, and the one way through them: write, check, and only then put the file where it belongs."""

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
from fedrl.runs.export.numpy_form import opened_numpy, written_numpy
from fedrl.runs.export.onnx_form import opened_onnx, written_onnx
from fedrl.runs.export.plain import PlainPolicy, plain_policy
from fedrl.runs.export.torch_form import opened_torch, written_torch

ENDINGS = {"numpy": ".py", "torch": ".pt2", "onnx": ".onnx"}
"""The forms, and how the names of their files end."""

Write = Callable[[PlainPolicy, Mapping[str, Any]], bytes]
Open = Callable[[bytes, PlainPolicy], Callable[[np.ndarray], ExportedOutputs]]

FORMS: dict[str, tuple[Write, Open]] = {
    "numpy": (written_numpy, lambda content, policy: opened_numpy(content)),
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
    """Write a policy to a file that needs no fedrl.

    Args:
        learner: Its table, every parameter filled in.
        params: What it acts with.
        reference: The policy, to compare with.
        who: What the file says of itself: the seed, the agent, the version of fedrl.
        path: Where.
        to: The form; by default that of the ending of the path.

    Returns:
        The file, and how far its outputs are from those of the policy.

    Raises:
        ConfigError: The form is not known, a package is missing, or the network is one of the user's own.
        RunError: The file can't be written, or does not do what the policy does.
    """
    form = form_of(path, to)
    write, open_again = FORMS[form]
    policy = plain_policy(learner, params, reference.spaces)
    content = write(policy, who)
    difference = compared(policy, reference, open_again(content, policy), form)
    write_atomically(path, content, "Name another file.")
    return Exported(path, OBSERVATIONS, difference)


def form_of(path: Path, to: str | None = None) -> str:
    """The form that was asked for, or that of the ending of a name.

    Raises:
        ConfigError: It is none.
    """
    if to is not None:
        check_one_of(to, tuple(ENDINGS), "to")
        return to
    forms = {ending: form for form, ending in ENDINGS.items()}
    if path.suffix not in forms:
        raise ConfigError(
            f"{path} ends with {path.suffix!r}, which is no form of export. {nearest(path.suffix, forms)}"
        )
    return forms[path.suffix]
