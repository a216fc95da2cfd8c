"""What leaves an agent is listed, and what noise or a hidden sum does not cover is refused: docs/soundness.md."""

import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrl.aggregators import mean, median, q_ffl
from fedrl.clocks import clock
from fedrl.core.component import component
from fedrl.core.errors import REASONS, UnsoundError
from fedrl.core.learner import Learner, Statistics
from fedrl.core.replay import empty
from fedrl.core.stage import Noise, Stage
from fedrl.core.summation import Summation
from fedrl.engines.combinations import check
from fedrl.engines.messages import messages
from fedrl.engines.simulate import simulate
from fedrl.engines.topologies.choices import gossip, hierarchy
from fedrl.federation.federate import federate
from fedrl.federation.federation import Federation
from fedrl.federation.nested import as_learner
from fedrl.federation.soundness import outgoing
from fedrl.learners import add_correction, chain, sgd
from fedrl.server import adacomm, greedy, oort, uniform
from fedrl.server.scheduler import Scheduler
from fedrl.server.schedules import afedpg, bounded_staleness, fed_async, fed_buff, synchronous
from fedrl.stages import (
    clip,
    download_only,
    error_feedback,
    hard_threshold,
    lag,
    quantize,
    scaffold,
    top_k,
    weight_by_capacity,
    weight_by_improvement,
)
from fedrl.topologies import metropolis, ring, tree
from fedrl.wire.codec import varies
from tests.support.hidden import veil
from tests.support.quadratic import FLEET, quadratic

AGENTS, EVENT = 4, "a DpEvent"
LEARNER = quadratic(chain(add_correction(), sgd(0.1)))
EPISODIC = replace(LEARNER, episodic=True, clips_trajectories=1.0)
COUNTING = Statistics(lambda state: {"n": jnp.float32(1.0)}, lambda params, sums: params)


def untouched(key, context, shared, local, update):
    return update, local


def drawn(key, context, shared, local, update):
    return update._replace(value=jax.tree.map(lambda x: x + jax.random.normal(key, x.shape), update.value)), local


def finished(key, shared, update):
    return update, shared


@component("test double")
def central() -> Stage:
    return Stage(untouched, finish=finished, noise=Noise(EVENT, 1.0, "server"))


@component("test double")
def local() -> Stage:
    return Stage(drawn, noise=Noise(EVENT, 1.0, "agent"))


@component("test double")
def by_trajectory(at: str) -> Stage:
    encode = drawn if at == "agent" else untouched
    return Stage(encode, finish=finished, noise=Noise(EVENT, 1.0, at, "trajectory", "replace-one"))


@component("test double")
def adaptive() -> Stage:
    return Stage(clip(1.0).encode, finish=finished, clips=1.0, noise=Noise(EVENT, 1.0, "server"))


@component("test double")
def amplify() -> Stage:
    return Stage(untouched, may_increase_norm=True)


@component("test double")
def silent() -> Stage:
    return Stage(untouched, skips_uploads=True)


@component("test double")
def in_steps(reads: bool = True, reads_in_gradient: bool = True) -> Learner:
    """The quadratic with noise in each local step, and in its gradient."""

    def added(key, tree):
        return jax.tree.map(lambda x: x + jax.random.normal(key, x.shape), tree)

    def learn(key, state, experience, context):
        after, metrics = LEARNER.learn(key, state, experience, context)
        params = LEARNER.params(after)
        return LEARNER.adopt(after, added(context.noise, params) if reads else params), metrics

    def gradient(key, state, experience, context):
        slope, metrics = LEARNER.gradient(key, state, experience, context)
        return (added(context.noise, slope) if reads_in_gradient else slope), metrics

    noise = Noise(EVENT, 1.0, "agent", "trajectory")
    return replace(EPISODIC, learn=learn, gradient=gradient, noise=noise)


