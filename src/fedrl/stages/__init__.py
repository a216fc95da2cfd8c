"""Steps of the pipeline an update passes on its way out of an agent."""

from fedrl.stages.by_size import by_size
from fedrl.stages.clip import clip
from fedrl.stages.control_variates import control_variates
from fedrl.stages.error_feedback import error_feedback
from fedrl.stages.flatten import flatten
from fedrl.stages.importance_averaging import importance_averaging
from fedrl.stages.lazy import lazy
from fedrl.stages.one_way import one_way
from fedrl.stages.quantize import quantize
from fedrl.stages.random_k import random_k
from fedrl.stages.sign import sign
from fedrl.stages.threshold import threshold
from fedrl.stages.top_k import top_k
from fedrl.stages.uniform_quantize import uniform_quantize
from fedrl.stages.weights import weigh_by_capacity, weigh_by_improvement, weigh_by_signal

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
