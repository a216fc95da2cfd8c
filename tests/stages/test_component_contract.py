"""What every stage, aggregator, optimiser and schedule of the catalogue owes the rest, one test class per kind.

A new component fails here until it has an example below.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedrl.aggregators
import fedrl.clocks
import fedrl.learners
import fedrl.privacy
import fedrl.server
import fedrl.stages
from fedrl.aggregators import afl, mean, median, q_ffl, weight_by_diversity, weight_by_environment
from fedrl.clocks import clock, lognormal, stragglers, uniform_between
from fedrl.core.component import CATALOGUE, call_of, cite
from fedrl.core.double import Double
from fedrl.core.reports import SETTING
from fedrl.core.types import LocalContext, Update, UpdateContext
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from fedrl.learners import adam, add_correction, chain, fedprox, rmsprop, sgd
from fedrl.learners.parts.optimizers import descend
from fedrl.privacy import (
    adaptive_gaussian,
    central_gaussian,
    central_laplace,
    distributed_skellam,
    local_gaussian,
    local_laplace,
    progress_gaussian,
)
from fedrl.server import (
    adacomm,
    by_capacity,
    fedadagrad,
    fedadam,
    fedavg,
    fedavgm,
    fedyogi,
    greedy,
    hinge,
    linear,
    normalized_momentum,
    oort,
    poisson,
    polynomial,
    power_of_choice,
    proportional_to_measured_speed,
    proportional_to_speed,
    round_robin,
    spaced,
    uniform,
    water_filling,
)
from fedrl.server.local_steps import constant
from fedrl.server.schedules import afedpg, bounded_staleness, fed_async, fed_buff, synchronous
from fedrl.server.staleness import ignore_staleness
from fedrl.stages import (
    clip,
    download_only,
    error_feedback,
    flatten,
    hard_threshold,
    lag,
    partition_by_size,
    quantize,
    random_k,
    scaffold,
    sign,
    top_k,
    uniform_quantize,
    weight_by_capacity,
    weight_by_improvement,
    weight_by_signal,
)
from tests.support.argument_order import misplaced
from tests.support.quadratic import Valley, flat, quadratic
from tests.support.rules import traced

ELSEWHERE = {
    "importance_averaging",  # reads the visits of a Q-table: test_importance_averaging.py
    "factorised_gaussian",  # optimises a matrix for seconds: tests/privacy/test_factorised.py
}
EXAMPLES = {
    "stage": [
        clip(1.0),
        quantize(),
        quantize(1),
        quantize(3, unbiased=False),
        partition_by_size(6, quantize(4), sign()),
        top_k(0.25),
        sign(),
        uniform_quantize(),
        random_k(0.25),
        random_k(0.25, unbiased=False),
        hard_threshold(0.5),
        flatten(),
        error_feedback(top_k(0.25), quantize(4)),
        error_feedback(flatten(), top_k(0.1), sign()),
        error_feedback(partition_by_size(6, quantize(3, unbiased=False), sign())),
        error_feedback(hard_threshold(0.5), uniform_quantize(12)),
        scaffold(0.1, gradient_steps=2),
        lag(factor=2.0),
        lag(error_feedback(sign()), memory=5),
        download_only(["log_std", "layers/-1"]),
        weight_by_improvement(),
        weight_by_signal(),
        weight_by_capacity([2.0, 1.0, 0.5, 4.0]),
        central_gaussian(1.0, 0.5, expected=4),
        central_gaussian((1.0, 0.5, 0.25, 1.0), 0.5, expected=4, clipping="per_layer"),
        central_laplace(1.0, 0.5, expected=4),
        local_gaussian(1.0, 0.5),
        local_laplace(1.0, 0.5, clipping="per_layer"),
        distributed_skellam(1.0, 0.5, least=4),
        adaptive_gaussian(1.0, 0.5, expected=4),
        progress_gaussian(1.0, 0.5, expected=4, least=0.1),
    ],
    "aggregator": [
        mean(),
        mean("uniform"),
        median(),
        weight_by_diversity(),
        weight_by_environment(["length", "gravity"]),
        q_ffl(0.0),
        q_ffl(2.0, reference_return=10.0),
        afl(4, reference_return=10.0),
    ],
    "optimizer": [
        adam(0.01),
        adam(0.01, max_norm=0.5, decay_steps=10),
        sgd(0.1, momentum=0.9),
        rmsprop(0.01),
        fedprox(0.1),
        add_correction(),
        chain(fedprox(0.1), add_correction(), adam(0.01)),
    ],
    "server_optimizer": [fedavg(), fedavgm(), fedadam(), fedyogi(0.1), fedadagrad(), normalized_momentum()],
    "selection": [
        uniform(2),
        round_robin(2),
        oort(2),
        power_of_choice(2, 3),
        by_capacity(2, (1.0, 2.0)),
        spaced(2),
        poisson(0.5),
    ],
    "upload_budget": [greedy(1000), greedy(1000, "improvement", patience=3)],
    "local_steps": [
        constant(2),
        linear(1, 4, 10),
        adacomm(8, reference_return=500.0),
        proportional_to_speed((1.0, 2.0), 4),
        proportional_to_measured_speed(4),
        water_filling(4, (3, 3), (1.0, 2.0)),
    ],
    "staleness": [ignore_staleness(), polynomial(0.5), hinge(10.0, 4.0)],
    "schedule": [
        synchronous(),
        synchronous(3, deadline_s=4.0, quorum=2, stragglers="keep", staleness=hinge()),
        fed_async(0.5, concurrency=2),
        fed_buff(2, staleness=ignore_staleness()),
        bounded_staleness(1),
        afedpg(0.8),
    ],
    "distribution": [uniform_between(0.5, 2.0), lognormal(1.0), stragglers(1.0, fraction=0.25)],
    "clock": [
        clock(),
        clock(step_s=lognormal(2.0), jitter=0.1, drop_out=0.2, online_s=9.0, offline_s=3.0),
        clock(step_s=[1.0, 2.0, 3.0, 4.0], availability_trace=[[0, 0.0, 2.5], [0, 3.0, 99.0]]),
    ],
}
SELF_EVIDENT = {"distribution", "clock"}  # numbers of devices and their distributions, no method of a paper
NAMES = {
    name: getattr(room, name)
    for room in (fedrl.stages, fedrl.privacy, fedrl.aggregators, fedrl.learners, fedrl.server, fedrl.clocks)
    for name in room.__all__
} | {rule.__name__: rule for rule in (afedpg, bounded_staleness, fed_async, fed_buff, synchronous)}

PARAMS = {
    "layers": ({"weight": jnp.zeros((4, 3)), "bias": jnp.zeros(4)}, {"weight": jnp.zeros((1, 4))}),
    "log_std": jnp.zeros(()),
}
CENTRE = np.float32([3.0, -2.0, 1.0])
VALLEYS = Valley(np.ones((4, 3), np.float32), CENTRE + np.float32([[0.1], [-0.1], [0.2], [-0.2]]))
HILLS = federate(quadratic(sgd(0.1)), mean(), local_steps=2)
KEY = jax.random.key(0)
MEASURED = {"loss": jnp.float32(2.0), "episodes": jnp.float32(4.0), "episode_return": jnp.float32(12.0)}
CONTEXT = UpdateContext(jnp.int32(2), jnp.int32(5), jnp.int32(4), jnp.int32(3), MEASURED)
AGENTS = 4


def filled(scale: float, key=KEY):
    return jax.tree.map(lambda x: scale * jax.random.normal(key, x.shape), PARAMS)


def kind_of(shape):
    return jax.tree.map(lambda x: (jnp.shape(x), jnp.asarray(x).dtype, jnp.asarray(x).weak_type), shape)


def same(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def named(value) -> str:
    return repr(call_of(value))


@pytest.mark.parametrize("kind", EXAMPLES)
def test_every_component_has_an_example(kind):
    known = {
        entry.name for entry in CATALOGUE.values() if entry.kind == kind and entry.build.__module__.startswith("fedrl.")
    }
    assert {call_of(value).component.name for value in EXAMPLES[kind]} == known - ELSEWHERE


@pytest.mark.parametrize("value", [v for values in EXAMPLES.values() for v in values], ids=named)
class TestComponent:
    def test_prints_as_its_constructor_call(self, value):
        again = eval(named(value), dict(NAMES))
        assert call_of(again) == call_of(value)
        assert named(again) == named(value)

    def test_differs_from_every_other(self, value):
        calls = [call_of(other) for others in EXAMPLES.values() for other in others]
        assert calls.count(call_of(value)) == 1
        assert len({call.digest for call in calls}) == len(calls)

    def test_its_functions_take_their_arguments_in_the_one_order(self, value):
        assert misplaced(value) == []

    def test_cites_its_source(self, value):
        sources = cite(value)
        assert sources or call_of(value).component.kind in SELF_EVIDENT
        assert all("http" in source and "(" in source for source in sources)

    def test_says_in_one_sentence_what_it_is(self, value):
        summary = call_of(value).component.summary
        assert 20 < len(summary) <= 120
        assert summary.endswith(".")


@pytest.fixture(scope="module", params=EXAMPLES["stage"], ids=repr)
def stage(request):
    return request.param


@pytest.fixture(scope="module")
def way(stage):
    """The whole way of one update: out of the agent, decoded, merged with itself, finished."""

    def go(key, server_state, agent_state, value):
        if stage.correction is not None:
            assert jax.tree.structure(stage.correction(server_state, agent_state)) == jax.tree.structure(value)
        sent, after = stage.encode(
            key, CONTEXT, server_state, agent_state, Update(value, jnp.float32(8.0), jnp.int32(5))
        )
        read = sent if stage.decode is None else stage.decode(server_state, sent)
        counted = jax.tree.map(lambda x: Double(x, jnp.zeros_like(x)), read.statistics)
        merged, state = stage.finish(key, server_state, read._replace(statistics=counted))
        return sent, merged, state, after

    return jax.jit(go)


class TestStage:
    def test_gives_back_the_structure_shapes_and_types_of_the_parameters(self, stage, way):
        server_state, agent_state = stage.init(PARAMS)
        sent, merged, state, after = way(KEY, server_state, agent_state, filled(1.0))
        assert kind_of(merged.value) == kind_of(PARAMS)
        assert kind_of(state) == kind_of(server_state)
        assert kind_of(after) == kind_of(agent_state)
        assert sent.weight > 0.0 if stage.reweights else sent.weight == 8.0
        assert sent.weight.dtype == jnp.float32
        assert sent.version == 5
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(sent))

    def test_a_second_round_compiles_nothing(self, stage, way):
        server_state, agent_state = stage.init(PARAMS)
        _, _, server_state, agent_state = way(KEY, server_state, agent_state, filled(1.0))
        before = way._cache_size()
        way(KEY, server_state, agent_state, filled(2.0))
        assert way._cache_size() == before

    def test_is_determined_by_its_key(self, stage, way):
        server_state, agent_state = stage.init(PARAMS)
        same(way(KEY, server_state, agent_state, filled(1.0)), way(KEY, server_state, agent_state, filled(1.0)))

    def test_serves_many_agents_at_once_as_it_serves_one(self, stage, way):
        server_state, agent_state = stage.init(PARAMS)
        keys = jax.random.split(KEY, AGENTS)
        values = jax.vmap(lambda k: filled(1.0, k))(keys)
        locals_ = jax.tree.map(lambda x: jnp.stack([x] * AGENTS), agent_state)
        many = jax.jit(jax.vmap(way, (0, None, 0, 0)))(keys, server_state, locals_, values)
        one = way(keys[2], server_state, agent_state, jax.tree.map(lambda x: x[2], values))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[2], b, rtol=1e-5, atol=1e-6), many, one)

    @pytest.mark.parametrize("scale", [0.0, 1e-42, 1e-20, 1e15])
    def test_survives_nothing_and_extremes(self, stage, way, scale):
        server_state, agent_state = stage.init(PARAMS)
        for out in way(KEY, server_state, agent_state, filled(scale)):
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(out))

    def test_of_nothing_makes_nothing(self, stage, way):
        server_state, agent_state = stage.init(PARAMS)
        _, merged, _, _ = way(KEY, server_state, agent_state, PARAMS)
        if stage == quantize(1):  # has no code for zero, but a scale of zero
            merged = merged._replace(value=jax.tree.map(jnp.abs, merged.value))
        if stage.noise is not None:  # noise alone, in every entry
            assert all((leaf != 0).all() for leaf in jax.tree.leaves(merged.value))
            return
        same(merged.value, PARAMS)


@pytest.mark.parametrize("rule", EXAMPLES["aggregator"], ids=repr)
class TestAggregator:
    def updates(self, scale: float = 1.0, agents: int = AGENTS) -> Update:
        values = jax.vmap(lambda k: filled(scale, k))(jax.random.split(KEY, agents))
        return Update(values, jnp.arange(1.0, agents + 1), jnp.full(agents, 7, jnp.int32))

    def merged(self, rule, updates: Update):
        if rule.requested:
            ids = jnp.arange(len(updates.weight))
            told = {"loss": 1.0 + ids, "return": 9.0 - ids, "norm": 1.0 + ids}
            told |= {name: ids % 3 + 0.5 for name in rule.requested if name.startswith(SETTING)}
            updates = updates._replace(report={name: told[name] for name in rule.requested})
        return traced(rule, updates, rule.init(PARAMS))

    def test_gives_back_the_structure_shapes_and_types_of_the_parameters(self, rule):
        update, state = self.merged(rule, self.updates())
        assert kind_of(update.value) == kind_of(PARAMS)
        assert kind_of(state) == kind_of(rule.init(PARAMS))
        assert update.version == 7

    def test_agrees_with_itself_on_equal_updates(self, rule):
        equal = self.updates()
        equal = equal._replace(value=jax.tree.map(lambda x: jnp.stack([x[0]] * AGENTS), equal.value))
        update, _ = self.merged(rule, equal)
        if rule == q_ffl(2.0, reference_return=10.0):  # damped where losses are curved: see test_server_rules.py
            return
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[0], rtol=1e-6), update.value, equal.value)

    def test_one_agent_alone_gets_its_own_way(self, rule):
        alone = self.updates(agents=1)
        update, _ = self.merged(rule, alone)
        if rule == q_ffl(2.0, reference_return=10.0):
            return
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[0], rtol=1e-6), update.value, alone.value)

    @pytest.mark.parametrize("scale", [0.0, 1e-20, 1e30])
    def test_survives_nothing_and_extremes(self, rule, scale):
        update, _ = self.merged(rule, self.updates(scale))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(update))

    def test_weighs_one_update(self, rule):
        weight = rule.weigh(Update(PARAMS, jnp.float32(3.0), jnp.int32(0)))
        assert weight in (1.0, 3.0)
        assert weight.dtype == jnp.float32


@pytest.fixture(scope="module", params=EXAMPLES["optimizer"] + EXAMPLES["server_optimizer"], ids=named)
def optimizer(request):
    return request.param


@pytest.fixture(scope="module")
def down(optimizer):
    context = LocalContext(filled(0.1), filled(0.2))
    return jax.jit(lambda slope, state, params: descend(optimizer, slope, state, params, context))


class TestOptimizer:
    def test_keeps_structure_shapes_and_types(self, optimizer, down):
        params, state = down(filled(1.0), optimizer.init(PARAMS), PARAMS)
        assert kind_of(params) == kind_of(PARAMS)
        assert jax.tree.structure(state) == jax.tree.structure(optimizer.init(PARAMS))

    def test_a_second_step_compiles_nothing(self, optimizer, down):
        state = jax.jit(optimizer.init)(PARAMS)
        params, state = down(filled(1.0), state, filled(0.0))
        before = down._cache_size()
        down(filled(2.0), state, params)
        assert down._cache_size() == before

    @pytest.mark.parametrize("scale", [0.0, 1e-30, 1e15])
    def test_survives_nothing_and_extremes(self, optimizer, down, scale):
        params, state = down(filled(scale), optimizer.init(PARAMS), PARAMS)
        params, _ = down(filled(scale), state, params)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("optimizer", [adam(0.01), rmsprop(0.01), sgd(0.1), *EXAMPLES["server_optimizer"]], ids=named)
def test_an_optimizer_goes_downhill(optimizer):
    slope = filled(1.0)
    params, _ = descend(optimizer, slope, optimizer.init(PARAMS), PARAMS, LocalContext(PARAMS, PARAMS))
    assert sum(float((p * g).sum()) for p, g in zip(jax.tree.leaves(params), jax.tree.leaves(slope), strict=True)) < 0.0


@pytest.mark.parametrize("distribution", EXAMPLES["distribution"], ids=repr)
class TestDistribution:
    def test_gives_every_agent_a_size_of_its_own(self, distribution):
        values = distribution.values(1_000, 0, 0)
        assert values.shape == (1_000,)
        assert values.dtype == np.float64
        assert (values > 0.0).all()
        assert np.isfinite(values).all()
        assert len(np.unique(values)) > 1

    def test_is_determined_by_seed_and_purpose(self, distribution):
        same(distribution.values(50, 3, 1), distribution.values(50, 3, 1))
        assert not np.array_equal(distribution.values(50, 3, 1), distribution.values(50, 4, 1))
        assert not np.array_equal(distribution.values(50, 3, 1), distribution.values(50, 3, 2))


@pytest.mark.parametrize("schedule", EXAMPLES["schedule"], ids=repr)
class TestSchedule:
    def rounds(self, schedule, seed=0, count=8):
        devices = clock(step_s=[1.0, 1.0, 2.0, 3.0], latency_s=0.1, jitter=0.3, drop_out=0.2)
        ahead = schedule.momentum < 1.0  # which is of one server optimiser
        server = normalized_momentum(0.1, schedule.momentum) if ahead else None
        hills = federate(quadratic(sgd(0.1)), mean(), local_steps=2, server_optimizer=server)
        simulation = simulate(hills, VALLEYS, scheduler=schedule, clock=devices, block=2, devices=jax.devices()[:1])
        run_state, seen = simulation.init(seed), []
        for _ in range(count):
            run_state, round = simulation.round(run_state)
            seen.append(round)
        return run_state, seen

    def test_time_goes_on_and_updates_arrive(self, schedule):
        run_state, seen = self.rounds(schedule)
        times = [round.clock_stats.time_s for round in seen]
        assert times == sorted(times)
        assert times[0] > 0.0
        assert sum(round.clock_stats.arrived for round in seen) > 0
        assert int(run_state.server.version) >= len(seen)

    def test_what_arrived_is_what_is_counted(self, schedule):
        _, seen = self.rounds(schedule)
        arrived = np.cumsum([round.clock_stats.arrived for round in seen])
        assert [round.iterations for round in seen] == (HILLS.local_steps * arrived).tolist()
        assert [round.steps.sum() for round in seen] == [
            HILLS.local_steps * round.clock_stats.arrived for round in seen
        ]
        assert all(round.clock_stats.environment_steps == round.iterations * HILLS.learner.samples for round in seen)
        assert all((round.metrics["loss"][round.steps == 0] == 0.0).all() for round in seen)

    def test_is_determined_by_its_seed(self, schedule):
        (one, first), (two, again) = self.rounds(schedule), self.rounds(schedule)
        same(one.server.params, two.server.params)
        assert [round.clock_stats for round in first] == [round.clock_stats for round in again]
        assert [round.clock_stats for round in self.rounds(schedule, seed=1)[1]] != [
            round.clock_stats for round in first
        ]

    def test_goes_downhill(self, schedule):
        run_state, _ = self.rounds(schedule, count=40)
        far = np.linalg.norm(CENTRE - flat(run_state.server.params))
        assert far < 0.5 * np.linalg.norm(CENTRE)