class Mechanism(NamedTuple):
    """Stages, a sum that hides its terms as their last, or a learner with noise of its own; and of whose learner."""

    parts: tuple[Stage | Summation | Learner, ...]
    trajectory: bool = False

    @property
    def learner(self) -> Learner:
        own = next((part for part in self.parts if isinstance(part, Learner)), None)
        return own or (EPISODIC if self.trajectory else LEARNER)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return tuple(part for part in self.parts if isinstance(part, Stage))

    @property
    def summation(self) -> Summation | None:
        return next((part for part in self.parts if isinstance(part, Summation)), None)


MECHANISMS = {
    "central": Mechanism((clip(1.0), central())),
    "local": Mechanism((clip(1.0), local())),
    "distributed": Mechanism((clip(1.0), local(), veil())),
    "trajectory, agents": Mechanism((by_trajectory("agent"),), True),
    "trajectory, server": Mechanism((by_trajectory("server"),), True),
    "adaptive clip": Mechanism((adaptive(),)),
    "hidden sum": Mechanism((veil(),)),
    "hidden sum and central": Mechanism((clip(1.0), central(), veil())),
    "steps": Mechanism((in_steps(),)),
}


def built(mechanism: Mechanism, rule=mean("uniform"), before=(), after=(), learner=None, **options) -> Federation:
    learner = learner or mechanism.learner
    if mechanism.trajectory:
        options = {"payload": "gradient", **options}
    return federate(learner, rule, *before, *mechanism.stages, *after, summation=mechanism.summation, **options)


def placed(mechanism: Mechanism, topology=None, schedule=synchronous(), **decided) -> Federation:
    federation = built(mechanism)
    check(federation, AGENTS, topology, Scheduler(schedule, **decided), clock())
    return federation


def counting(mechanism: Mechanism) -> Federation:
    own = replace(mechanism.learner, statistics=COUNTING)
    object.__setattr__(own, "call", mechanism.learner.call)  # so that messages name it
    return built(mechanism, learner=own)


ROWS = {
    "uniform mean": built,
    "sample weights": lambda m: built(m, mean()),
    "a rule that sees each": lambda m: built(m, median()),
    "weights set by a stage": lambda m: built(m, mean(), before=[weight_by_capacity([1.0] * AGENTS)]),
    "server optimiser": lambda m: built(m, server_optimizer=optax.adam(0.1)),
    "statistics": counting,
    "reports": lambda m: built(m, reports=["norm"]),
    "SCAFFOLD": lambda m: built(m, before=[scaffold(0.1)], payload="delta"),
    "error feedback before": lambda m: built(m, before=[error_feedback(top_k(0.1))]),
    "error feedback after": lambda m: built(m, after=[error_feedback(top_k(0.1))]),
    "quantisation after": lambda m: built(m, after=[quantize(8)]),
    "sizes that vary, after": lambda m: built(m, after=[hard_threshold(0.1)]),
    "lag": lambda m: built(m, before=[lag()]),
    "gradients": lambda m: built(m, payload="gradient"),
    "tree of relays": lambda m: placed(m, hierarchy(tree([2]))),
    "tree with periods": lambda m: placed(m, hierarchy(tree([2], [1, 2]))),
    "no server": lambda m: placed(m, gossip(ring(), metropolis())),
    "all who were asked": placed,
    "the first n": lambda m: placed(m, schedule=synchronous(2)),
    "a deadline": lambda m: placed(m, schedule=synchronous(deadline_s=2.0)),
    "late updates kept": lambda m: placed(m, schedule=synchronous(stragglers="keep")),
    "asynchronous": lambda m: placed(m, schedule=fed_buff(2)),
    "selection by answers": lambda m: placed(m, selection=oort(2)),
    "selection at random": lambda m: placed(m, selection=uniform(2)),
    "inside another federation": lambda m: as_learner(built(m), 2),
}


