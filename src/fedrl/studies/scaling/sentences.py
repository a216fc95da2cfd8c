"""What a scale measurement found, in sentences, for the terminal, the page and errors."""

from __future__ import annotations

from collections.abc import Sequence

from fedrl.records.formatting import NOTHING
from fedrl.studies.scaling.records import Probe, Scale


def headline(scale: Scale) -> str:
    """Return the result as a sentence."""
    limit = "" if scale["limit"] is None else scale["limit"]["text"]
    agents, broken = scale["agents"], scale["broken"]
    if scale["state"] == "interrupted":
        far = "" if agents is None else f" {_keep(agents)} {limit}, by measurement."
        return f"Interrupted; what was measured so far is kept.{far}"
    if scale["state"] == "measured":
        measured = sum(probe["state"] == "measured" for probe in scale["probes"])
        return f"{measured} of {len(scale['probes'])} numbers of agents were measured, without a limit."
    if scale["state"] == "none" or agents is None:
        return (
            f"No measured number of agents keeps {limit}; the smallest was {broken:,}."
            if broken
            else "Nothing was measured."
        )
    if scale["state"] == "found":
        return f"{_keep(agents)} {limit}, and {broken:,} break it, both by measurement."
    further = "and no larger number was measured" if broken is None else f"and {broken:,} break it"
    return f"{_keep(agents)} {limit}, {further}: the largest number may be higher."


def _keep(agents: int) -> str:
    return f"{many(agents)} {'keeps' if agents == 1 else 'keep'}"


def failed_sentences(probes: Sequence[Probe]) -> list[str]:
    """Return a sentence for each number of agents that was not measured, and for rejected updates."""
    said = [f"{many(p['agents'])}, {p['state']}: {p['reason']}" for p in probes if "reason" in p]
    for probe in probes:
        if probe.get("rejected"):
            said.append(f"{many(probe['agents'])}: {probe['rejected']:,} updates were rejected in measured rounds.")
    return said


def many(agents: int) -> str:
    """Return a number of agents in words.

    >>> many(1), many(1000)
    ('1 agent', '1,000 agents')
    """
    return f"{agents:,} agent{'' if agents == 1 else 's'}"


def kept_in(probe: Probe) -> str:
    """Return whether a probe keeps the limit, in a word, or why that is not known.

    >>> kept_in({"agents": 2, "state": "measured", "holds": True})
    'yes'
    """
    if probe["state"] != "measured":
        return probe["state"]
    return {True: "yes", False: "no", None: NOTHING}[probe["holds"]]


def percent(error: float | None) -> str:
    """Return a relative error with its sign.

    >>> percent(0.034), percent(-0.2), percent(-0.001), percent(None)
    ('+3 %', '-20 %', '0 %', '–')
    """
    if error is None:
        return NOTHING
    rounded = round(100 * error)
    return f"{rounded:+d} %" if rounded else "0 %"
