"""A virtual clock against a naive simulator: one event, one agent, one loop at a time."""

import hashlib
import math

import jax
import numpy as np
import pytest

from fedrl.aggregators import mean, median
from fedrl.clocks import clock, lognormal, stragglers, uniform_between
from fedrl.clocks.counter_rng import Purpose, exponential, normal, uniform
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.engines.executors.ahead import TrainedAhead
from fedrl.engines.executors.blocks import Blocks
from fedrl.engines.simulate import simulate
from fedrl.engines.topologies.choices import gossip
from fedrl.environments import cartpole
from fedrl.federation.federate import federate
from fedrl.learners import normalize, ppo, sgd
from fedrl.records import checkpoint
from fedrl.server import fedadam, fedavgm, greedy, hinge, normalized_momentum, polynomial
from fedrl.server.decisions import UploadBudget
from fedrl.server.scheduler import Scheduler
from fedrl.server.schedules import afedpg, bounded_staleness, fed_async, fed_buff, synchronous
from fedrl.stages import error_feedback, lag, top_k
from fedrl.topologies import metropolis, ring
from tests.support.quadratic import Valley, flat, quadratic

AGENTS, SIZE, RATE, SEED = 7, 3, 0.1, 5
DEVICES = jax.devices()
SMALL = {"block": 4, "devices": DEVICES[:1]}
draws = np.random.default_rng(11)
FLEET = Valley(
    draws.uniform(0.2, 2.0, (AGENTS, SIZE)).astype(np.float32), draws.normal(size=(AGENTS, SIZE)).astype(np.float32)
)
STEPS = [1, 2, 3, 1, 2, 3, 1]
STEP_S = [1.0, 1.0, 1.0, 4.0, 0.5, 1.5, 1.0]
UP, DOWN = 4 * SIZE + 8, 4 * SIZE + 4  # bytes: parameters, weight and version; parameters and version
PLAIN = federate(quadratic(sgd(RATE)), mean(), local_steps=3)
LENGTH = 0.02
ALONG = federate(quadratic(sgd(RATE)), mean(), local_steps=3, server_optimizer=normalized_momentum(LENGTH, 0.5))
CHANCES = {"jitter": 0.2, "drop_out": 0.25, "online_s": 15.0, "offline_s": 6.0}
LINKS = {"latency_s": 0.1, "up_bytes_per_s": 100.0, "down_bytes_per_s": [50.0] * AGENTS}


