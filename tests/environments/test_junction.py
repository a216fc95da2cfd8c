"""A junction: its geometry, who collides in it, whose turn it is, and that nobody collides behind the shield."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.core.errors import ConfigError
from fedrl.core.measures import value_of
from fedrl.core.players import alive_after
from fedrl.environments import climbing, common_world, fleet, junction
from fedrl.environments.traffic import junction_routes
from fedrl.environments.traffic.junction_arrivals import BUSIEST, arrived
from fedrl.environments.traffic.junction_conflicts import Vehicles, collided, granted
from fedrl.environments.traffic.junction_driving import changed_lanes, neighbours
from fedrl.environments.traffic.junction_measures import MEASURES
from fedrl.environments.traffic.junction_routes import (
    ARMS,
    CLEARANCE,
    LEFT,
    RIGHT,
    STRAIGHT,
    half_width,
    path,
    routes,
    whereabouts,
)
from fedrl.environments.traffic.junction_shield import safe_speed, stopping_distance
from fedrl.learners import ppo, reinforce

WIDTH = 1.8
"""Of a passenger car, in m."""


class TestRoutes:
    def test_lengths_and_exits_are_those_of_the_drawing(self):
        table = routes(1)  # the stop line is 3.2 + 4 m from the centre, lanes are 1.6 m beside it
        np.testing.assert_allclose(table.length[:3], [np.pi / 2 * 8.8, 14.4, np.pi / 2 * 5.6], rtol=1e-6)
        assert table.exit[:3].tolist() == [3, 2, 1]
        end = {direction: path(1, 0, 0, direction)[-1] for direction in (LEFT, STRAIGHT, RIGHT)}
        np.testing.assert_allclose(end[LEFT], [-7.2, 1.6], atol=1e-9)
        np.testing.assert_allclose(end[STRAIGHT], [1.6, 7.2], atol=1e-9)
        np.testing.assert_allclose(end[RIGHT], [7.2, -1.6], atol=1e-9)

    @pytest.mark.parametrize("lanes", [1, 2])
    def test_ways_to_one_exit_end_at_one_point_and_share_their_ends(self, lanes):
        table = routes(lanes)
        for r in range(table.total):
            for q in range(table.total):
                mine, other = (np.array(whereabouts(lanes, way, float(table.length[way]))) for way in (r, q))
                assert (np.abs(mine - other).max() < 1e-6) == (table.exit[r] == table.exit[q])
                if table.exit[r] == table.exit[q] and r != q:
                    assert table.leave[r, q] == pytest.approx(table.length[r], abs=1e-4)

    def test_known_pairs_conflict_and_others_do_not(self):
        conflict = routes(
            1
        ).conflict  # route 3 arm + direction; arm 1 comes from the right, arm 2 towards, 3 from the left
        for meets, mine, other in [
            (True, STRAIGHT, 3 + STRAIGHT),
            (True, LEFT, 6 + STRAIGHT),
            (False, STRAIGHT, 6 + STRAIGHT),
            (False, LEFT, 6 + LEFT),
            (False, RIGHT, 6 + RIGHT),
            (True, RIGHT, 9 + STRAIGHT),
            (False, RIGHT, 3 + STRAIGHT),
        ]:
            assert conflict[mine, other] == meets
        assert (conflict == conflict.T).all()

    @pytest.mark.parametrize("lanes", [1, 2])
    def test_bodies_that_touch_are_in_a_common_zone(self, lanes):
        """Rectangles of cars that are bent along their ways, at random places; of routes from different arms."""
        table, rng = routes(lanes), np.random.default_rng(0)
        touching = 0
        for r, q in zip(*np.triu_indices(table.total, 1), strict=True):
            if table.lane[r] // lanes == table.lane[q] // lanes:
                continue
            fronts = rng.uniform(0.0, 1.0, (12, 2)) * (table.length[[r, q]] + 4.5)
            for front in fronts:
                mine, other = (body(lanes, way, at) for way, at in zip((r, q), front, strict=True))
                if np.square(mine[:, None] - other).sum(2).min() > 0.15**2:
                    continue
                touching += 1
                assert table.conflict[r, q], (r, q, front)
                for way, against, at in ((r, q, front[0]), (q, r, front[1])):
                    assert table.entry[way, against] < at < table.leave[way, against] + 5.0, (r, q, front)
        assert touching > 50

    def test_other_numbers_of_lanes_and_short_approaches_are_refused(self):
        with pytest.raises(ConfigError, match="lanes is 3"):
            junction(lanes=3)
        with pytest.raises(ConfigError, match="approach_m is 30"):
            junction(approach_m=30.0)


def body(lanes, route, front, length=5.0):
    """Points within a car, 0.2 m apart."""
    along = np.arange(front - length, front, 0.25)
    centre = np.array([whereabouts(lanes, int(route), float(at)) for at in along])
    ahead = np.gradient(centre, axis=0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    beside = np.stack([-ahead[:, 1], ahead[:, 0]], 1)
    return np.concatenate([centre + offset * beside for offset in np.linspace(-WIDTH / 2, WIDTH / 2, 9)])


class TestShieldSpeeds:
    @pytest.mark.parametrize(("braking", "dt"), [(7.0, 0.5), (9.0, 0.5), (4.5, 0.1)])
    def test_the_way_to_stop_is_that_of_braking_step_by_step(self, braking, dt):
        speeds = np.linspace(0.0, 25.0, 101)
        ways = [stopped_after(speed, braking, dt) for speed in speeds]
        np.testing.assert_allclose(stopping_distance(jnp.float32(speeds), braking, dt), ways, atol=1e-4)

    def test_the_safe_speed_is_the_largest_one(self):
        room, braking, dt = np.linspace(0.05, 80.0, 200), 7.0, 0.5
        speed = np.asarray(safe_speed(jnp.float32(room), braking, dt), float)
        for chosen, left in zip(speed, room, strict=True):
            assert chosen * dt + stopped_after(chosen, braking, dt) <= left + 1e-3
            faster = chosen + 0.01
            assert faster * dt + stopped_after(faster, braking, dt) > left
        assert safe_speed(jnp.float32(-1.0), braking, dt) == 0.0


def stopped_after(speed, braking, dt):
    way = 0.0
    while speed > 0.0:
        speed = max(0.0, speed - braking * dt)
        way += speed * dt
    return way


def crowd(rng, slots, lanes, spread=25.0):
    """Vehicles at random places near the square, whose rights and speeds are random, too."""
    table = routes(lanes)
    truck = rng.random(slots) < 0.3
    number = {name: jnp.asarray(x) for name, x in {"route": rng.integers(0, table.total, slots)}.items()}
    return Vehicles(
        there=jnp.asarray(rng.random(slots) < 0.8),
        position=jnp.float32(rng.uniform(-spread, spread, slots)),
        speed=jnp.float32(rng.uniform(0.0, 12.0, slots)),
        route=number["route"].astype(jnp.int32),
        wanted=jnp.asarray(rng.integers(0, 3, slots), jnp.int32),
        granted=jnp.asarray(rng.random(slots) < 0.3),
        asked=jnp.full(slots, jnp.inf),
        truck=jnp.asarray(truck),
        learns=jnp.asarray(rng.random(slots) < 0.5),
        length=jnp.float32(np.where(truck, 7.1, 5.0)),
    )


def numbers(vehicles):
    return Vehicles(*(np.asarray(x) for x in vehicles))


def pairs_that_meet(table, v):
    """Who shares a zone with somebody, by a loop over pairs."""
    found = np.zeros(len(v.there), bool)
    for i in np.flatnonzero(v.there):
        for j in np.flatnonzero(v.there):
            r, q = v.route[i], v.route[j]
            mine = table.entry[r, q] < v.position[i] and v.position[i] - v.length[i] < table.leave[r, q]
            other = table.entry[q, r] < v.position[j] and v.position[j] - v.length[j] < table.leave[q, r]
            found[i] |= bool(i != j and table.conflict[r, q] and mine and other)
    return found


def nearest_ahead(table, v, i):
    """The least gap to a vehicle ahead, in m, and its slot, by a loop."""
    best = np.inf, -1
    for j in np.flatnonzero(v.there):
        rear, beyond = v.position[j] - v.length[j], [v.position[k] - table.length[v.route[k]] for k in (i, j)]
        same = table.lane[v.route[i]] == table.lane[v.route[j]]
        if same and v.position[j] > v.position[i] and (v.route[i] == v.route[j] or rear < table.apart):
            best = min(best, (rear - v.position[i], j))
        if table.exit[v.route[i]] == table.exit[v.route[j]] and beyond[1] > max(0.0, beyond[0]):
            best = min(best, (beyond[1] - v.length[j] - beyond[0], j))
    return best


@pytest.mark.parametrize("lanes", [1, 2])
def test_collisions_and_vehicles_ahead_are_those_of_a_loop_over_pairs(lanes):
    table, rng = routes(lanes), np.random.default_rng(lanes)
    met = 0
    for _ in range(8):
        vehicles = crowd(rng, 16, lanes, spread=15.0)
        v = numbers(vehicles)
        expected = pairs_that_meet(table, v)
        np.testing.assert_array_equal(np.asarray(collided(table, vehicles)), expected)
        met += expected.sum()
        ahead = neighbours(table, vehicles, 0.5)
        for i in np.flatnonzero(v.there):
            gap, leader = nearest_ahead(table, v, i)
            assert ahead.gap[i] == pytest.approx(gap, abs=1e-4)
            assert ahead.leader[i] == leader
            assert ahead.leader_speed[i] == (v.speed[leader] if leader >= 0 else 0.0)
    assert met > 5


@pytest.mark.parametrize("lanes", [1, 2])
def test_the_right_to_enter_goes_to_nobody_whose_way_is_taken(lanes):
    table, rng = routes(lanes), np.random.default_rng(10 + lanes)
    given = 0
    for now in range(10):
        before = crowd(rng, 5, lanes, spread=20.0)
        after = numbers(granted(table, before, jnp.ones(5, bool), jnp.int32(now)))
        v = numbers(before)
        new = np.flatnonzero(after.granted & ~v.granted)
        given += len(new)
        assert (v.there[new] & (v.position[new] <= 0.0)).all()
        holders = np.flatnonzero(v.there & (after.granted | (v.position > 0.0)))
        for i in new:
            for j in holders:
                r, q = v.route[i], v.route[j]
                if table.conflict[r, q]:
                    assert v.position[j] - v.length[j] >= table.leave[q, r]
    assert given > 5


def test_who_asked_first_is_first():
    table = routes(1)
    straight = [3 * arm + STRAIGHT for arm in (0, 1)]
    waiting = Vehicles(
        *(jnp.ones(2, bool), jnp.full(2, -1.0), jnp.zeros(2), jnp.array(straight), jnp.full(2, STRAIGHT)),
        *(jnp.zeros(2, bool), jnp.full(2, jnp.inf), jnp.zeros(2, bool), jnp.ones(2, bool), jnp.full(2, 5.0)),
    )
    for asked, first in (([3.0, 2.0], 1), ([2.0, 3.0], 0), ([jnp.inf, jnp.inf], 0)):
        after = granted(table, waiting._replace(asked=jnp.array(asked)), jnp.ones(2, bool), jnp.int32(4))
        assert np.flatnonzero(after.granted).tolist() == [first]


def test_arrivals_are_poisson():
    uniform = jnp.linspace(0.0, 1.0, 20_000, endpoint=False)
    for rate in (100.0, 500.0, 1500.0):
        count, mean = np.asarray(arrived(uniform, rate, 0.5)), rate / 7200.0
        assert count.mean() == pytest.approx(mean, abs=2e-4)
        assert (count**2).mean() - count.mean() ** 2 == pytest.approx(mean, abs=1e-3)


def test_more_vehicles_than_a_step_has_room_for_are_refused():
    # Of a Poisson process at the bound, what a step leaves out is less than a half in a thousand.
    count = np.asarray(arrived(jnp.linspace(0.0, 1.0, 200_000, endpoint=False), BUSIEST, 0.5))
    assert count.mean() == pytest.approx(BUSIEST / 7200.0, rel=5e-4)
    with pytest.raises(ConfigError, match="arrivals is 10000"):
        fleet(junction(4), 1, {"arrivals": 10_000.0})


@functools.cache
def program(lanes, shield, slots, steps):
    """Play with random actions: `(key, params) -> (timesteps, vehicles, queues)` of every step."""
    world = junction(vehicles=slots, lanes=lanes, shield=shield, approach_m=80.0, exit_m=30.0, max_steps=steps)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, 0), out_axes=-1)
    def play(key, params):
        for_reset, for_step, for_push, for_bias = jax.random.split(key, 4)
        _, state = world.reset(world.draw_reset(for_reset, ()), params)
        noise = world.draw_step(for_step, (steps,)).T
        # Each vehicle pushes more or less: all at random would be nearly still.
        bias = jax.random.uniform(for_bias, (slots,), minval=-2.0, maxval=2.6)
        push = bias + 3.0 * jax.random.normal(for_push, (steps, slots))
        turn = jax.random.randint(jax.random.fold_in(for_push, 1), (steps, slots), 0, 3)

        def step(state, given):
            noise, push, turn = given
            action = jnp.stack([push, turn.astype(jnp.float32)])[:lanes]
            timestep, state = world.step(noise, params, state, action)
            return state, (timestep, state.state.vehicles, state.state.queue.waiting)

        return jax.lax.scan(step, state, (noise, push, turn))[1]

    return world, play


def played(lanes, shield, settings, seeds=4, slots=16, steps=200):
    """Of `seeds` copies: `(world, timesteps, vehicles, waiting)`, with the copies on the last axis."""
    world, play = program(lanes, shield, slots, steps)
    params = fleet(world, seeds, settings, jax.random.key(1))
    return world, *jax.device_get(play(jax.vmap(jax.random.key)(jnp.arange(seeds)), params))


DEMANDS = {"arrivals": [200.0, 500.0, 900.0, 1500.0], "trucks": 0.3, "learning": [1.0, 1.0, 0.5, 1.0]}


@pytest.mark.parametrize("lanes", [1, 2])
def test_behind_the_shield_nobody_collides_whatever_is_done(lanes):
    """By the world's own detector, and by the bodies of all vehicles."""
    _, timestep, vehicles, _ = played(lanes, True, DEMANDS)
    assert timestep.measures["crashed"].sum() == 0.0
    assert timestep.measures["served"].sum() > 20
    assert timestep.measures["intervened"].sum() > 100
    assert vehicles.granted.any()
    apart = least_distance(lanes, vehicles)
    print(f"\n{lanes} lanes: least distance {apart:.2f} m")
    assert apart > 0.3


