"""Steps of the pipeline an update passes on its way out of an agent."""

from fedrl.stages.importance_averaging import importance_averaging

__all__ = ["importance_averaging"]
