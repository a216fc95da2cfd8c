"""Test by measurement what a federation claims of its privacy.

    federation --audited--> AuditedMechanism --Driver: the functions of a run--> releases --scores--> verdict
               --audit_whole: one run, training included, half of the agents--> guesses --> verdict

A claim can be refuted and never proven: "not refuted" means that these canaries and these scores found no fault.
"""

from fedrl.audit.canary import AuditedMechanism, audited
from fedrl.audit.mechanism import MechanismAudit, audit_mechanism
from fedrl.audit.one_run import WholeAudit, audit_whole

__all__ = ["AuditedMechanism", "MechanismAudit", "WholeAudit", "audit_mechanism", "audit_whole", "audited"]
