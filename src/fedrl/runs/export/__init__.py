"""Policies for devices without fedrl: one Python file for NumPy, an exported program of PyTorch, an ONNX model."""

from fedrl.runs.export.checking import Exported, Reference
from fedrl.runs.export.forms import ENDINGS, export_policy

__all__ = [
    "ENDINGS",
    "Exported",
    "Reference",
    "export_policy",
]
