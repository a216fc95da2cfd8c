"""Parts of the parameters that agents receive and never send."""

from __future__ import annotations

from collections.abc import Sequence

from fedrl.core.component import component
from fedrl.core.stage import Stage
from fedrl.core.subtrees import check_parts, joined, without
from fedrl.core.types import Key, Params, PyTree, Update, UpdateContext
from fedrl.wire.shapes import TreeShapes, shapes_of


@component("stage", reference="partial sharing: Pillutla et al. (2022), https://arxiv.org/abs/2204.03809")
def download_only(parts: Sequence[str]) -> Stage:
    """Leave some parts out of every update: the server sends them to agents, but agents don't send them back.

    Agents start each round from the server's value of these parts and train them locally; the server's value never
    changes. Parts that are not sent cost no bytes. Put this stage first in the pipeline, so that later stages spend
    neither bits nor norm on them.

    Args:
        parts: Consecutive names in the paths of parameters, such as "actor/0", as for `fedrl.learners.personal`.

    Raises:
        ConfigError: The parameters have no such part.
    """

    def init(params: Params) -> tuple[PyTree, PyTree]:
        check_parts(params, parts, "parts")
        return shapes_of(params), ()

    def encode(
        key: Key, context: UpdateContext, server_state: PyTree, agent_state: PyTree, update: Update
    ) -> tuple[Update, PyTree]:
        del key, context, server_state
        return update._replace(value=without(update.value, parts)), agent_state

    def finish(key: Key, server_state: TreeShapes, update: Update) -> tuple[Update, PyTree]:
        del key
        # Zeros for the missing parts: the server's optimiser sees a change of the whole tree.
        return update._replace(value=joined(update.value, server_state.zeros())), server_state

    return Stage(encode, init, finish=finish)
