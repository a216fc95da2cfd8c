"""How many agents fit on this machine: rounds with more and more agents, until a limit is broken.

"round <= 1 s"  --probes, each in a process of its own-->  the largest K that keeps it, and costs against K
"""

from fedrl.studies.scaling.scale_result import ScaleResult
from fedrl.studies.scaling.scaling import scale

__all__ = ["ScaleResult", "scale"]
