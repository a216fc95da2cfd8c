"""Equal federations share their programs; what only looks equal does not."""

from dataclasses import replace

import jax
import numpy as np
import optax
import pytest

from fedrl.aggregators import mean
from fedrl.core.component import component
from fedrl.core.hyperparameters import numbers_of
from fedrl.core.learner import Learner
from fedrl.core.ranges import Traced
from fedrl.core.stage import Stage
from fedrl.engines.program_cache import cached_program, forget
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from fedrl.federation.federation import Federation
from fedrl.learners import sgd
from tests.support.quadratic import Valley, quadratic

DEVICE = jax.devices()[:1]


def federation(learning_rate: float = 0.1) -> Federation:
    return federate(quadratic(sgd(learning_rate), size=2), mean())


def fleet(agents: int) -> Valley:
    return Valley(np.ones((agents, 2), np.float32), np.arange(2 * agents, dtype=np.float32).reshape(agents, 2))


@pytest.fixture
def compiled():
    """The names of the programs compiled in the test so far."""
    names: list[str] = []

    def listen(event: str, duration: float, **details) -> None:
        del duration
        if event.endswith("backend_compile_duration"):
            names.append(details["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


def rounds(federation: Federation, agents: int, seed: int = 0) -> np.ndarray:
    simulation = simulate(federation, fleet(agents), devices=DEVICE)
    run_state = simulation.init(seed)
    for _ in range(2):
        run_state, _ = simulation.round(run_state)
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(run_state.server.params)])


def test_other_numbers_of_agents_and_seeds_compile_nothing_but_equal_federations_do_not_share_results(compiled):
    first = rounds(federation(), 10)
    assert compiled.count("jit(block)") == 1
    programs = {"jit(block)", "jit(commit_mean)", "jit(init)", "jit(init_server)"}
    compiled.clear()
    other = rounds(federation(), 23, seed=1)
    assert not programs & set(compiled)
    assert np.isfinite(other).all()
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(rounds(federation(), 10), first)


def test_another_number_of_an_own_learner_or_another_block_size_is_another_program(compiled):
    slow = rounds(federation(0.05), 10)
    assert compiled.count("jit(block)") == 1
    fast = rounds(federation(0.06), 10)
    assert compiled.count("jit(block)") == 2
    assert not np.array_equal(slow, fast)
    rounds(federation(0.06), 4)
    assert compiled.count("jit(block)") == 3


@component("test double")
def falling(optimizer: Traced[optax.GradientTransformation]) -> Learner:
    """The quadratic, which the numbers of the optimiser may enter as inputs."""
    return quadratic(optimizer, size=2)


def test_numbers_that_are_inputs_compile_nothing_and_each_setting_has_the_bits_that_it_has_alone(compiled):
    slow, fast, still = (federate(falling(sgd(0.03, momentum=m)), mean()) for m in (0.5, 0.25, 0.0))
    first = rounds(slow, 10)
    assert compiled.count("jit(block)") == 1
    compiled.clear()
    shared = rounds(fast, 10)
    assert not compiled
    assert not np.array_equal(first, shared)
    rounds(still, 10)  # 0 is not an input
    assert compiled.count("jit(block)") == 1
    forget()
    np.testing.assert_array_equal(rounds(fast, 10), shared)


def test_a_number_of_the_template_is_not_a_number():
    seen = cached_program(lambda federation: federation)(federate(falling(sgd(0.03)), mean()))
    assert np.isnan(numbers_of(seen)).tolist() == np.isnan(numbers_of(seen.learner)).tolist() == [True]


def redefined(factor: float):
    """A component under a name that is taken, as when a cell of a notebook is run again."""

    @component("test double")
    def scaled() -> Stage:
        return Stage(
            lambda key, context, cached_program, local, update: (
                update._replace(value=jax.tree.map(lambda x: factor * x, update.value)),
                local,
            ),
            lambda params: ((), ()),
        )

    return scaled()


def test_a_component_redefined_under_its_name_is_another_one():
    whole, half = (federate(quadratic(sgd(0.1), size=2), mean(), redefined(f)) for f in (1.0, 0.5))
    assert whole == half  # all that a call can tell
    assert not np.array_equal(rounds(whole, 4), rounds(half, 4))


def test_an_altered_federation_does_not_share_the_program_of_the_original():
    whole = federation()

    def eager(*given):
        update, agent, metrics = whole.agent(*given)
        return update._replace(value=jax.tree.map(lambda x: 2.0 * x, update.value)), agent, metrics

    assert not np.array_equal(rounds(whole, 4), rounds(replace(whole, agent=eager), 4))


def test_parts_without_a_call_are_told_apart():
    made = cached_program(lambda subject: object())
    stages = [Stage(lambda *given: (given[-1], given[-2]), lambda params: ((), ())) for _ in range(2)]
    one, other = (federate(quadratic(sgd(0.1), size=2), mean(), stage) for stage in stages)
    assert made(one) is made(one)
    assert made(one) is not made(other)
