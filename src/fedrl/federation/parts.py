"""Merge parts of the parameters with their own rule, server optimiser and period.

    value --split--> actor  --pipeline, rule, optimiser every 5th version--+
                     critic --pipeline, rule, optimiser every version------+--> joined
                     rest   --those of the federation----------------------+

A part is due in every version whose number, counted from 1, is divisible by its period. In between, an agent trains the
part locally and sends nothing of it, and the server changes neither the part nor the state of its rule and optimiser.
An agent adopts a part from the first broadcast that it receives after the part was due, and later sends the change
since then. It stores what it adopted, as the broadcast of a part may change in between: down stages send later what
compression removed.

A part is a tree with None in place of all other parameters, so that stages still see its arrays one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedrl.core.aggregator import Aggregator, Arrivals, View, by_samples
from fedrl.core.component import Call, component, record
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.learner import Learner
from fedrl.core.ranges import Count
from fedrl.core.stage import Stage, pipeline
from fedrl.core.subtrees import belonging, check_parts
from fedrl.core.summation import Summation, hidden
from fedrl.core.types import Key, Params, PyTree, Update, UpdateContext
from fedrl.wire.codec import travels_if


@record
class Part:
    """A part of the parameters with its own rule, optimiser or period. The attributes are the arguments of `part`."""

    of: str
    aggregator: Aggregator | None
    server_optimizer: optax.GradientTransformation | None
    every: int
    call: Call | None = None


@component("part", reference="FedPer, Arivazhagan et al. (2019), https://arxiv.org/abs/1912.00818")
def part(
    of: str,
    aggregator: Aggregator | None = None,
    server_optimizer: optax.GradientTransformation | None = None,
    every: Count = 1,
) -> Part:
    """Merge a part of the parameters by its own rule, with its own server optimiser, in its own period.

    Args:
        of: The path of the part, such as "actor", "critic" or "actor/-1": see `fedrl.core.subtrees`.
        aggregator: The rule that merges the part; the federation's by default.
        server_optimizer: The optax transformation of its merged change; the federation's by default, with its own
            state.
        every: The period: the part is merged in each version whose number, counted from 1, is divisible by it.

    Raises:
        ConfigError: The period is below one.

    >>> from fedrl.aggregators import median
    >>> part("critic", median()), part("actor", every=5)
    (part('critic', aggregator=median()), part('actor', every=5))
    """
    return Part(of, aggregator, server_optimizer, every)


class Group(NamedTuple):
    """The parameters that are merged together, with their rule, optimiser and period.

    Attributes:
        inside: For each leaf of the parameters, whether it belongs to the group.
        rule: The rule that merges the group.
        optimizer: The server's optimiser of the group.
        every: The period in versions.
    """

    inside: tuple[bool, ...]
    rule: Aggregator
    optimizer: optax.GradientTransformation
    every: int

    def of(self, tree: PyTree) -> PyTree:
        """Return the tree with None for all leaves of other groups."""
        leaves, structure = jax.tree.flatten(tree)
        return jax.tree.unflatten(structure, [x if own else None for x, own in zip(leaves, self.inside, strict=True)])

    def due(self, version: Any) -> Any:
        """Return whether the group is merged in the commit that follows this version."""
        return (version + 1) % self.every == 0


def grouped(
    learner: Learner,
    parts: Sequence[Part],
    aggregator: Aggregator,
    optimizer: optax.GradientTransformation,
    payload: str,
) -> list[Group]:
    """Return the groups of the learner's parameters: one per part, and one for all others; empty without parts.

    Raises:
        UnsoundError: A part has a period above 1, and agents take no local steps in between.
        ConfigError: A part does not exist, or two parts have parameters in common.
    """
    if not parts:
        return []
    lasting = [each for each in parts if each.every > 1]
    if lasting and payload == "gradient":
        raise UnsoundError(
            f"{lasting[0]!r} has a period in which agents train by themselves, and with payload='gradient' they take "
            "no steps. Use payload='delta', or let the part have the period 1.",
            reason="gradients",
        )
    key = jax.random.key(0)
    params = jax.eval_shape(lambda: learner.params(learner.init(key, learner.environment.params)))
    if lasting and learner.statistics is not None:
        _check_counted(params, lasting)
    check_parts(params, [each.of for each in parts], "parts")
    inside = [belonging(params, [each.of]) for each in parts]
    for i, mine in enumerate(inside):
        for j, other in enumerate(inside[:i]):
            if any(a and b for a, b in zip(mine, other, strict=True)):
                raise ConfigError(
                    f"parts has {parts[j].of!r} and {parts[i].of!r}, which have parameters in common. Each would be "
                    "merged twice. Leave one of them out, or name smaller parts."
                )
    found = [
        Group(tuple(mine), each.aggregator or aggregator, each.server_optimizer or optimizer, each.every)
        for mine, each in zip(inside, parts, strict=True)
    ]
    rest = tuple(not any(at) for at in zip(*inside, strict=True))
    return [*found, Group(rest, aggregator, optimizer, 1)] if any(rest) else found


def _check_counted(params: Params, parts: Sequence[Part]) -> None:
    """Refuse a period above 1 for moments that agents count, as the server merges statistics in every version."""
    counted = belonging(params, ["moments"])
    for each in parts:
        if any(own and both for own, both in zip(belonging(params, [each.of]), counted, strict=True)):
            raise UnsoundError(
                f"{each!r} contains moments that agents count, and the server merges those in every version, whatever "
                "the period. Give a period to the parts of 'learner' only.",
                reason="moments",
            )


def joined(groups: Sequence[PyTree]) -> PyTree:
    """Return the whole tree from its groups.

    >>> joined([{"actor": 1.0, "critic": None}, {"actor": None, "critic": 2.0}])
    {'actor': 1.0, 'critic': 2.0}
    """
    nothing: Callable[[Any], bool] = lambda x: x is None  # noqa: E731
    return jax.tree.map(lambda *at: next((x for x in at if x is not None), None), *groups, is_leaf=nothing)


def divided_rule(groups: Sequence[Group]) -> Aggregator:
    """Return an aggregator that merges each group by its own rule."""
    # It needs only the sum if all rules do and weigh updates alike, for then one weighted sum serves all of them.
    rules = [group.rule for group in groups]
    alike = all(rule.weigh is rules[0].weigh for rule in rules)
    summed = alike and all(rule.needs == "sum" for rule in rules)

    def update(key: Key, view: View, arrivals: Arrivals, state: PyTree, updates: Update) -> tuple[Update, PyTree]:
        values, after = [], []
        for i, group in enumerate(groups):
            own = updates._replace(value=group.of(updates.value))
            if not alike:
                own = own._replace(weight=jax.vmap(group.rule.weigh)(own))
            seen = view._replace(params=group.of(view.params))
            merged, memory = group.rule.update(jax.random.fold_in(key, i), seen, arrivals, state[i], own)
            # A rule that is not due keeps its state as well, or a period would count as so many rounds for it.
            due = group.due(view.version)
            values.append(_if_due(group, due, merged.value, jax.tree.map(_nothing, merged.value)))
            after.append(_if_due(group, due, memory, state[i]))
        return Update(joined(values), updates.weight.sum(), updates.version.max()), tuple(after)

    return Aggregator(
        update=update,
        init=lambda params: tuple(group.rule.init(group.of(params)) for group in groups),
        weigh=rules[0].weigh if alike else by_samples,
        needs="sum" if summed else "each",
        requested=tuple(dict.fromkeys(name for rule in rules for name in rule.requested)),
        weight_scale=rules[0].weight_scale if alike else lambda samples: samples,
        divides_by=rules[0].divides_by if alike and len({rule.divides_by for rule in rules}) == 1 else None,
        agents=min((rule.agents for rule in rules if rule.agents is not None), default=None),
    )


def divided_optimizer(groups: Sequence[Group]) -> optax.GradientTransformationExtraArgs:
    """Return an optimiser that steps each group with its own; its `update` takes the server's `version` as well."""

    def init(params: Params) -> PyTree:
        return tuple(group.optimizer.init(group.of(params)) for group in groups)

    def update(
        gradient: Params, state: PyTree, params: Params | None = None, *, version: Any, **_: Any
    ) -> tuple[Params, PyTree]:
        steps, after = [], []
        for group, before in zip(groups, state, strict=True):
            slope, due = group.of(gradient), group.due(version)
            step, memory = group.optimizer.update(slope, before, group.of(params))
            steps.append(_if_due(group, due, step, jax.tree.map(jnp.zeros_like, step)))
            after.append(_if_due(group, due, memory, before))
        return joined(steps), tuple(after)

    return optax.GradientTransformationExtraArgs(init, update)


