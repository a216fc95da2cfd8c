"""One stage for the small arrays of an update, another one for the large arrays.

update --+-- arrays of at most so many entries --> small --+--> wire
         +-- the others --------------------------> large --+
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

from fedrl.core.component import component
from fedrl.core.errors import UnsoundError
from fedrl.core.ranges import Count
from fedrl.core.stage import Stage, keep_update
from fedrl.core.subtrees import joined
from fedrl.core.types import Key, PyTree, Update, UpdateContext
from fedrl.stages.leaves import check_not_encoded


class BySize(NamedTuple):
    """The encoded arrays of both stages, each with None in place of the other's arrays; or the states of both."""

    small: PyTree
    large: PyTree


@component("stage", reference="compression layer by layer: Dutta et al. (2020), https://arxiv.org/abs/1911.08250")
def partition_by_size(limit: Count, small: Stage, large: Stage) -> Stage:
    """Send arrays of up to `limit` entries through one stage, and larger ones through another.

    Most entries of a network are in few large layers, while biases and output layers are small and matter as much. So
    one bit per entry for the large layers and a few for the small ones costs little more than one bit for all:

        error_feedback(partition_by_size(300, quantize(3, unbiased=False), sign()))

    The stage is unbiased if both stages are, a contraction by the delta of the stage that takes the array, and has the
    larger of the two error bounds.

    Args:
        limit: Largest number of entries of a small array.
        small: Stage for arrays of up to `limit` entries.
        large: Stage for all others.

    Raises:
        ConfigError: `limit` is below one.
        UnsoundError: A stage does more than encode arrays: it corrects local training, changes weights, adds noise,
            or works on the aggregate.
    """
    for stage in (small, large):
        busy = stage.correction is not None or stage.reweights is not None or stage.noise is not None
        if busy or stage.finish is not keep_update:
            raise UnsoundError(
                f"partition_by_size() sends some arrays through {stage!r}, which does more than encode single arrays. "
                f"Put {stage!r} before, after or around partition_by_size(...), for the whole update."
            )

    def parted(value: PyTree) -> BySize:
        few = jax.tree.map(lambda leaf: leaf.size <= limit, value)
        return BySize(
            jax.tree.map(lambda leaf, is_small: leaf if is_small else None, value, few),
            jax.tree.map(lambda leaf, is_small: None if is_small else leaf, value, few),
        )

    def init(value: PyTree) -> tuple[PyTree, PyTree]:
        parts = parted(value)
        pairs = small.init(parts.small), large.init(parts.large)
        return BySize(*(server_state for server_state, _ in pairs)), BySize(*(agent_state for _, agent_state in pairs))

    def encode(
        key: Key, context: UpdateContext, server_state: PyTree, agent_state: PyTree, update: Update
    ) -> tuple[Update, PyTree]:
        check_not_encoded(update.value, "partition_by_size()")
        values, states = [], []
        # Each stage gets a key of its own: with one key, both would draw the same random numbers.
        for i, (stage, value) in enumerate(zip((small, large), parted(update.value), strict=True)):
            sent, state = stage.encode(
                jax.random.fold_in(key, i), context, server_state[i], agent_state[i], update._replace(value=value)
            )
            values.append(sent.value)
            states.append(state)
        return update._replace(value=BySize(*values)), BySize(*states)

    def decode(server_state: PyTree, update: Update) -> Update:
        read = []
        for i, stage in enumerate((small, large)):
            part = update._replace(value=update.value[i])
            read.append(part.value if stage.decode is None else stage.decode(server_state[i], part).value)
        return update._replace(value=joined(*read))

    bounds = [stage.error_bound for stage in (small, large)]
    known = [bound for bound in bounds if bound is not None]
    return Stage(
        encode,
        init,
        decode=decode,
        may_increase_norm=small.may_increase_norm or large.may_increase_norm,
        unbiased=small.unbiased and large.unbiased,
        contraction=_by_size(limit, small.contraction, large.contraction),
        error_bound=max(known) if len(known) == len(bounds) else None,
    )


def _by_size(
    limit: int, small: Callable[[int], float] | None, large: Callable[[int], float] | None
) -> Callable[[int], float] | None:
    """Return the contraction of the stage that takes an array of so many entries, if both are contractions."""
    if small is None or large is None:
        return None
    return lambda entries: small(entries) if entries <= limit else large(entries)
