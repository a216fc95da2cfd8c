"""Rules that make one update of many."""

from fedrl.aggregators.mean import mean

__all__ = ["mean"]
