"""Define the scalars that agents report beside their update, a declared part of the `Update`.

    federate(..., reports=["return"])       Update.report = {"return": R_k}, four bytes each, unprotected

An agent reports a scalar only if it is requested by name: by an aggregator (`requested`), or for a selection, local
steps or an upload budget (`federate(reports=...)`). Reports bypass the pipeline: no stage clips them or adds noise to
them.

    "norm"              the L2 norm of its update, before any stage
    "return"            the mean return of the episodes that ended in the round; NaN if none did
    "loss"              the mean loss over its local steps
    "duration_s"        the time that its local steps took, in seconds
    "setting/length"    a parameter of its environment, by name

A compiled program cannot measure its own duration. The engine fills it in (`fedrl.engines.simulate`); before, it is
NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from fedrl.core.checks import check_one_of
from fedrl.core.errors import ConfigError, UnsoundError, nearest
from fedrl.core.types import Metrics, PyTree, UpdateContext

DURATION = "duration_s"
REPORTABLE = ("norm", "return", "loss", DURATION)
NEEDS = {"norm": (), DURATION: (), "return": ("episodes", "episode_return"), "loss": ("loss",)}
SETTING = "setting/"
"""The prefix of a requested parameter of the agent's environment."""


def check_requested(names: Sequence[str]) -> None:
    """Refuse a requested report that no agent can compute.

    Raises:
        ConfigError: A name is unknown; the message has the nearest known one.
    """
    for name in names:
        if not name.startswith(SETTING):
            check_one_of(name, REPORTABLE, "reports")


def requested_settings(names: Sequence[str], env_params: PyTree, choices: Sequence[str] = ()) -> dict[str, jax.Array]:
    """Return the requested parameters of an agent's environment: float32 scalars, keyed by their requested names.

    Args:
        names: The names of all requested reports, of any kind.
        env_params: The parameters of the environment.
        choices: Those of its parameters whose values are no numbers.

    Raises:
        ConfigError: The environment has no such parameter.
        UnsoundError: The parameter is not a single number.
    """
    asked = [name.removeprefix(SETTING) for name in names if name.startswith(SETTING)]
    if not asked:
        return {}
    known = dict(env_params) if isinstance(env_params, Mapping) else env_params._asdict()
    for name in asked:
        if name not in known:
            raise ConfigError(
                f"The report {SETTING + name!r} is requested, and the environment has no parameter {name!r}. "
                f"{nearest(name, known)}"
            )
        if name in choices:
            raise UnsoundError(
                f"The report {SETTING + name!r} is requested, and the values of the parameter are no numbers. A report "
                "is a single number. Request another parameter."
            )
        if jnp.shape(known[name]):
            raise UnsoundError(
                f"The report {SETTING + name!r} is requested, and the parameter has shape {jnp.shape(known[name])}. "
                "A report is a single number. Request another parameter."
            )
    return {SETTING + name: jnp.float32(known[name]) for name in asked}


def statement(names: Sequence[str], context: UpdateContext, value: PyTree) -> dict[str, jax.Array]:
    """Compute the report of an agent, one scalar per name.

    Args:
        names: The names of the requested reports.
        context: The facts about the agent and its round, with its metrics and settings.
        value: The value of its update before any stage.

    Raises:
        UnsoundError: The learner does not measure what a report needs.
    """
    report: dict[str, jax.Array] = {}
    for name in names:
        for needed in NEEDS.get(name, ()):
            if needed not in context.metrics:
                raise UnsoundError(
                    f"The report {name!r} is requested, and the learner measures {sorted(context.metrics)} without "
                    f"{needed!r}. Use a learner that measures it, or leave out what requests the report."
                )
        report[name] = _answer(name, context, value)
    return report


def mean_return(context: UpdateContext) -> jax.Array:
    """Return the mean return of the episodes that ended in the round; NaN if none did."""
    return statement(["return"], context, ())["return"]


def nothing_measured() -> Metrics:
    """Return zeros for all metrics that a report needs, for tracing shapes."""
    return {needed: jnp.float32(0.0) for names in NEEDS.values() for needed in names}


def _answer(name: str, context: UpdateContext, value: PyTree) -> jax.Array:
    measured = context.metrics
    if name.startswith(SETTING):
        return context.settings[name]
    if name == DURATION:
        # The engine measures the time outside the program, and fills it in.
        return jnp.float32(jnp.nan)
    if name == "norm":
        return jnp.sqrt(sum((jnp.square(leaf).sum() for leaf in jax.tree.leaves(value)), jnp.float32(0.0)))
    if name == "loss":
        return jnp.float32(measured["loss"] / jnp.maximum(context.steps, 1))
    # Without an episode this is 0 / 0 = NaN on purpose: a return of zero would be a lie about the policy.
    return jnp.float32(measured["episode_return"] / measured["episodes"])
