"""Studies: one experiment in every combination of some values, and their comparison.

base configuration + grid --product--> settings --run, one after the other--> a run folder each --> study.json, report
"""

from fedrl.studies.running import resume_sweep, sweep

__all__ = [
    "resume_sweep",
    "sweep",
]
