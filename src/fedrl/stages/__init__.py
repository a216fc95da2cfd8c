"""Steps of the pipeline an update passes on its way out of an agent."""

from fedrl.stages.clip import clip
from fedrl.stages.control_variates import control_variates
from fedrl.stages.error_feedback import error_feedback
from fedrl.stages.importance_averaging import importance_averaging
from fedrl.stages.one_way import one_way
from fedrl.stages.quantize import quantize
from fedrl.stages.top_k import top_k

__all__ = ["clip", "control_variates", "error_feedback", "importance_averaging", "one_way", "quantize", "top_k"]