def documented() -> dict[tuple[str, str], str]:
    """The cells of the table in docs/soundness.md: by row and mechanism."""
    page = (Path(__file__).parents[2] / "docs" / "soundness.md").read_text()
    lines = page[page.index("| | central") :].split("\n\n")[0].splitlines()
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {(row[0], name): cell for row in rows for name, cell in zip(head[1:], row[1:], strict=True)}


MATRIX = documented()


def test_the_table_has_every_row_and_mechanism_that_is_built() -> None:
    assert set(MATRIX) == {(row, name) for row in ROWS for name in MECHANISMS}
    assert set(MATRIX.values()) == {"A", "R", "X"}


@pytest.mark.parametrize(("row", "mechanism"), MATRIX, ids=[" x ".join(cell) for cell in MATRIX])
def test_a_cell_of_the_table_is_what_is_built(row: str, mechanism: str) -> None:
    if MATRIX[row, mechanism] == "A":
        assert ROWS[row](MECHANISMS[mechanism]) is not None
        return
    with pytest.raises(UnsoundError) as rejected:
        ROWS[row](MECHANISMS[mechanism])
    message = str(rejected.value)
    missing = re.search(r"(not|nor) (there|supported) yet", message) is not None
    assert missing == (MATRIX[row, mechanism] == "X"), message
    named = [repr(part) for part in MECHANISMS[mechanism].parts if repr(part) in message]
    assert named, message
    assert len(re.findall(r"[.] [A-Z]|[.]$", message)) >= 2, message


