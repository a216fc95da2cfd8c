"""Stages of the update pipeline: clipping, compression, reweighting, control variates."""

from fedrl.stages.clip import clip
from fedrl.stages.compression.error_feedback import error_feedback
from fedrl.stages.compression.hard_threshold import hard_threshold
from fedrl.stages.compression.quantize import quantize
from fedrl.stages.compression.random_k import random_k
from fedrl.stages.compression.sign import sign
from fedrl.stages.compression.top_k import top_k
from fedrl.stages.compression.uniform_quantize import uniform_quantize
from fedrl.stages.download_only import download_only
from fedrl.stages.flatten import flatten
from fedrl.stages.importance_averaging import importance_averaging
from fedrl.stages.lag import lag
from fedrl.stages.partition_by_size import partition_by_size
from fedrl.stages.reweighting import weight_by_capacity, weight_by_improvement, weight_by_signal
from fedrl.stages.scaffold import scaffold

__all__ = [
    "clip",
    "download_only",
    "error_feedback",
    "flatten",
    "hard_threshold",
    "importance_averaging",
    "lag",
    "partition_by_size",
    "quantize",
    "random_k",
    "scaffold",
    "sign",
    "top_k",
    "uniform_quantize",
    "weight_by_capacity",
    "weight_by_improvement",
    "weight_by_signal",
]
