"""Say in words what an audit found: pairs of a name and a sentence, in the order in which they are read."""

from __future__ import annotations

from fedrl.audit.mechanism import NO_POWER, REFUTED, MechanismAudit
from fedrl.audit.one_run import WholeAudit


def lines(found: MechanismAudit | WholeAudit) -> list[tuple[str, str]]:
    """Return the lines of a result: claim, how it was tested, what was measured, verdict, seconds."""
    return _of_mechanism(found) if isinstance(found, MechanismAudit) else _of_whole(found)


def _of_mechanism(found: MechanismAudit) -> list[tuple[str, str]]:
    marked = [(check.name, f"{'REFUTED. ' if check.refuted else ''}{check.finding}") for check in found.checks]
    return [
        ("claim", _claim(found)),
        (
            "canary",
            f"Agent {found.canary}, with {found.runs:,} runs in which its data are there and {found.runs:,} in which "
            f"they are not; seed {found.seed}.",
        ),
        *marked,
        (
            "measured",
            f"epsilon is at least {found.measured:.2f}, with {1.0 - found.alpha:.0%} confidence. So many runs can show "
            f"{found.measurable:.2f} at most.",
        ),
        ("power", _power(found)),
        ("verdict", _verdict(found.verdict, f"A true claim is refuted with a probability of at most {found.alpha:g}.")),
        ("seconds", f"{found.seconds:.1f}, {found.cpu_seconds:.1f} of them of processors"),
    ]


def _of_whole(found: WholeAudit) -> list[tuple[str, str]]:
    right = ", ".join(f"{correct} of {guesses}" for correct, guesses in zip(found.correct, found.guesses, strict=True))
    return [
        ("claim", _claim(found)),
        ("test", "A smoke test: one run with half of the agents, training included. It finds coarse faults only."),
        ("guesses", f"Right about who was left out: {right}, for {found.agents} agents; seed {found.seed}."),
        (
            "measured",
            f"epsilon is at least {found.measured:.2f}, with 95 % confidence. So many agents can show "
            f"{found.measurable:.2f} at most.",
        ),
        ("verdict", _verdict(found.verdict, "A true claim is refuted with a probability of at most 0.05.")),
        ("seconds", f"{found.seconds:.1f}"),
    ]


def _claim(found: MechanismAudit | WholeAudit) -> str:
    rounds = "1 round" if found.rounds == 1 else f"{found.rounds} rounds"
    covers = f", for {found.protects}" if isinstance(found, MechanismAudit) else ""
    return f"epsilon = {found.claimed:.2f} at delta = {found.delta:g} after {rounds}{covers}."


def _power(found: MechanismAudit) -> str:
    if found.detected is None:
        return "None: so few runs would not even refute a mechanism without noise. Raise --runs."
    if found.detected == 0.0:
        return "Low: only a mechanism without noise would be refuted, and not one with a quarter of it. Raise --runs."
    return f"A mechanism with {found.detected:.0%} of the claimed noise would be refuted more often than not."


def _verdict(verdict: str, rate: str) -> str:
    if verdict == REFUTED:
        return f"REFUTED. {rate}"
    if verdict == NO_POWER:
        return "NO POWER: nothing could have been refuted, so nothing follows."
    return f"Not refuted, which is no proof: another test may find what this one does not. {rate}"
