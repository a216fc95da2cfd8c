"""CHOCO's step size gamma towards the copies of neighbours, from the stages and the spectrum of the weights.

stages, arrays --handed_over--> delta --+
W --slowest_and_fastest--> lambda ------+--> gamma, or the bound above which it is refused
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.component import written
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.stage import Stage, keep_update, pipeline, promising_nothing
from fedrl.core.types import PyTree, Update, UpdateContext
from fedrl.engines.program_cache import Shapes, cached_program, shapes
from fedrl.federation.federation import Federation
from fedrl.topologies.gossip import Rule
from fedrl.topologies.graph import Graph
from fedrl.topologies.mixing import MixingMatrix
from fedrl.topologies.spectrum import slowest_and_fastest

DRAWS = 32


def step_size(
    federation: Federation, graph: Graph, mixing: MixingMatrix, rule: Rule, gamma: float | None, agents: int
) -> float:
    """Return the step size towards the copies of neighbours, and check that the parts allow compressed differences.

    With delta the share of a difference that the stages preserve (`handed_over`), and lambda_2 and lambda_N the least
    and the largest eigenvalue of I - W besides the zero of agreement,

        gamma = delta / ((2 - delta) lambda_N), at most 1        by default
        gamma <= 2 delta / (lambda_2 + lambda_N), at most 1      or it is refused

    Without loss, delta = 1, the bound is the constant step of fastest agreement (Xiao & Boyd, 2004).

    What is proven is more restrictive. With s = sqrt(1 - delta) and any contraction, copies and agents converge if
    gamma < lambda_2 (1 - s) / (s lambda_N (lambda_2 + lambda_N)) and gamma lambda_N <= 1; Theorem 2 of the paper has
    an even smaller step. Both formulas above are fitted to measurements of consensus: 16 agents, arrays of 100 and
    1,000 normal numbers (100 for `top_k(0.05)`), 600 steps; `benchmarks/choco_steps.py`. The table has the largest
    step with which the agents agreed, relative to the bound and to the default, the lesser over both sizes:

                        ring          torus         complete      star
        top_k(0.05)     1.1    4.0    1.0    2.9    0.8    1.5    0.5    1.7
        top_k(0.1)      1.1    3.5    0.9    2.6    0.8    1.4    0.4    1.5
        random_k(0.1)   0.9    3.4    1.2    3.5    1.0    2.0    1.0    3.5
        sign()          0.8    2.1    1.0    2.3    1.0    1.4    1.6    3.3

    So agents agree with the default everywhere; between default and bound it depends on the graph.

    Raises:
        ConfigError: `gamma` is not above zero.
        UnsoundError: The graph changes or is directed, the stages are no contraction for arrays of these sizes, or
            `gamma` is above the bound.
    """
    first = _lasting_and_mutual(federation, graph, mixing, rule, agents)
    like = message_shapes(federation, rule)
    weak = promising_nothing(federation.stages, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like.tree))
    if weak is not None:
        stage, size = weak
        raise UnsoundError(
            f"{stage!r} may lose all of a difference or more for an array of {size} entries. Then no step size towards "
            "the copies of neighbours converges. Give it more bits, or use a contraction such as top_k(0.1), sign(), "
            "or quantize(unbiased=False).",
            reason="graph",
        )
    # A single agent has no neighbours, hence no spectrum.
    if agents == 1:
        return 1.0 if gamma is None else gamma
    delta, (slowest, fastest) = handed_over(federation, like), slowest_and_fastest(first)
    most = min(1.0, 2.0 * delta / (slowest + fastest))
    if gamma is None:
        return min(most, delta / ((2.0 - delta) * fastest))
    if not gamma > 0.0:
        raise ConfigError(f"gamma is {gamma}. A step size is positive. Set it above 0, or leave it out.")
    if gamma > most * (1.0 + 1e-9):  # computed eigenvalues are rounded
        raise UnsoundError(
            f"gamma is {gamma}, and the bound is {most:.3g} where {', '.join(map(written, federation.stages))} "
            f"preserves {delta:.3g} of a difference and {graph!r} has {agents} agents. Above the bound, agents "
            "overshoot copies that lag behind, and diverge. Choose a smaller one, or leave it out.",
            reason="graph",
        )
    return gamma


def is_busy(stage: Stage) -> bool:
    """Return whether a stage needs a server, or a sum over all agents."""
    doing = stage.reweights is not None or stage.skips_uploads or stage.correction is not None
    return doing or stage.noise is not None or stage.sums is not None or stage.finish is not keep_update


def message_shapes(federation: Federation, rule: Rule) -> Shapes:
    """Return the shapes of an agent's uncompressed message, in the dtypes of the parameters: float32."""
    setting = shapes(federation.learner.environment.params)
    return _message_shapes(federation, rule, setting)