@partial(jax.tree_util.register_dataclass, data_fields=["due", "value"], meta_fields=[])
@dataclass(frozen=True, eq=False)
class Due:
    """The value of a part that is sent only if it is due.

    Attributes:
        due: Scalar bool; whether it is sent.
        value: The encoded arrays of the part; ignored unless it is due.
    """

    due: PyTree
    value: PyTree


def periodic(groups: Sequence[Group], stages: Sequence[Stage], summation: Summation | None = None) -> Stage:
    """Return the pipeline of a federation with periods, through which each group passes separately.

    The agent state has three entries: the states of the stages for each group, the version that the agent received
    last, and what it adopted of each group with a period above 1.

    Raises:
        UnsoundError: A stage, or a sum that hides its terms, needs every parameter in every round.
    """
    hiding = hidden(summation)
    if hiding is not None:
        raise UnsoundError(
            f"{hiding!r} hides updates in the sum of all parameters in every round, and a part with a period above 1 "
            f"is not sent in every round. Leave {hiding!r} out, or let every part have the period 1.",
            reason="private",
        )
    for stage in stages:
        busy = stage.correction is not None or stage.sums is not None or stage.reweights
        if busy or stage.noise is not None:
            raise UnsoundError(
                f"{stage!r} corrects, weighs or adds noise to what agents send in every round, and a part with a "
                f"period above 1 is not sent in every round. Leave {stage!r} out, or let every part have the period 1.",
                reason="private",
            )
        if stage.skips_uploads:
            raise UnsoundError(
                f"{stage!r} decides when to send, and so does the period of a part. Leave one of them out.",
                reason="private",
            )
    inner = pipeline(stages)
    assert inner.decode is not None
    read = inner.decode

    def init(params: Params) -> tuple[PyTree, PyTree]:
        pairs = [inner.init(group.of(params)) for group in groups]
        adopted = tuple(group.of(params) if group.every > 1 else () for group in groups)
        return tuple(server_state for server_state, _ in pairs), (
            tuple(agent_state for _, agent_state in pairs),
            jnp.int32(-1),
            adopted,
        )

    def encode(
        key: Key, context: UpdateContext, server_state: PyTree, agent_state: PyTree, update: Update
    ) -> tuple[Update, PyTree]:
        values, after = [], []
        for i, group in enumerate(groups):
            own, due = update._replace(value=group.of(update.value)), group.due(context.version)
            sent, memory = inner.encode(jax.random.fold_in(key, i), context, server_state[i], agent_state[0][i], own)
            values.append(sent.value if group.every == 1 else Due(due, sent.value))
            after.append(_if_due(group, due, memory, agent_state[0][i]))
        return update._replace(value=tuple(values)), (tuple(after), context.version, agent_state[2])

    def decode(server_state: PyTree, update: Update) -> Update:
        values = []
        for i, (group, sent) in enumerate(zip(groups, update.value, strict=True)):
            due, value = (True, sent) if group.every == 1 else (sent.due, sent.value)
            found = read(server_state[i], update._replace(value=value)).value
            values.append(_if_due(group, due, found, jax.tree.map(jnp.zeros_like, found)))
        return update._replace(value=joined(values))

    def finish(key: Key, server_state: PyTree, update: Update) -> tuple[Update, PyTree]:
        values, after = [], []
        for i, group in enumerate(groups):
            own, due = update._replace(value=group.of(update.value)), group.due(update.version)
            merged, kept = inner.finish(jax.random.fold_in(key, i), server_state[i], own)
            values.append(merged.value)
            after.append(_if_due(group, due, kept, server_state[i]))
        return update._replace(value=joined(values)), tuple(after)

    return Stage(encode, init, decode=decode, finish=finish)