REFUSED = {
    "no clip": (
        lambda: built(Mechanism((central(),))),
        "unbounded",
        r"central\(\).*no stage before it enforces.*Put clip\(1\)",
    ),
    "a loose clip": (
        lambda: built(Mechanism((clip(2.0), central()))),
        "unbounded",
        r"clip\(2.0\) allows updates with a larger L2 norm than the 1 for which central\(\)",
    ),
    "a clip afterwards": (
        lambda: built(Mechanism((local(), clip(1.0)))),
        "unbounded",
        r"local\(\).*no stage before it enforces",
    ),
    "enlarged in between": (
        lambda: built(Mechanism((clip(1.0), amplify(), local()))),
        "unbounded",
        r"amplify\(\) comes between clip\(1.0\) and local\(\)",
    ),
    "enlarged afterwards": (
        lambda: built(Mechanism((clip(1.0), central(), amplify()))),
        "unbounded",
        r"amplify\(\) comes after central\(\)",
    ),
    "a share of noise scaled down": (
        lambda: built(Mechanism((clip(1.0), local(), clip(0.5), veil()))),
        "unbounded",
        r"clip\(0.5\) comes after local\(\).*scales the noise down",
    ),
    "a rule that asks": (
        lambda: built(MECHANISMS["local"], q_ffl()),
        "in the clear",
        r"Agents report \['loss'\].*q_ffl\(\) requests.*local\(\)",
    ),
    "updates held back": (
        lambda: built(Mechanism((silent(), clip(1.0), local()))),
        "in the clear",
        r"silent\(\) sends an update or none depending on the data, which local\(\) does not protect",
    ),
    "sizes before noise": (
        lambda: built(Mechanism((clip(1.0), hard_threshold(0.1), local()))),
        "in the clear",
        r"message of hard_threshold\(0.1\).*local\(\) does not protect the size",
    ),
    "trajectories nobody clips": (
        lambda: built(MECHANISMS["trajectory, agents"], learner=replace(EPISODIC, clips_trajectories=None)),
        "unbounded",
        r"by_trajectory\('agent'\).*does not clip each trajectory",
    ),
    "trajectories clipped to more": (
        lambda: built(MECHANISMS["trajectory, agents"], learner=replace(EPISODIC, clips_trajectories=1.5)),
        "unbounded",
        "does not clip each trajectory",
    ),
    "episodes over rounds": (
        lambda: built(MECHANISMS["trajectory, server"], learner=replace(EPISODIC, episodic=False)),
        "unbounded",
        "continue from round to round.*reinforce",
    ),
    "what optimisers make of trajectories": (
        lambda: built(MECHANISMS["trajectory, agents"], payload="delta"),
        "unbounded",
        "Use payload='gradient'",
    ),
    "a memory of experience": (
        lambda: built(
            MECHANISMS["trajectory, agents"],
            learner=replace(EPISODIC, init=lambda key, env: (LEARNER.init(key, env), empty(jnp.zeros(2), 3)),
                            params=lambda state: LEARNER.params(state[0])),
        ),
        "unbounded",
        "learns from its replay buffer",
    ),
    "noise in steps, and a weight by returns": (
        lambda: built(MECHANISMS["steps"], mean(), before=[weight_by_improvement()]),
        "in the clear",
        r"weight_by_improvement\(\) sends what depends on the agent's metrics.*in_steps\(\) adds noise to its grad",
    ),
    "noise in steps, and a rule that asks": (
        lambda: built(MECHANISMS["steps"], q_ffl()),
        "in the clear",
        r"Agents report \['loss'\].*q_ffl\(\) requests.*in_steps\(\) adds noise to its gradients alone",
    ),
    "noise in steps that nobody draws": (
        lambda: built(MECHANISMS["steps"], learner=in_steps(reads=False)),
        "unbounded",
        r"in_steps\(reads=False\) declares noise, and its `learn` or its `gradient` does not read the key",
    ),
    "noise in steps and not in gradients": (
        lambda: built(MECHANISMS["steps"], learner=in_steps(reads_in_gradient=False), payload="gradient"),
        "unbounded",
        r"declares noise, and its `learn` or its `gradient` does not read the key",
    ),
    "noise in steps, episodes nobody clips": (
        lambda: built(MECHANISMS["steps"], learner=replace(in_steps(), clips_trajectories=None)),
        "unbounded",
        "move a gradient by at most 1, and does not bound them to that",
    ),
    "noise in steps, episodes clipped to more": (
        lambda: built(MECHANISMS["steps"], learner=replace(in_steps(), clips_trajectories=1.5)),
        "unbounded",
        "move a gradient by at most 1, and does not bound them to that",
    ),
    "noise in steps, episodes over iterations": (
        lambda: built(MECHANISMS["steps"], learner=replace(in_steps(), episodic=False)),
        "unbounded",
        "its episodes continue from iteration to iteration",
    ),
    "noise in steps, a memory of experience": (
        lambda: built(
            MECHANISMS["steps"],
            learner=replace(in_steps(), init=lambda key, env: (LEARNER.init(key, env), empty(jnp.zeros(2), 3)),
                            params=lambda state: LEARNER.params(state[0])),
        ),
        "unbounded",
        "learns from its replay buffer in many",
    ),
    "noise in steps, for the agent": (
        lambda: built(MECHANISMS["steps"], learner=replace(in_steps(), noise=Noise(EVENT, 1.0, "agent"))),
        "unbounded",
        "declares noise at the 'agent' for the unit 'agent'",
    ),
    "trajectories coded before the noise": (
        lambda: built(MECHANISMS["trajectory, agents"], before=[top_k(0.1)]),
        "unbounded",
        r"top_k\(0.1\) changes updates before the noise of by_trajectory",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_covered_is_refused_by_name_with_a_reason_and_a_cure(case: str) -> None:
    build, reason, words = REFUSED[case]
    with pytest.raises(UnsoundError, match=words) as rejected:
        build()
    assert rejected.value.reason == reason
    assert reason in REASONS


SCHEDULES = [
    replace(fed_buff(2), stragglers="cancel"),
    fed_buff(2),
    fed_async(0.5),
    bounded_staleness(1),
    afedpg(0.5),
    synchronous(2),
    synchronous(stragglers="keep"),
]


@pytest.mark.parametrize("mechanism", ["central", "local", "distributed", "adaptive clip"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_noise_is_refused_where_time_decides_who_is_merged(mechanism: str, schedule) -> None:
    with pytest.raises(UnsoundError, match=re.escape(repr(schedule))) as rejected:
        placed(MECHANISMS[mechanism], schedule=schedule)
    assert rejected.value.reason == "hidden"


@pytest.mark.parametrize(
    "deciding", [{"selection": oort(2)}, {"local_steps": adacomm(2)}, {"upload_budget": greedy(10_000)}], ids=str
)
def test_who_decides_by_answers_is_refused_beside_noise(deciding) -> None:
    (part,) = deciding.values()
    with pytest.raises(UnsoundError, match=re.escape(f"{part!r} decides by what agents report")) as rejected:
        placed(MECHANISMS["central"], **deciding)
    assert rejected.value.reason == "in the clear"


def test_each_server_that_opens_a_sum_has_the_least_number_of_agents() -> None:
    edges, hiding = hierarchy(tree([2], [1, 2])), MECHANISMS["hidden sum"]
    placed(hiding, edges)
    with pytest.raises(UnsoundError, match=r"veil\(\) opens sums of 2 .*servers below the root.* of one agent at the"):
        placed(hiding, hierarchy(tree([3], [1, 2])))
    with pytest.raises(UnsoundError, match="of one agent at the smallest"):
        placed(hiding, edges, selection=uniform(1))  # one of each server's agents
    of_three = federate(LEARNER, mean("uniform"), summation=replace(veil(), minimum=3))
    threes = hierarchy(tree([3], [1, 2]))
    check(of_three, 6, threes, Scheduler(), None)
    check(of_three, 4, hierarchy(tree([2])), Scheduler(), None)  # relays open the sum of all
    with pytest.raises(
        UnsoundError, match=r"sums of 3 updates or more, and in tree\(\[3\], per.* of 2 agents at the s"
    ):
        check(of_three, 5, threes, Scheduler(), None)


def test_a_topology_of_ones_own_says_what_it_opens() -> None:
    class Own(NamedTuple):
        opens: str

        def bind(self, setting):
            raise NotImplementedError

    placed(MECHANISMS["hidden sum"], Own("the sum"))
    placed(MECHANISMS["central"], Own("the sum"))
    with pytest.raises(UnsoundError, match=r"central\(\) adds noise at the server, .*Own\(opens='each'\) opens each"):
        placed(MECHANISMS["central"], Own("each"))
    with pytest.raises(UnsoundError, match=r"veil\(\) hides updates.*Own\(opens='each'\) opens each") as rejected:
        placed(MECHANISMS["hidden sum"], Own("each"))
    assert rejected.value.reason == "hidden"


def test_a_size_that_varies_is_not_covered_by_noise_of_the_same_stage() -> None:
    both = replace(hard_threshold(0.1), noise=Noise(EVENT, 1.0, "agent"))
    with pytest.raises(UnsoundError, match=r"The size of a message of .* depends on its content"):
        federate(LEARNER, mean("uniform"), clip(1.0), both)


def test_a_sum_of_one_agent_hides_nothing() -> None:
    federation = federate(LEARNER, mean("uniform"), summation=veil())
    with pytest.raises(UnsoundError, match="there is one agent, whose update is the sum") as refused:
        check(federation, 1, None, Scheduler(synchronous()), None)
    assert refused.value.reason == "hidden"
    check(federation, AGENTS, None, Scheduler(selection=uniform(2)), None)
    with pytest.raises(UnsoundError, match=r"veil\(\) .* uniform\(1\) selects one agent, whose update is the sum"):
        check(federation, AGENTS, None, Scheduler(selection=uniform(1)), None)


def test_a_cohort_of_one_agent_is_refused_where_a_sum_hides() -> None:
    federation = federate(quadratic(sgd(0.1)), mean("uniform"), summation=veil())
    simulation = simulate(federation, FLEET, devices=jax.devices()[:1])
    run_state = simulation.init(0)
    with pytest.raises(UnsoundError, match=r"cohort is \[2\], one agent, and veil\(\) hides updates"):
        simulation.round(run_state, [2])
    assert simulation.round(run_state, [1, 2])[1].uploads.messages.tolist() == [0, 1, 1, 0]


SOUND = {
    "enlarged before the clip": (amplify(), clip(1.0), central()),
    "parts left out after the clip": (clip(1.0), download_only(["head"]), central()),
    "a tighter clip": (clip(0.5), local()),
    "two clips": (clip(1.0), amplify(), clip(1.0), local()),
    "coded before the noise of the server": (clip(1.0), top_k(0.1), central()),
    "noise, then anything": (clip(1.0), local(), amplify(), hard_threshold(0.1)),
}


@pytest.mark.parametrize("case", SOUND)
def test_what_is_covered_is_built(case: str) -> None:
    assert federate(LEARNER, mean("uniform"), *SOUND[case]).stages == SOUND[case]


def test_without_noise_or_a_hidden_sum_nothing_of_it_is_asked() -> None:
    assert federate(LEARNER, mean(), hard_threshold(0.1), quantize(8), reports=["norm"]).reports == ("norm",)


# --- what leaves -----------------------------------------------------------------------------------------------------


def rows(federation: Federation) -> dict[str, tuple[int | None, str]]:
    return {each.name: (each.size_bytes, each.protection) for each in outgoing(federation)}


def test_all_that_leaves_is_listed_with_its_bytes() -> None:
    counting = replace(LEARNER, statistics=COUNTING)
    found = rows(federate(counting, mean(), top_k(0.5), reports=["norm", "duration_s"]))
    assert found["statistics/learner"] == (4, "nothing")
    assert found["report/norm"] == found["report/duration_s"] == (4, "nothing")
    assert found["weight"] == found["version"] == (4, "nothing")
    assert set(found) == {"value", "statistics/learner", "report/norm", "report/duration_s", "weight", "version"}


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ((clip(1.0), central()), "noise that the server adds to the sum"),
        ((clip(1.0), local()), "noise that the agent adds"),
        ((clip(1.0), local(), veil()), "noise that the agent adds and a hidden sum"),
        ((veil(),), "a hidden sum"),
        ((quantize(8),), "nothing"),
        ((in_steps(), quantize(8)), "noise in each local step"),
        ((in_steps(), clip(1.0), central()), "noise in each local step and noise that the server adds to the sum"),
    ],
)
def test_what_protects_the_value_is_said(stages, expected) -> None:
    assert rows(built(Mechanism(stages)))["value"][1] == expected


def test_what_is_seen_without_being_sent_is_listed() -> None:
    found = rows(federate(LEARNER, mean(), lag(hard_threshold(0.1))))
    assert found["value"][0] is None
    assert found["size"] == found["silence"] == (0, "nothing")
    assert not {"size", "silence"} & set(rows(federate(LEARNER, mean(), quantize(8))))
    weighed = outgoing(federate(LEARNER, mean(), weight_by_capacity([1.0] * AGENTS)))
    assert "weight_by_capacity" in next(each.note for each in weighed if each.name == "weight")


@pytest.mark.parametrize("stages", [(), (quantize(3),), (error_feedback(top_k(0.5), quantize(8)),)], ids=repr)
def test_the_bytes_of_what_is_sent_add_up_to_those_of_the_update(stages) -> None:
    federation = federate(LEARNER, mean(), *stages, reports=["loss"])
    alone = jax.tree.map(lambda x: np.asarray(x)[None], LEARNER.environment.params)
    wire = messages(federation, alone)
    assert not varies(wire.update)
    assert sum(each.size_bytes for each in outgoing(federation)) == wire.up_bytes
