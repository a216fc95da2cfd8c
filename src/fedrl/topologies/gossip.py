"""Gossip rules: what neighbours send each other, and how an agent combines it.

    start --local training--> trained --send--> message --W x--> total --receive--> parameters of the next round

    total_i = sum_j W_ij message_j, in float64, in the order of senders: `fedrl.topologies.consensus`

All arrays are NumPy's and have a leading agent axis, of length one for an agent by itself. The total is all that an
agent learns about the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import numpy as np

from fedrl.core.component import Call, component, record
from fedrl.core.ranges import Count, Positive
from fedrl.core.types import Params, PyTree


@record
class Rule:
    """A gossip rule: the messages of agents and how they are combined.

    Attributes:
        send: `(steps, start, memory, trained) -> message`, a tree; `steps` `[agents]` are the local iterations.
        receive: `(message, memory, total) -> (params, memory)`, from an agent's own message and the weighted sum of all
            messages it received, its own included, in float64.
        init: `params -> memory`.
        correction: `memory -> correction` of the next local gradients, `LocalContext.correction`. Optional.
        sums: Which sums of the weights have to be one: "rows", "columns" or "both".
    """

    send: Callable[[np.ndarray, Params, PyTree, Params], PyTree]
    receive: Callable[[PyTree, PyTree, PyTree], tuple[Params, PyTree]]
    init: Callable[[Params], PyTree] = lambda params: ()
    correction: Callable[[PyTree], Params] | None = None
    sums: Literal["rows", "columns", "both"] = "rows"
    call: Call | None = None


@component(
    "gossip",
    reference="Nedic & Ozdaglar (2009), https://doi.org/10.1109/TAC.2008.2009515; "
    "Lian et al. (2017), https://arxiv.org/abs/1705.09056",
)
def average() -> Rule:
    """Average the trained parameters with the neighbours': theta_i <- sum_j W_ij theta_j (decentralised SGD).

    With heterogeneous agents and a constant step size, agents converge near the optimum of the mean objective, not to
    it, and to different points: each is biased towards its own optimum. `gradient_tracking` removes that bias.
    """

    def send(steps: np.ndarray, start: Params, memory: PyTree, trained: Params) -> PyTree:
        del steps, start, memory
        return trained

    def receive(message: PyTree, memory: PyTree, total: PyTree) -> tuple[Params, PyTree]:
        del message
        return total, memory

    return Rule(send, receive)


@component(
    "gossip",
    reference="Kempe, Dobra & Gehrke (2003), https://doi.org/10.1109/SFCS.2003.1238221; "
    "Nedic & Olshevsky (2015), https://doi.org/10.1109/TAC.2014.2364096; "
    "Assran et al. (2019), https://arxiv.org/abs/1811.10792",
)
def push_sum() -> Rule:
    """Push-sum: averaging over directed graphs, where an agent splits its values x and a weight w among its receivers.

    With delta_i the change by local training, and the columns of W summing to one:

        x_i <- sum_j W_ij (x_j + delta_j),      w_i <- sum_j W_ij w_j,      theta_i = x_i / w_i

    The sums of x and of w over the agents are preserved, so every theta_i tends to the mean, whatever the rows of W sum
    to. Both are sent in float64.
    """

    def send(steps: np.ndarray, start: Params, memory: PyTree, trained: Params) -> PyTree:
        del steps

        # x = w theta, so x + delta = now + (w - 1) before: x need not be stored beside the parameters.
        def weighted(before: np.ndarray, now: np.ndarray) -> np.ndarray:
            held = memory.reshape(-1, *(1,) * (now.ndim - 1))
            return np.asarray(now + (held - 1.0) * before)

        return jax.tree.map(weighted, start, trained), memory

    def receive(message: PyTree, memory: PyTree, total: PyTree) -> tuple[Params, PyTree]:
        del message, memory
        sums, weight = total
        return jax.tree.map(lambda x: x / weight.reshape(-1, *(1,) * (x.ndim - 1)), sums), weight

    return Rule(send, receive, lambda params: np.ones(len(jax.tree.leaves(params)[0])), sums="columns")


@component(
    "gossip",
    reference="Di Lorenzo & Scutari (2016), https://arxiv.org/abs/1602.00591; "
    "Nedic, Olshevsky & Shi (2017), https://arxiv.org/abs/1607.03218; "
    "local steps: Liu et al. (2024), https://arxiv.org/abs/2301.01313",
)
def gradient_tracking(learning_rate: Positive, gradient_steps: Count = 1) -> Rule:
    """Gradient tracking: correct every agent's local gradients by their tracked difference from the mean gradient.

    With z_i = -delta_i / (H_i eta) the mean direction of an agent's H_i gradient steps, each of which is g_i + c_i:

        c_i <- c_i - z_i + sum_j W_ij z_j,      theta_i <- sum_j W_ij theta_j

    For one step per round, z_i is the tracker y_i of the papers, y_i <- sum_j W_ij y_j + g_i - g_i', with g_i' the
    previous gradient. All agents converge to the optimum of the mean objective, with a constant step size. The
    corrections sum to zero over the agents.

    The agents' optimiser is `chain(add_correction(), sgd(eta))`; the formula assumes plain gradient descent. A message
    also contains the direction z_i, in float64, so it is three times as large as one of `average()`.

    Args:
        learning_rate: eta, the step size of the agents' SGD.
        gradient_steps: Optimiser steps in one local iteration: 1, or `num_epochs * num_minibatches` for PPO.

    Raises:
        ConfigError: An argument is not above zero.
    """

    def send(steps: np.ndarray, start: Params, memory: PyTree, trained: Params) -> PyTree:
        del memory

        def direction(before: np.ndarray, now: np.ndarray) -> np.ndarray:
            return (before - now) / (learning_rate * gradient_steps * steps.reshape(-1, *(1,) * (now.ndim - 1)))

        return jax.tree.map(direction, start, trained), trained

    def receive(message: PyTree, memory: PyTree, total: PyTree) -> tuple[Params, PyTree]:
        own, (heard, params) = message[0], total
        # Rounded to float32 once, after the sum in float64.
        tracked = jax.tree.map(lambda c, z, mixed: (c - z + mixed).astype(np.float32), memory, own, heard)
        return params, tracked

    return Rule(
        send,
        receive,
        lambda params: jax.tree.map(np.zeros_like, params),
        correction=lambda memory: memory,
        sums="both",
    )