class Naive:
    """The same system without arrays, batches, blocks or JAX."""

    def __init__(self, schedule, *, jitter=0.0, drop_out=0.0, online_s=math.inf, offline_s=0.0, links=False):
        self.schedule, self.jitter, self.drop_out = schedule, jitter, drop_out
        self.online_s, self.offline_s, self.links = online_s, offline_s, links
        self.now, self.version, self.theta, self.before = 0.0, 0, np.zeros(SIZE), np.zeros(SIZE)
        self.direction = np.zeros(SIZE)
        self.does, self.due = ["idle"] * AGENTS, [math.inf] * AGENTS
        self.turns, self.done, self.sent = [0] * AGENTS, [0] * AGENTS, [None] * AGENTS

    def draw(self, how, purpose, k, count):
        return float(how(SEED, purpose, np.array([k]), np.array([count]))[0])

    def edges(self, k, t):
        """How often agent k has come or gone by then, and when it does so next."""
        edge, phase = 0.0, 0
        while edge <= t:
            phase += 1
            mean_s = self.online_s if phase % 2 else self.offline_s
            edge += mean_s * self.draw(exponential, Purpose.STAY, k, phase)
        return phase, edge

    def start(self, k, t):
        phase, edge = self.edges(k, t)
        if phase % 2 == 0:
            self.does[k], self.due[k] = "away", edge
            return False
        takes = STEPS[k] * STEP_S[k] * math.exp(self.jitter * self.draw(normal, Purpose.JITTER, k, self.turns[k]))
        takes += 0.2 + UP / 100.0 + DOWN / 50.0 if self.links else 0.0
        dropped = self.draw(uniform, Purpose.DROP_OUT, k, self.turns[k]) < self.drop_out
        self.does[k] = "dropped" if dropped or edge < t + takes else "arrives"
        self.due[k] = min(edge, t + takes)
        alpha = self.schedule.momentum
        heard = self.theta + (1 - alpha) / alpha * (self.theta - self.before)
        self.sent[k], self.turns[k] = (heard, self.version), self.turns[k] + 1
        return True

    def working(self):
        return [k for k in range(AGENTS) if self.does[k] in ("dropped", "arrives")]

    def fill(self):
        """Send for idle agents while there is room."""
        room = self.schedule.concurrency or AGENTS
        while len(self.working()) < room:
            slowest = min((self.done[k] for k in range(AGENTS) if self.does[k] != "away"), default=0)
            bound = self.schedule.bound
            idle = [k for k in range(AGENTS) if self.does[k] == "idle"]
            idle = [k for k in idle if bound is None or self.done[k] - slowest <= bound]
            if not idle:
                return
            self.start(
                min(idle, key=lambda k: self.turns[k] + self.draw(uniform, Purpose.TURN, k, self.turns[k])), self.now
            )

    def update_of(self, k):
        heard, version = self.sent[k]
        pull = (1 - RATE * FLEET.curvature[k].astype(float)) ** STEPS[k]
        return (pull - 1) * (heard - FLEET.minimum[k]), heard, version, STEPS[k]

    def stepped(self, change):
        """What the server makes of a mean change."""
        alpha = self.schedule.momentum
        if alpha == 1.0:
            return change
        self.direction = (1 - alpha) * self.direction + alpha * change
        return LENGTH * self.direction / np.linalg.norm(self.direction)

    def merge(self):
        """One merge: the parameters, the time and the mean staleness after it."""
        schedule, got, deadline = self.schedule, [], None
        while schedule.buffer_size is None or len(got) < schedule.buffer_size:
            if deadline is None:
                self.fill()
                deadline = self.now + schedule.deadline_s if self.working() else None
            if deadline is not None and not schedule.redispatch and not self.working():
                break
            if deadline is not None and self.now >= deadline and len(got) >= schedule.quorum:
                break
            k = min(range(AGENTS), key=lambda k: (self.due[k], k))
            if deadline is not None and self.now < deadline < self.due[k]:
                self.now = deadline
                continue
            self.now, what = self.due[k], self.does[k]
            self.does[k], self.due[k] = "idle", math.inf
            if what == "arrives":
                got.append(self.update_of(k))
            if what == "away":
                others = [self.done[j] for j in range(AGENTS) if self.does[j] != "away" and j != k]
                self.done[k] = max(self.done[k], min(others, default=0))
            else:
                self.done[k] += 1
            if schedule.redispatch and len(got) < schedule.buffer_size:  # else it hears of the merge
                self.fill()
        if schedule.stragglers == "cancel":
            for k in self.working():
                self.does[k], self.due[k] = "idle", math.inf
        stale = [self.version - version for _, _, version, _ in got]
        if len(got) >= schedule.quorum:
            mixing = 1 / AGENTS if schedule.mixing is None else schedule.mixing
            scale = mixing * np.asarray(schedule.staleness.weight(np.array(stale)), float)
            moves = [d + (heard - self.theta if schedule.mix_models else 0.0) for d, heard, _, _ in got]
            weights = np.array([n for *_, n in got], float)
            step = (weights * scale) @ np.array(moves) / weights.sum()
            self.before, self.theta = self.theta, self.theta + self.stepped(step)
        self.version += 1
        return self.theta, self.now, float(np.mean(stale)) if got else 0.0


