"""One way: parts of the parameters that agents receive and never send."""

from __future__ import annotations

from collections.abc import Sequence

from fedrl.core.component import component
from fedrl.core.stage import Stage
from fedrl.core.subtrees import check_parts, joined, without
from fedrl.core.types import Key, Params, PyTree, Update, UpdateContext
from fedrl.wire.shapes import TreeShapes, shapes_of


@component("stage", reference="partial sharing: Pillutla et al. (2022), https://arxiv.org/abs/2204.03809")
def download_only(parts: Sequence[str]) -> Stage:
    """Send nothing of some parts: they flow from the server to the agents only.

    Agents start each round from the server's value and may move away from it while they train; the server's own stays
    as it is. What is not sent costs no bytes. It comes first in the pipeline, so that nothing is spent on what stays.

    Args:
        parts: Runs of names in the paths of parameters, such as "actor/0", as for `fedrl.learners.wrappers.personal`.

    Raises:
        ConfigError: There is no such part.
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
        return update._replace(value=joined(update.value, server_state.zeros())), server_state

    return Stage(encode, init, finish=finish)
