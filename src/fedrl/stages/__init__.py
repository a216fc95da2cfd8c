"""Steps of the pipeline an update passes on its way out of an agent."""

from fedrl.stages.clip import clip
from fedrl.stages.compression.error_feedback import error_feedback
from fedrl.stages.compression.hard_threshold import threshold
from fedrl.stages.compression.quantize import quantize
from fedrl.stages.compression.random_k import random_k
from fedrl.stages.compression.sign import sign
from fedrl.stages.compression.top_k import top_k
from fedrl.stages.compression.uniform_quantize import uniform_quantize
from fedrl.stages.download_only import one_way
from fedrl.stages.flatten import flatten
from fedrl.stages.importance_averaging import importance_averaging
from fedrl.stages.lag import lazy
from fedrl.stages.partition_by_size import by_size
from fedrl.stages.reweighting import weigh_by_capacity, weigh_by_improvement, weigh_by_signal
from fedrl.stages.scaffold import control_variates

__all__ = [
    "by_size",
    "clip",
    "control_variates",
    "error_feedback",
    "flatten",
    "importance_averaging",
    "lazy",
    "one_way",
    "quantize",
    "random_k",
    "sign",
    "threshold",
    "top_k",
    "uniform_quantize",
    "weigh_by_capacity",
    "weigh_by_improvement",
    "weigh_by_signal",
]