def least_distance(lanes, vehicles, every=3):
    """The least distance of two vehicles, as chains of discs as wide as a car, in m."""
    least = np.inf
    for time in range(0, vehicles.there.shape[0], every):
        for copy in range(vehicles.there.shape[-1]):
            v = Vehicles(*(x[time, ..., copy] for x in vehicles))
            near = np.flatnonzero(v.there & (np.abs(v.position) < 40.0))
            discs = [
                np.array([whereabouts(lanes, int(v.route[i]), float(v.position[i] - at)) for at in spots(v.length[i])])
                for i in near
            ]
            for i in range(len(near)):
                for j in range(i):
                    distance = np.sqrt(np.square(discs[i][:, None] - discs[j]).sum(2)).min()
                    least = min(least, distance - WIDTH)
    return least


def spots(length):
    """The centres of discs in a body, behind its front."""
    return np.linspace(WIDTH / 2, length - WIDTH / 2, 6)


@pytest.mark.parametrize("lanes", [1, 2])
def test_every_vehicle_is_served_has_collided_is_inside_or_outside(lanes):
    for shield in (True, False):
        _, timestep, vehicles, waiting = played(lanes, shield, DEMANDS)
        arrived, entered, served, crashed = (
            timestep.measures[name].cumsum(0) for name in ("demand", "entered", "served", "crashed")
        )
        inside = vehicles.there.sum(1)
        np.testing.assert_allclose(arrived, entered + waiting.sum(1))
        np.testing.assert_allclose(entered, served + crashed + inside)
        assert arrived[-1].min() > 10


