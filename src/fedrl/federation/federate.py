"""Build a federation: check that its parts are compatible, and bind them to the two halves.

    arguments --checks--> Spec --bound to agent_half and server_half--> Federation

The checks are in `composition` (parts that exclude each other), `private` (noise and hidden sums), `local_noise` (noise
in local steps) and `claims` (whether stages and rules do what they declare).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import optax

from fedrl.core.aggregator import Aggregator
from fedrl.core.checks import check_one_of
from fedrl.core.component import component
from fedrl.core.learner import Learner
from fedrl.core.ranges import Count, Traced
from fedrl.core.reports import check_requested, requested_settings
from fedrl.core.stage import Stage, pipeline
from fedrl.core.summation import Summation, exact_sum
from fedrl.federation import agent_half, server_half
from fedrl.federation.claims import check_claims, check_words
from fedrl.federation.composition import check_composition
from fedrl.federation.downlink import downlink
from fedrl.federation.federation import Federation
from fedrl.federation.local_noise import check_local_noise
from fedrl.federation.parts import Part, divided_optimizer, divided_rule, grouped, periodic
from fedrl.federation.private import check_private
from fedrl.federation.spec import Spec


@component("federation")
def federate(
    learner: Traced[Learner],
    aggregator: Aggregator,
    *stages: Stage,
    server_optimizer: optax.GradientTransformation | None = None,
    local_steps: Count = 1,
    payload: str = "delta",
    reports: Sequence[str] = (),
    parts: Sequence[Part] = (),
    down_stages: Sequence[Stage] = (),
    summation: Summation | None = None,
) -> Federation:
    """Build a federation from a learner, an aggregator and the stages of the update pipeline.

    With `payload="delta"`, agents train and send the change of their parameters; the server's optimiser takes the
    negative mean change as a gradient, so `optax.sgd(1.0)` is FedAvg and `optax.adam(0.01)` is FedAdam.
    With `payload="gradient"`, agents send the mean gradient of `local_steps` batches at the global parameters, and only
    the server's optimiser takes a step: FedSGD, federated policy gradient.

    With `down_stages`, agents train from a copy c of the server's parameters x, c <- c + D(C(x - c)) after each commit,
    and the server applies their change to x. What C lost is part of the next difference: `fedrl.federation.downlink`.

    Args:
        learner: The learning algorithm of every agent.
        aggregator: The rule that merges updates.
        *stages: The stages that an update passes, in order.
        server_optimizer: An optax transformation of the merged update; `optax.sgd(1.0)` by default.
        local_steps: The largest number of local iterations of an agent in a round.
        payload: "delta" or "gradient".
        reports: The names of scalars that each agent reports beside its update (`fedrl.core.reports`), in addition to
            those that the aggregator requests.
        parts: Parts of the parameters with their own rule, server optimiser or period:
            `parts=[part("critic", median()), part("actor", every=5)]`. All other parameters are merged as above.
        down_stages: The stages that compress the difference between x and c, in order: contractions such as `sign()`,
            `top_k(0.1)` or `quantize(8)`, without error feedback.
        summation: How updates are added for a rule with `needs="sum"`; `exact_sum()` by default.

    Returns:
        The federation, to be run by an engine (`fedrl.simulate`).

    Raises:
        UnsoundError: The parts are not compatible.
        ConfigError: An argument is out of range.

    Reference: McMahan et al. (2017), https://arxiv.org/abs/1602.05629; server optimisers by Reddi et al. (2021),
        https://arxiv.org/abs/2003.00295; down stages by Tang et al. (2019), https://arxiv.org/abs/1905.05957, and
        Gruntkowska et al. (2022), https://arxiv.org/abs/2209.15218.
    """
    # The cheap checks come first, as their messages are the clearest; `check_claims` traces and runs the stages.
    check_one_of(payload, ("delta", "gradient"), "payload")
    optimizer = optax.sgd(1.0) if server_optimizer is None else server_optimizer
    # Each part's rule is checked by itself, as the rule that joins them all has no call for a message to name.
    groups = tuple(grouped(learner, parts, aggregator, optimizer, payload))
    rules = [group.rule for group in groups] or [aggregator]
    for rule in rules:
        check_composition(learner, rule, stages, payload, summation)
    if groups:
        aggregator, optimizer = divided_rule(groups), divided_optimizer(groups)
    asked = tuple(dict.fromkeys((*aggregator.requested, *reports)))
    check_requested(asked)
    check_words(stages, summation, learner)
    for rule in rules:
        check_private(learner, rule, stages, payload, asked, summation)
        check_local_noise(learner, rule, stages, asked)
    requested_settings(asked, learner.environment.params, getattr(learner.environment, "choices", ()))
    check_claims(learner, rules, stages, summation)
    in_periods = any(group.every > 1 for group in groups)
    pipe = periodic(groups, stages, summation) if in_periods else pipeline(stages)
    down = downlink(learner, down_stages) if down_stages else None
    spec = Spec(learner, aggregator, optimizer, stages, pipe, groups, in_periods, payload, local_steps, asked, down)
    return _bound(
        spec,
        parts=tuple(parts),
        server_optimizer=server_optimizer,
        down_stages=tuple(down_stages),
        summation=exact_sum() if summation is None else summation,
    )


def _bound(spec: Spec, **facts: Any) -> Federation:
    """Return the federation of a specification, with the arguments that it does not need to compute."""
    return Federation(
        init_server=partial(server_half.init_server, spec),
        init_agent=partial(agent_half.init_agent, spec),
        broadcast=server_half.broadcast,
        agent=partial(agent_half.train, spec),
        server=partial(server_half.serve, spec),
        begin=partial(agent_half.begin, spec),
        remember=partial(agent_half.remember, spec),
        work=partial(agent_half.work, spec),
        report=partial(agent_half.report, spec),
        descent=partial(agent_half.descent, spec),
        decode=partial(server_half.decode, spec),
        aggregate=partial(server_half.aggregate, spec),
        commit=partial(server_half.commit, spec),
        learner=spec.learner,
        aggregator=spec.aggregator,
        local_steps=spec.local_steps,
        stages=spec.stages,
        payload=spec.payload,
        reports=spec.reports,
        downlink=spec.down,
        with_learner=lambda own: _bound(spec._replace(learner=own), **facts),
        **facts,
    )