@cached_program
def _message_shapes(federation: Federation, rule: Rule, setting: Shapes) -> Shapes:
    learner = federation.learner
    params = jax.eval_shape(
        lambda key, given: learner.params(learner.init(key, given)), jax.random.key(0), setting.tree
    )
    start = jax.tree.map(lambda x: np.zeros((1, *x.shape), x.dtype), params)
    return shapes(as_sent(rule.send(np.ones(1, int), start, rule.init(start), start)), skip=1)


def as_sent(message: PyTree) -> PyTree:
    """Return a message with float64 numbers cast to float32, the dtype of copies."""
    return jax.tree.map(lambda x: np.asarray(x, np.float32) if x.dtype == np.float64 else np.asarray(x), message)


@cached_program
def handed_over(federation: Federation, like: Shapes) -> float:
    """Measure delta: the share of the squared norm of a difference that the stages preserve.

    It is the lesser for normal and for uniform numbers, which are hard for quantisers and for sparsifiers, in the array
    that loses most; to three digits. The guarantee of a stage, for every difference, is far smaller because single
    entries may dominate: 1 / d for `sign()`, which preserves 2 / pi of normal numbers.
    """
    pipe = pipeline(federation.stages)
    decode = pipe.decode
    assert decode is not None
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like.tree)
    server_state, stage_states = pipe.init(nothing)
    number = jnp.int32(0)

    def losses(draw: Callable[..., jax.Array], key: jax.Array) -> tuple[PyTree, PyTree]:
        keys = jax.random.split(key, len(like.leaves) + 1)
        leaves = [draw(k, x.shape, x.dtype) for k, x in zip(keys[1:], like.leaves, strict=True)]
        update = Update(jax.tree.unflatten(like.structure, leaves), jnp.float32(1.0), number)
        sent, _ = pipe.encode(
            keys[0], UpdateContext(number, number, number, number), server_state, stage_states, update
        )
        read = jax.tree.leaves(decode(server_state, sent).value)
        return [jnp.square(x - y).sum() for x, y in zip(leaves, read, strict=True)], [
            jnp.square(x).sum() for x in leaves
        ]

    @jax.jit
    def measured(keys: jax.Array) -> jax.Array:
        kinds: Sequence[Callable[..., jax.Array]] = (jax.random.normal, _uniform)
        shares = []
        for draw in kinds:
            lost, whole = jax.lax.map(lambda key, draw=draw: losses(draw, key), keys)
            shares += [1.0 - a.sum() / jnp.maximum(b.sum(), 1e-30) for a, b in zip(lost, whole, strict=True) if b.size]
        return jnp.stack(shares).min()

    # At least 1e-6, so that the step size stays above zero.
    least = float(measured(jax.random.split(jax.random.key(0), DRAWS)))
    return min(1.0, float(f"{max(least, 1e-6):.3g}"))


def _uniform(key: jax.Array, shape: tuple[int, ...], dtype: np.dtype) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -1.0)


def _lasting_and_mutual(
    federation: Federation, graph: Graph, mixing: MixingMatrix, rule: Rule, agents: int
) -> np.ndarray:
    """Return the weights of the graph; refuse one that changes or is directed, and weights that are not symmetric."""
    part = ", ".join(map(written, federation.stages))
    heard = graph.adjacency(agents, 0)
    if graph.period != 1 or not (heard == heard.T).all():
        raise UnsoundError(
            f"{part} would need CHOCO on a directed or changing graph, {graph!r}. In CHOCO both ends of an edge store "
            "copies of each other and step towards each other equally. Use a constant, undirected graph, such as "
            f"ring() or torus(), or leave {part} out.",
            reason="graph",
        )
    weights = mixing.weights(heard)
    if rule.sums == "columns" or not np.allclose(weights, weights.T, rtol=0.0, atol=1e-12):
        raise UnsoundError(
            f"{part} would need CHOCO with the weights of {mixing!r} and {rule!r}, which are not symmetric. The mean "
            "over all agents would not be preserved. Use metropolis() with average() or gradient_tracking(...), or "
            f"leave {part} out.",
            reason="graph",
        )
    return weights
