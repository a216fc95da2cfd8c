"""What agents say about themselves, beside what they learned: single numbers, a declared part of the `Update`.

    federate(..., reports=["return"])       Update.report = {"return": R_k}, four bytes each, in the open

Nothing is told unless somebody asks by name: an aggregator (`requested`), or whoever selects agents
(`federate(reports=...)`). What is told passes beside the pipeline: stages don't clip it, add noise to it or mask it.

    "norm"      the L2 norm of its update, before any stage
    "return"    the mean return of the episodes that ended in the round; NaN if none did
    "loss"      the mean loss over its local steps
    "duration_s"        how long its local steps took, in seconds
    "setting/length"    a parameter of its environment, by name

A program does not know how long it takes. Who runs the agent fills that in (`fedrl.engines.simulate`); else it is NaN.
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
"""What the name of a parameter of an agent's environment follows, where it is asked for."""


def check_requested(names: Sequence[str]) -> None:
    """Refuse to ask for what agents can't tell.

    Raises:
        ConfigError: It names the word and the nearest one that is known.
    """
    for name in names:
        if not name.startswith(SETTING):
            check_one_of(name, REPORTABLE, "reports")


def requested_settings(names: Sequence[str], env_params: PyTree) -> dict[str, jax.Array]:
    """What an agent would tell of its environment: float32 scalars, by the names it is asked for. The rest stays.

    Args:
        names: What it was asked, of any kind.
        env_params: The parameters of its environment.

    Raises:
        ConfigError: The environment has no such parameter.
        UnsoundError: It has, but it is not a single number.
    """
    asked = [name.removeprefix(SETTING) for name in names if name.startswith(SETTING)]
    if not asked:
        return {}
    known = dict(env_params) if isinstance(env_params, Mapping) else env_params._asdict()
    for name in asked:
        if name not in known:
            raise ConfigError(
                f"Agents are asked for {SETTING + name!r}, and their environments have no parameter {name!r}. "
                f"{nearest(name, known)}"
            )
        if jnp.shape(known[name]):
            raise UnsoundError(
                f"Agents are asked for {SETTING + name!r}, which has shape {jnp.shape(known[name])}. What is told is a "
                "single number. Ask for another parameter."
            )
    return {SETTING + name: jnp.float32(known[name]) for name in asked}


def statement(names: Sequence[str], context: UpdateContext, value: PyTree) -> dict[str, jax.Array]:
    """What an agent tells, each a scalar.

    Args:
        names: What it was asked.
        context: Who it is, and what it measured.
        value: Its update before any stage.

    Raises:
        UnsoundError: The learner does not measure it.
    """
    report: dict[str, jax.Array] = {}
    for name in names:
        for needed in NEEDS.get(name, ()):
            if needed not in context.metrics:
                raise UnsoundError(
                    f"An agent is asked for {name!r} and its learner measures {sorted(context.metrics)}, without "
                    f"{needed!r}. Use a learner that measures it, or leave out what asks for it."
                )
        report[name] = _answer(name, context, value)
    return report


def mean_return(context: UpdateContext) -> jax.Array:
    """The mean return of the episodes that ended in the round; NaN if none did."""
    return statement(["return"], context, ())["return"]


def nothing_measured() -> Metrics:
    """Zeros for all that can be told: the shape of what is measured."""
    return {needed: jnp.float32(0.0) for names in NEEDS.values() for needed in names}


def _answer(name: str, context: UpdateContext, value: PyTree) -> jax.Array:
    measured = context.metrics
    if name.startswith(SETTING):
        return context.settings[name]
    if name == DURATION:
        return jnp.float32(jnp.nan)
    if name == "norm":
        return jnp.sqrt(sum((jnp.square(leaf).sum() for leaf in jax.tree.leaves(value)), jnp.float32(0.0)))
    if name == "loss":
        return jnp.float32(measured["loss"] / jnp.maximum(context.steps, 1))
    return jnp.float32(measured["episode_return"] / measured["episodes"])  # of no episode: 0 / 0, which is NaN
