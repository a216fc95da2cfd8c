"""Studies: one experiment in every combination of some values, and their comparison.

base configuration + grid --product--> settings --run, one after the other--> a run folder each --> study.json, report
"""

from fedrl.studies.running import resume_sweep, sweep
from fedrl.studies.study_result import StudyResult

__all__ = [
    "StudyResult",
    "resume_sweep",
    "sweep",
]