@pytest.mark.parametrize("lanes", [1, 2])
def test_without_the_shield_random_vehicles_collide_and_pay_for_it(lanes):
    _, timestep, vehicles, waiting = played(lanes, False, DEMANDS)
    measures = timestep.measures
    assert (measures["crashed"].sum(0) >= 2.0).all()
    assert measures["intervened"].sum() == 0.0
    terms = sum(measures[name] for name in ("time_cost", "fuel_cost", "collision_cost"))
    np.testing.assert_allclose(-timestep.reward.mean(1), terms, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(measures["collision_cost"] * 16, 10.0 * measures["crashed"], rtol=1e-4)
    # A second of everybody who is inside or outside costs the same.
    count = vehicles.there.sum(1) + waiting.sum(1)
    busy = vehicles.there.any(1)
    np.testing.assert_allclose(
        (measures["time_cost"] * 16 / 0.05)[1:][busy[:-1]], (0.5 * count)[:-1][busy[:-1]], rtol=1e-4
    )


def test_a_slot_is_alive_while_a_vehicle_that_learns_is_in_it_and_empty_between_two():
    _, timestep, vehicles, _ = played(1, True, DEMANDS)
    np.testing.assert_array_equal(timestep.alive, vehicles.there & vehicles.learns)
    lives = (timestep.alive[1:] & ~timestep.alive[:-1]).sum(0)
    assert lives.max() > 1  # slots are taken again
    gone = (vehicles.there[:-1]) & (vehicles.position[1:] < vehicles.position[:-1]) & vehicles.there[1:]
    assert not gone.any()
    np.testing.assert_array_equal(timestep.observation[:, :, ~vehicles.there.any((0, 2))], 0.0)


def test_the_background_alone_lets_a_stream_pass_without_a_collision():
    """Also without the shield, as nobody who learns is there; on free roads a trip takes as long as it should."""
    quiet = {"arrivals": [20.0, 20.0, 300.0, 300.0], "learning": 0.0, "left": 0.0, "right": 0.0}
    _, timestep, _, _ = played(1, False, quiet, steps=200)
    sums = {name: x.sum(0) for name, x in timestep.measures.items()}
    assert sums["crashed"].sum() == 0.0
    assert (sums["served"] > 0).all()
    both = {name: x[2:].sum() for name, x in sums.items()} | {"episodes": 2.0}
    assert value_of("throughput", MEASURES["throughput"], both) > 700.0  # of 1,200 that arrive, in the first 100 s
    assert 10.0 < value_of("travel_time", MEASURES["travel_time"], both) < 40.0  # 125 m in 10 s or so
    assert 4.0 < value_of("consumption", MEASURES["consumption"], both) < 25.0


def test_only_places_are_taken_again():
    before, now = jnp.array([True, False]), jnp.array([False, True])
    assert alive_after(junction(), before, now).tolist() == [False, True]
    assert alive_after(climbing(), before, now).tolist() == [False, False]


@pytest.mark.parametrize("build", [reinforce, lambda world: ppo(world, trajectory_clip=1.0)])
@pytest.mark.parametrize("around", [lambda world: world, common_world])
def test_learners_from_whole_episodes_are_refused_where_places_are_taken_again(build, around):
    with pytest.raises(ConfigError, match="counts until its first death"):
        build(around(junction(4)))


def test_a_change_of_lane_needs_room_behind_the_shield():
    table = routes(2)
    right, left = 1, 2  # straight on, in the right and in the left lane of arm 0
    for other, free in ((-100.0, False), (-103.0, False), (-97.0, False), (-140.0, True), (-80.5, True)):
        vehicles = Vehicles(
            *(jnp.ones(2, bool), jnp.array([-100.0, other]), jnp.full(2, 10.0), jnp.array([right, left])),
            *(jnp.full(2, STRAIGHT), jnp.zeros(2, bool), jnp.full(2, jnp.inf), jnp.zeros(2, bool)),
            *(jnp.ones(2, bool), jnp.full(2, 5.0)),
        )
        choice = jnp.array([1, 0])  # to the left
        after, refused = changed_lanes(table, vehicles, choice, True, 0.5)
        assert (after.route[0] == left) == free
        assert refused[0] != free
        after, _ = changed_lanes(table, vehicles, choice, False, 0.5)
        assert after.route[0] == left
        over = neighbours(table, after, 0.5).gap.min() < 0.0
        assert over == (abs(other + 100.0) < 5.0)
    near_line = vehicles._replace(position=jnp.array([-50.0, -150.0]))
    assert changed_lanes(table, near_line, choice, True, 0.5)[0].route[0] == right


def test_a_picture_shows_vehicles_where_they_are():
    world = junction(vehicles=2)
    _, state = world.reset(jnp.zeros(16), world.params)
    there = state.state.vehicles._replace(
        there=jnp.array([True, False]),
        position=jnp.array([-10.0, 0.0]),
        route=jnp.array([STRAIGHT, 0]),
        learns=jnp.ones(2, bool),
        granted=jnp.ones(2, bool),
    )
    image = np.asarray(world.picture.frame(state._replace(state=state.state._replace(vehicles=there)), world.params))
    blue = np.argwhere((np.abs(image.astype(int) - (70, 110, 160)).sum(-1)) < 12)
    x, y = whereabouts(1, STRAIGHT, -12.5)
    middle = blue.mean(0)[::-1] / image.shape[0] * 120.0 - 60.0
    np.testing.assert_allclose(middle * (1, -1), (x, y), atol=0.6)


def test_constants_fit_together():
    assert CLEARANCE > WIDTH
    for lanes in (1, 2):
        table = routes(lanes)
        assert table.entry.min() > 0.5  # nobody who waits at a stop line is in a zone
        assert 0.0 < table.apart < table.length.max()
        assert len(table.lane) == ARMS * len(junction_routes.BY_LANE[lanes])
        assert half_width(lanes) == 4.0 + 3.2 * lanes
