"""What the server does with the merged update: it takes the negative mean change for a gradient and descends.

All are optax transformations for `federate(..., server_opt=...)`; any other will do. The names and defaults are those
of the papers. `tau` is the adaptivity: how small a typical change may be before it is magnified.
"""

from __future__ import annotations

import optax

from fedrl.core.checks import check_above_zero, check_positive
from fedrl.core.component import component
from fedrl.core.errors import ConfigError

REDDI = "Reddi et al. (2021), https://arxiv.org/abs/2003.00295"
TINY = 1e-30


@component("server_optimizer", reference="McMahan et al. (2017), https://arxiv.org/abs/1602.05629")
def fedavg(learning_rate: float = 1.0) -> optax.GradientTransformation:
    """FedAvg: move by the mean change; a learning rate below 1 goes part of the way."""
    return optax.sgd(learning_rate)


@component("server_optimizer", reference="Hsu et al. (2019), https://arxiv.org/abs/1909.06335")
def fedavgm(learning_rate: float = 1.0, momentum: float = 0.9) -> optax.GradientTransformation:
    """FedAvgM: a heavy ball, v <- momentum v + delta, theta <- theta + learning_rate v."""
    return optax.sgd(learning_rate, momentum)


@component("server_optimizer", reference="Cutkosky & Mehta (2020), https://arxiv.org/abs/2002.03305")
def normalized_momentum(
    learning_rate: float = 0.1, alpha: float = 0.5, decay_steps: int | None = None
) -> optax.GradientTransformation:
    r"""Steps of a known length: d <- (1 - alpha) d + alpha delta, theta <- theta + learning_rate d / ||d||.

    With the look-ahead of `fedrl.engines.virtual.afedpg(alpha)` it is the server of AFedPG, and of NIGT before it.

    Args:
        learning_rate: Length of a step, over all parameters, at the start.
        alpha: Weight of the newest change in the mean.
        decay_steps: Let the length fall linearly to zero over so many merges, if given: steps that never get
            shorter never settle.

    Raises:
        ConfigError: A number is out of range.
    """
    check_above_zero(learning_rate=learning_rate, alpha=alpha)
    if alpha > 1.0:
        raise ConfigError(f"alpha is {alpha}. It is the weight of the newest change in a mean. Set it to at most 1.")
    if decay_steps is not None:
        check_positive(decay_steps=decay_steps)
    rate = learning_rate if decay_steps is None else optax.linear_schedule(learning_rate, 0.0, decay_steps)
    mean = optax.ema(1.0 - alpha, debias=False)
    return optax.chain(mean, optax.normalize_by_update_norm(eps=TINY), optax.scale_by_learning_rate(rate))


@component("server_optimizer", reference=REDDI)
def fedadam(
    learning_rate: float = 0.01, b1: float = 0.9, b2: float = 0.99, tau: float = 1e-3
) -> optax.GradientTransformation:
    """FedAdam: theta <- theta + learning_rate m / (sqrt(v) + tau), with moving means m of delta and v of its square.

    The paper leaves the bias of the moving means in and starts v at tau^2; optax corrects it and starts at zero, as
    Adam's authors do. The two agree after some 1 / (1 - b2) rounds.
    """
    return optax.adam(learning_rate, b1, b2, tau)


@component("server_optimizer", reference=REDDI)
def fedyogi(
    learning_rate: float = 0.01, b1: float = 0.9, b2: float = 0.99, tau: float = 1e-3
) -> optax.GradientTransformation:
    """FedYogi: as FedAdam, but v moves by a fixed share, v <- v - (1 - b2) delta^2 sign(v - delta^2).

    As in the paper v starts at tau^2. Unlike the paper, optax starts m there too and corrects the bias of both.
    """
    return optax.chain(
        optax.scale_by_yogi(b1, b2, tau, initial_accumulator_value=tau**2), optax.scale_by_learning_rate(learning_rate)
    )


@component("server_optimizer", reference=REDDI)
def fedadagrad(learning_rate: float = 0.01, tau: float = 1e-3) -> optax.GradientTransformation:
    """FedAdagrad: theta <- theta + learning_rate delta / sqrt(v), with v the sum of tau^2 and all squared changes.

    The paper adds tau once more outside the root, which matters only where v is still about tau^2.
    """
    return optax.adagrad(learning_rate, initial_accumulator_value=tau**2, eps=0.0)
