"""The trust models: whom the agents of a federation trust with what they send.

    trusted_coordinator               with the update of each agent
    honest_but_curious_coordinator    to keep to the protocol, while it reads all that it receives
    no_coordinator                    there is none: agents exchange parameters with their neighbours

`fedrl.engines.trust_models` refuses parts with which a coordinator could read more than its trust model says.
"""

from __future__ import annotations

from typing import Literal

TrustModel = Literal["trusted_coordinator", "honest_but_curious_coordinator", "no_coordinator"]
TRUSTED: TrustModel = "trusted_coordinator"
CURIOUS: TrustModel = "honest_but_curious_coordinator"
NOBODY: TrustModel = "no_coordinator"