def adopting(
    groups: Sequence[Group], agent_state: PyTree, version: Any, sent: Params, own: Params
) -> tuple[Params, PyTree]:
    """Return the parameters that an agent trains from, and its new stage states.

    A group is taken from the broadcast if it was merged since the agent last received a version; else the agent
    continues from its own.
    """
    # `last // every` counts the merges of a group up to a version, so unequal counts mean that one lies in between,
    # also for an agent that missed many versions. `last` is -1 before the first one.
    (memory, last, before), found, adopted = agent_state, [], []
    for group, old in zip(groups, before, strict=True):
        fresh = (last < 0) | (last // group.every != version // group.every)
        found.append(_if_due(group, fresh, group.of(sent), group.of(own)))
        adopted.append(_if_due(group, fresh, group.of(sent), old) if group.every > 1 else ())
    return joined(found), (memory, last, tuple(adopted))


def begun_from(groups: Sequence[Group], agent_state: PyTree, sent: Params) -> Params:
    """Return the parameters from which the change of each group is computed: those that the agent adopted last."""
    return joined(
        [group.of(sent) if group.every == 1 else old for group, old in zip(groups, agent_state[2], strict=True)]
    )


def _if_due(group: Group, due: Any, new: PyTree, old: PyTree) -> PyTree:
    """Return `new` if the group is due, else `old`; outside compiled programs without computing both."""
    if group.every == 1:
        return new
    if not isinstance(due, jax.core.Tracer):
        return new if bool(due) else old
    return jax.tree.map(lambda x, y: jnp.where(due, x, y), new, old)


def _nothing(x: Any) -> Any:
    return jnp.zeros_like(x) if isinstance(x, jax.Array) else np.zeros_like(x)


travels_if(Due, "due", "a part")