SCHEDULES = [
    synchronous(),
    synchronous(4),
    synchronous(3, stragglers="keep", staleness=polynomial(1.0)),
    synchronous(deadline_s=4.0, quorum=2),
    fed_async(0.7),
    fed_async(0.5, staleness=hinge(0.5, 1.0), concurrency=3),
    fed_buff(3),
    fed_buff(2, concurrency=4),
    bounded_staleness(1),
    bounded_staleness(0, mixing=0.4),
    afedpg(0.5),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("chances", [{}, CHANCES], ids=["ideal", "drop-outs, absences and jitter"])
def test_every_merge_equals_the_naive_simulator(schedule, chances):
    naive = Naive(schedule, links=bool(chances), **chances)
    devices = clock(step_s=STEP_S, **chances, **(LINKS if chances else {}))
    federation = ALONG if schedule.momentum < 1.0 else PLAIN
    simulation = simulate(federation, FLEET, scheduler=schedule, clock=devices, local_steps=STEPS, merges=1, **SMALL)
    run_state, waited = simulation.init(SEED), 0
    for _ in range(40):
        run_state, seen = simulation.round(run_state)
        theta, now, stale = naive.merge()
        assert seen.clock_stats.time_s == pytest.approx(now, rel=1e-12)
        assert seen.clock_stats.staleness_mean == pytest.approx(stale)
        np.testing.assert_allclose(flat(run_state.server.params), theta, rtol=1e-4, atol=1e-5)
        waited += seen.clock_stats.dropped
    assert (waited > 0) == bool(chances)


def fingerprint(tree) -> str:
    """SHA-256 over every bit of every array."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


STATEFUL = federate(
    quadratic(sgd(RATE, momentum=0.5), samples=3),
    mean(),
    error_feedback(top_k(0.5)),
    server_optimizer=fedavgm(),
    local_steps=3,
)
BUSY = {"scheduler": fed_buff(3), "clock": clock(step_s=STEP_S, **CHANCES, **LINKS)}


def ran(simulation, rounds=12, run_state=None):
    run_state = simulation.init(SEED) if run_state is None else run_state
    for _ in range(rounds):
        run_state, _ = simulation.round(run_state)
    return run_state


def test_the_same_bits_for_any_number_of_devices():
    assert len(DEVICES) >= 2
    one, two = (simulate(STATEFUL, FLEET, **BUSY, block=2, devices=DEVICES[:n]) for n in (1, 2))
    first, second = ran(one), ran(two)
    assert fingerprint(first.server) == fingerprint(second.server)
    assert fingerprint(one.params_of(first)) != fingerprint(one.params_of(one.init(SEED)))


@pytest.mark.parametrize("options", [{"block": 1}, {"block": 7}, {"block": 2, "devices": DEVICES}], ids=repr)
@pytest.mark.parametrize("most", [1024, 2])
def test_what_agents_act_with_is_of_now_whoever_learned_ahead_of_time(monkeypatch, options, most):
    monkeypatch.setattr("fedrl.engines.executors.ahead.AHEAD", most)
    alone = simulate(PLAIN, FLEET, **BUSY, local_steps=STEPS, merges=1, block=1, devices=DEVICES[:1])
    filled = simulate(PLAIN, FLEET, **BUSY, local_steps=STEPS, merges=1, **({"devices": DEVICES[:1]} | options))
    one, other = alone.init(SEED), filled.init(SEED)
    for _ in range(8):
        before = flat(filled.params_of(other))
        (one, _), (other, seen) = alone.round(one), filled.round(other)
        np.testing.assert_allclose(flat(filled.params_of(other)), flat(alone.params_of(one)), rtol=1e-6, atol=1e-7)
        moved = (flat(filled.params_of(other)) != before).any(1)
        assert not moved[seen.steps == 0].any()
        assert moved.any()


def test_a_run_resumed_between_any_two_rounds_gives_the_same_bits(tmp_path):
    simulation = simulate(STATEFUL, FLEET, **BUSY, merges=1, **SMALL)
    expected = fingerprint(ran(simulation, 15).server)
    run_state = simulation.init(SEED)
    for i in range(15):
        run_state, _ = simulation.round(run_state)
        checkpoint.save(tmp_path / "state", run_state, i)
        run_state = checkpoint.load(tmp_path / "state", simulation.init(SEED))
    assert fingerprint(run_state.server) == expected


def test_rounds_of_all_agents_are_those_without_a_clock():
    plain = simulate(STATEFUL, FLEET, local_steps=STEPS, **SMALL)
    clocked = simulate(STATEFUL, FLEET, clock=clock(), local_steps=STEPS, **SMALL)
    expected, found = ran(plain, 5), ran(clocked, 5)
    assert fingerprint(found.server) == fingerprint(expected.server)
    np.testing.assert_array_equal(flat(clocked.params_of(found)), flat(plain.params_of(expected)))
    jax.tree.map(np.testing.assert_array_equal, clocked.states_of(found), plain.states_of(expected))
    np.testing.assert_array_equal(
        flat(clocked.params_of(clocked.adopt(found)))[3], flat(jax.tree.map(np.asarray, found.server.params))
    )


@pytest.mark.parametrize(
    "federation",
    [
        federate(quadratic(sgd(RATE)), median(), local_steps=2),
        federate(
            quadratic(sgd(RATE)), mean("uniform"), payload="gradient", server_optimizer=fedavgm(0.1), local_steps=2
        ),
    ],
    ids=["a rule that sees each update", "gradients"],
)
def test_any_federation_runs_as_without_a_clock(federation):
    expected = ran(simulate(federation, FLEET, **SMALL), 4)
    found = ran(simulate(federation, FLEET, clock=clock(), **SMALL), 4)
    np.testing.assert_allclose(flat(found.server.params), flat(expected.server.params), rtol=1e-6, atol=1e-7)


def test_nothing_compiles_after_the_first_round(caplog):
    simulation = simulate(STATEFUL, FLEET, **BUSY, merges=1, **SMALL)
    run_state = ran(simulation, 2)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        ran(simulation, 10, run_state)
    assert not [record for record in caplog.records if "ompil" in record.getMessage()]


def test_asynchronous_over_synchronous_speed_is_that_of_the_rates():
    fleet = Valley(np.ones((8, 2), np.float32), np.ones((8, 2), np.float32))
    federation, step_s = federate(quadratic(sgd(RATE), size=2), mean()), [1.0] * 7 + [4.0]

    def updates_per_s(schedule):
        simulation = simulate(federation, fleet, scheduler=schedule, clock=clock(step_s=step_s), devices=DEVICES[:1])
        run_state, arrived = simulation.init(0), 0
        for _ in range(60):
            run_state, seen = simulation.round(run_state)
            arrived += seen.clock_stats.arrived
        return arrived / seen.clock_stats.time_s

    assert updates_per_s(synchronous()) == pytest.approx(2.0)
    assert updates_per_s(fed_async()) / updates_per_s(synchronous()) == pytest.approx(3.625, rel=0.02)


def test_agents_come_and_go_by_a_trace():
    rows = [[k, 10.0 * k, 10.0 * k + 10.0] for k in range(AGENTS)]  # one at a time
    devices, steps = clock(step_s=3.0, availability_trace=rows), [1] * AGENTS
    simulation = simulate(PLAIN, FLEET, scheduler=fed_async(), clock=devices, local_steps=steps, merges=1, **SMALL)
    run_state, who = simulation.init(0), []
    for _ in range(3 * AGENTS):
        run_state, seen = simulation.round(run_state)
        who += np.flatnonzero(seen.metrics["loss"]).tolist()
    assert who == [k for k in range(AGENTS) for _ in range(3)]
    with pytest.raises(ConfigError, match="left for good"):
        simulation.round(run_state)


def test_only_a_cohort_is_sent_for():
    simulation = simulate(PLAIN, FLEET, scheduler=fed_buff(2), clock=clock(), merges=1, **SMALL)
    run_state = simulation.init(0)
    for _ in range(5):
        run_state, seen = simulation.round(run_state, cohort=[1, 4, 5])
        assert set(np.flatnonzero(seen.metrics["loss"])) <= {1, 4, 5}


@pytest.mark.parametrize("cohort", [[-1], [-1, 2], [AGENTS]], ids=repr)
def test_a_cohort_is_of_agents_that_there_are(cohort):
    simulation = simulate(PLAIN, FLEET, **SMALL)
    with pytest.raises(ConfigError, match=r"cohort is .* Name those, or none of them"):
        simulation.round(simulation.init(0), cohort)


def test_neighbours_tell_how_long_the_steps_behind_their_messages_took():
    devices = clock(step_s=2.0)
    simulation = simulate(PLAIN, FLEET, topology=gossip(ring(), metropolis()), clock=devices, **SMALL)
    _, seen = simulation.round(simulation.init(SEED))
    assert seen.sums["work_s"] / seen.sums["arrived"] == 3 * 2.0


@pytest.mark.parametrize("schedule", [synchronous(), fed_buff(3), fed_async()], ids=repr)
def test_all_that_arrived_between_two_merges_is_counted(schedule):
    simulation = simulate(PLAIN, FLEET, scheduler=schedule, clock=clock(step_s=STEP_S), local_steps=STEPS, **SMALL)
    run_state = simulation.init(SEED)
    for _ in range(4):
        run_state, seen = simulation.round(run_state)
        assert seen.bytes_up == seen.clock_stats.arrived * UP == seen.uploads.size_bytes.sum()
        assert seen.messages_up == seen.clock_stats.arrived == seen.uploads.messages.sum()


def test_staleness_is_of_what_is_merged():
    """Under a budget of one update, the fresh one is merged and the late one is turned away."""
    first = UploadBudget(lambda rng, ids, left, state, told, sizes: ids > 0, 10_000, ("norm",))
    federation = federate(quadratic(sgd(RATE)), mean(), reports=["norm"])
    plan = Scheduler(synchronous(AGENTS - 1, stragglers="keep"), upload_budget=first)
    devices = clock(step_s=[1.5] + [1.0] * (AGENTS - 1))
    simulation = simulate(federation, FLEET, scheduler=plan, clock=devices, merges=1, **SMALL)
    run_state, most = simulation.init(SEED), []
    for _ in range(4):
        run_state, seen = simulation.round(run_state)
        most.append((int(seen.arrivals.staleness.max()), seen.clock_stats.staleness_max))
    assert (1, 0) in most


def test_a_round_without_a_quorum_is_abandoned():
    schedule = synchronous(quorum=AGENTS)
    simulation = simulate(PLAIN, FLEET, scheduler=schedule, clock=clock(drop_out=0.9), **SMALL)
    run_state, seen = simulation.round(simulation.init(0))
    assert seen.weight == 0.0
    assert 0 < seen.clock_stats.dropped + seen.clock_stats.arrived == AGENTS
    assert (seen.messages_up, seen.messages_down) == (seen.clock_stats.arrived, AGENTS)
    np.testing.assert_array_equal(flat(run_state.server.params), np.zeros(SIZE))


def residuals(run_state) -> np.ndarray:
    """What error feedback of every agent holds back; agents are seated in their order."""
    return np.concatenate([flat(block.stage_states[0][1]) for block in run_state.blocks])[:AGENTS]


@pytest.mark.parametrize("late", ["cancel", "keep"])
@pytest.mark.parametrize("deadline_s", [math.inf, 1.2])
def test_what_error_feedback_holds_back_outlives_a_round_without_a_quorum(late, deadline_s):
    federation = federate(quadratic(sgd(RATE)), mean(), error_feedback(top_k(0.4)), local_steps=3)
    schedule = synchronous(quorum=4, deadline_s=deadline_s, stragglers=late)
    devices = clock(step_s=STEP_S, drop_out=0.5)
    simulation = simulate(federation, FLEET, scheduler=schedule, clock=devices, local_steps=STEPS, **SMALL)
    run_state, came_to_nothing, merged = simulation.init(SEED), 0, 0
    for _ in range(30):
        before = residuals(run_state)
        run_state, seen = simulation.round(run_state)
        after = residuals(run_state)
        if seen.weight == 0.0:
            came_to_nothing += seen.clock_stats.arrived
            np.testing.assert_array_equal(after, before)
        else:
            merged += (after != before).any(1).sum()
    assert came_to_nothing > 10
    assert merged > 10


@pytest.mark.parametrize(
    ("federation", "schedule", "words"),
    [
        (federate(normalize(ppo(cartpole())), mean()), afedpg(), "moments"),
        (federate(quadratic(sgd(RATE)), mean(), payload="gradient"), fed_async(), "mixes the parameters"),
        (federate(quadratic(sgd(RATE)), mean(), lag()), fed_async(), r"an update withheld by lag\(.*\).*fed_buff"),
        (PLAIN, synchronous(AGENTS + 1), "waits for 8 updates"),
        (PLAIN, afedpg(0.5), r"server has no optimiser of its own.*normalized_momentum\(learning_rate, alpha=0.5\)"),
        (federate(quadratic(sgd(RATE)), mean(), server_optimizer=fedadam()), afedpg(0.5), r"server has fedadam\(\)"),
        (ALONG, afedpg(0.4), r"afedpg\(alpha=0.4\).*has normalized_momentum\(learning_rate=0.02\)"),
    ],
    ids=["moments", "gradients", "lag", "too many", "no momentum", "another optimiser", "another alpha"],
)
def test_refuses_what_would_not_do_what_it_promises(federation, schedule, words):
    fleet = (
        FLEET
        if federation.learner.environment.max_steps == 1
        else jax.tree.map(lambda x: np.asarray(x)[None], cartpole().params)
    )
    with pytest.raises((ConfigError, UnsoundError), match=words):
        simulate(federation, fleet, scheduler=schedule, clock=clock())


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: clock(drop_out=1.0), "drop_out is 1.0"),
        (lambda: clock(step_s=[1.0, -1.0]), "step_s is"),
        (lambda: clock(up_bytes_per_s=0.0), "up_bytes_per_s is 0.0"),
        (lambda: clock(availability_trace=[[0, 2.0, 1.0]]), "availability_trace has the row"),
        (lambda: clock(availability_trace=[[0, 1.0, 2.0]], online_s=3.0), "Leave one of them out"),
        (lambda: synchronous(2, quorum=3), "quorum is 3"),
        (lambda: synchronous(stragglers="never"), "stragglers is 'never'"),
        (lambda: fed_async(0.0), "mixing is 0.0"),
        (lambda: fed_buff(0), "buffer_size is 0"),
        (lambda: bounded_staleness(-1), "bound is -1"),
        (lambda: afedpg(1.5), "alpha is 1.5"),
        (lambda: simulate(PLAIN, FLEET, clock=clock(step_s=[1.0, 2.0])), "step_s has 2 entries"),
        (lambda: simulate(PLAIN, FLEET, clock=clock(availability_trace=[[9, 1.0, 2.0]])), "agent 9"),
    ],
)
def test_bad_clocks_are_named(build, words):
    with pytest.raises(ConfigError, match=words):
        build()


def test_chance_is_as_it_should_be_and_belongs_to_agent_and_count():
    ids, counts = np.repeat(np.arange(400), 50), np.tile(np.arange(50), 400)
    found = uniform(3, Purpose.DROP_OUT, ids, counts)
    assert np.unique(found).size == found.size
    assert found.mean() == pytest.approx(0.5, abs=0.01)
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.03
    np.testing.assert_array_equal(found[::-1], uniform(3, Purpose.DROP_OUT, ids[::-1], counts[::-1]))
    gauss = normal(3, Purpose.JITTER, ids, counts)
    assert (gauss.mean(), gauss.std()) == (pytest.approx(0.0, abs=0.03), pytest.approx(1.0, abs=0.03))
    assert exponential(3, Purpose.STAY, ids, counts).mean() == pytest.approx(1.0, abs=0.03)


def test_spreads_are_what_they_say():
    slow = stragglers(0.5, fraction=0.1, slowdown=20.0).values(1000, 0, 0)
    assert sorted(set(slow.tolist())) == [0.5, 10.0]
    assert (slow == 10.0).sum() == 100
    assert np.median(lognormal(2.0).values(5000, 0, 0)) == pytest.approx(2.0, rel=0.05)
    assert uniform_between(3.0, 4.0).values(100, 0, 0).min() >= 3.0


def test_who_learned_ahead_of_time_and_is_turned_away_remembers_what_it_did_before(monkeypatch):
    """Error feedback under a budget: agents with company in their blocks are those without, to the last bit."""
    federation = federate(quadratic(sgd(RATE)), mean(), error_feedback(top_k(0.4)), reports=["norm"])
    plan, devices = Scheduler(fed_buff(3), upload_budget=greedy(50)), clock(step_s=STEP_S, jitter=0.2)
    ends, early, fillers, keep = [], [], Blocks.fillers, TrainedAhead.keep
    monkeypatch.setattr(TrainedAhead, "keep", lambda self, ids, *rest: (early.extend(ids), keep(self, ids, *rest)))
    for chosen in (fillers, lambda self, agents, ids, due: ids[:0]):
        monkeypatch.setattr(Blocks, "fillers", chosen)
        simulation = simulate(federation, FLEET, scheduler=plan, clock=devices, merges=1, **SMALL)
        run_state, rejected = simulation.init(SEED), 0
        for _ in range(25):
            run_state, seen = simulation.round(run_state)
            rejected += 3 - len(seen.selected)
        assert rejected > 10
        ends.append(run_state.server)
    assert len(early) > 10
    jax.tree.map(np.testing.assert_array_equal, *ends)
