"""Vehicles keep their distance, burn what the formula says and change lanes only where it is safe.

tests/with_traffic compares them with SUMO.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.environments.traffic.car_following import (
    PASSENGER,
    TRUCK,
    VehicleType,
    desired_gap,
    follow,
    idm_acceleration,
    idm_speed,
    leaders,
)
from fedrl.environments.traffic.flow import pass_through, poisson_times
from fedrl.environments.traffic.fuel import coasting_acceleration, fuel_rate
from fedrl.environments.traffic.lane_change import LaneChange, around
from fedrl.environments.traffic.lane_change import lane_changes as changed_lanes

lane_changes = jax.jit(changed_lanes, static_argnums=(5, 6))
found_leaders, found_around = jax.jit(leaders), jax.jit(around)


def scattered(seed, cars=12, lanes=3):
    generator = np.random.default_rng(seed)
    lane = generator.integers(-1, lanes, cars)
    return lane, (generator.permutation(5 * cars)[:cars] * 7.0).astype(np.float32)


@pytest.mark.parametrize("seed", range(10))
def test_sorting_finds_the_cars_that_comparing_all_pairs_finds(seed):
    lane, position = scattered(seed)
    ahead = found_leaders(jnp.asarray(lane), jnp.asarray(position))
    found = found_around(jnp.asarray(lane), jnp.asarray(position), jnp.asarray(lane + 1))
    for i, (own, place) in enumerate(zip(lane, position, strict=True)):
        front = [j for j in np.flatnonzero(lane == own) if position[j] > place]
        before = [j for j in np.flatnonzero(lane == own + 1) if position[j] >= place]
        behind = [j for j in np.flatnonzero(lane == own + 1) if position[j] < place]
        assert ahead[i] == min(front, key=lambda j: position[j], default=-1)
        assert found.ahead[i] == min(before, key=lambda j: position[j], default=-1)
        assert found.behind[i] == max(behind, key=lambda j: position[j], default=-1)


def test_nobody_accelerates_at_the_gap_of_equilibrium_and_everybody_at_a_wider_one():
    speed = jnp.array([1.0, 5.0, 10.0, 13.0])
    gap = desired_gap(PASSENGER, speed, speed) / jnp.sqrt(1.0 - (speed / PASSENGER.desired_speed) ** 4)
    np.testing.assert_allclose(idm_acceleration(PASSENGER, speed, speed, gap), 0.0, atol=1e-5)
    assert (idm_acceleration(PASSENGER, speed, speed, 1.1 * gap) > 0.05).all()
    assert (idm_acceleration(PASSENGER, speed, speed, 0.9 * gap) < -0.05).all()


def test_inner_steps_are_as_many_as_in_sumo_and_braking_has_a_bound():
    """With one inner step a speed is a line in dt; from 0.375 s on there are two."""
    start = float(idm_acceleration(PASSENGER, 10.0, 10.0, 30.0))
    assert idm_speed(PASSENGER, 10.0, 10.0, 30.0, dt=0.37) == pytest.approx(10.0 + 0.37 * start, abs=1e-6)
    assert abs(idm_speed(PASSENGER, 10.0, 10.0, 30.0, dt=0.38) - (10.0 + 0.38 * start)) > 1e-3
    assert idm_speed(PASSENGER, 20.0, 0.0, 1.0, dt=0.1) == pytest.approx(20.0 - 0.9)


@pytest.mark.parametrize("dt", [0.1, 1.0])
def test_nobody_hits_a_leader_that_stops(dt):
    """Cars and trucks in turn, behind a leader that brakes as hard as is comfortable and starts again."""
    trucks = jnp.arange(12) % 2 == 0
    drivers = jax.tree.map(lambda car, truck: jnp.where(trucks, truck, car), PASSENGER, TRUCK)
    ahead = jnp.arange(12) - 1

    def step(cars, time):
        position, speed = follow(drivers, *cars, ahead, dt)
        wish = jnp.where((time > 20.0) & (time < 50.0), speed[0] * 0, 13.0)
        leader = jnp.clip(wish, jnp.maximum(cars[1][0] - 4.5 * dt, 0.0), cars[1][0] + 2.6 * dt)
        cars = position.at[0].set(cars[0][0] + leader * dt), speed.at[0].set(leader)
        return cars, (cars[0][:-1] - drivers.length[:-1] - cars[0][1:], cars[1])

    begin = 500.0 - 40.0 * jnp.arange(12), jnp.full(12, 10.0)
    _, (gap, speed) = jax.lax.scan(step, begin, jnp.arange(0.0, 100.0, dt))
    assert gap.min() > 1.0
    assert (speed[int(49 / dt)] < 1.0).sum() >= 10  # they have stopped
    assert speed.min() >= 0.0
    assert speed[-1].min() > 8.0


def test_fuel_is_that_of_the_formula_and_none_while_coasting():
    assert fuel_rate(10.0, 0.0) == pytest.approx(837.222 - 413.889 + 250.389, abs=1e-2)
    assert fuel_rate(10.0, 1.0) == pytest.approx(837.222 - 413.889 + 250.389 + 831.389, abs=1e-2)
    speed = jnp.array([1.0, 5.0, 13.9, 30.0])
    limit = coasting_acceleration(speed)
    assert (fuel_rate(speed, limit + 0.001) > 200.0).all()
    assert not fuel_rate(speed, limit - 0.001).any()
    assert fuel_rate(0.3, -2.0) > 500.0  # an engine idles at standstill
    assert fuel_rate(0.5, -20.0) == 0.0  # and makes no fuel


def test_arrivals_are_as_many_as_asked_for_and_independent():
    times = poisson_times(jax.random.uniform(jax.random.key(0), (20_000,)), 500.0)
    apart = np.diff(times)
    assert apart.mean() == pytest.approx(7.2, rel=0.03)
    assert apart.std() == pytest.approx(7.2, rel=0.03)


def test_cars_pass_in_order_and_wait_outside_while_the_lane_is_full():
    slow = VehicleType(desired_speed=5.0)
    trips = pass_through(slow, jnp.zeros(20), 100.0, 5.0, dt=0.1, steps=900)
    assert trips.entered[0] == 0.0
    assert (np.diff(trips.entered) > 1.0 + 2.5 / 5.0).all()  # a time gap, and the way to the gap of a queue
    assert (np.diff(trips.left) > 1.0).all()
    np.testing.assert_allclose(trips.left[0], 20.0, atol=0.2)
    short = pass_through(slow, jnp.zeros(20), 100.0, 5.0, dt=0.1, steps=150)
    assert not np.isfinite(short.left).any()
    assert np.isfinite(short.entered).sum() == np.count_nonzero(trips.entered < 15.0)
    assert (short.fuel > 0.0).sum() == np.isfinite(short.entered).sum()


CARS = jnp.array([0, 0, 1]), jnp.array([100.0, 80.0, 20.0]), jnp.array([5.0, 13.0, 13.0])
"""A slow car, a fast one close behind it, and one on the left that is far behind."""


def test_a_driver_overtakes_a_slow_car_if_the_lane_beside_is_free():
    lane, position, speed = CARS
    egoist = LaneChange(politeness=0.0)
    assert lane_changes(egoist, PASSENGER, lane, position, speed, 2, +1).tolist() == [0, 1, 1]
    assert lane_changes(egoist, PASSENGER, lane, position, speed, 1, +1).tolist() == [0, 0, 1]  # no such lane
    reluctant = LaneChange(politeness=0.0, least_gain=30.0)
    assert lane_changes(reluctant, PASSENGER, lane, position, speed, 2, +1).tolist() == [0, 0, 1]
    assert lane_changes(LaneChange(), PASSENGER, lane, position, speed, 2, +1)[0] == 1  # the slow car makes way


def test_nobody_cuts_in_or_moves_into_a_car():
    lane, position, speed = CARS
    egoist, fast = LaneChange(politeness=0.0), speed.at[2].set(30.0)
    drivers = PASSENGER._replace(desired_speed=jnp.array([13.89, 13.89, 33.0]))
    for beside, moves in ((-300.0, True), (60.0, False), (74.9, False), (78.0, False), (84.0, False)):
        assert lane_changes(egoist, drivers, lane, position.at[2].set(beside), fast, 2, +1)[1] == moves
    # Whoever has just hit a car gains by any change, also by one into a faster car.
    hit = jnp.array([100.0, 95.5, 98.0]), jnp.array([0.0, 13.0, 30.0])
    assert lane_changes(egoist, PASSENGER, lane, *hit, 2, +1)[1] == 0


def test_politeness_is_what_keeps_a_driver_from_slowing_another():
    lane, position, speed = CARS
    close = position.at[2].set(62.0)
    changed = [
        lane_changes(LaneChange(politeness), PASSENGER, lane, close, speed, 2, +1)[1].item()
        for politeness in (0.0, 9.0)
    ]
    assert changed == [1, 0]


def test_bias_keeps_cars_on_one_side():
    alone = jnp.array([1]), jnp.array([50.0]), jnp.array([10.0])
    assert lane_changes(LaneChange(), PASSENGER, *alone, 2, -1).tolist() == [1]
    assert lane_changes(LaneChange(bias=0.3), PASSENGER, *alone, 2, -1).tolist() == [0]
    assert lane_changes(LaneChange(bias=0.3), PASSENGER, *alone, 2, +1).tolist() == [1]


def test_cars_of_three_lanes_change_gain_by_it_and_never_touch():
    cars = 18
    lane = jnp.arange(cars) % 3
    position = 25.0 * (cars // 3 - jnp.arange(cars) // 3).astype(jnp.float32)
    wish = jax.random.uniform(jax.random.key(0), (cars,), minval=6.0, maxval=16.0)
    drivers = jax.tree.map(lambda number: jnp.full(cars, number), PASSENGER)._replace(desired_speed=wish)

    @jax.jit
    @jax.vmap
    def drive(least_gain):
        def step(state, number):
            lane, position, speed = state
            rule = LaneChange(least_gain=least_gain)
            changed = changed_lanes(rule, drivers, lane, position, speed, 3, 1 - 2 * (number % 2))
            position, speed = follow(drivers, position, speed, leaders(changed, position), 0.1)
            apart = position[:, None] - drivers.length[:, None] - position  # a car's rear less another one's front
            beside = (changed[:, None] == changed) & ~jnp.eye(cars, dtype=bool) & (position[:, None] >= position)
            return (changed, position, speed), (jnp.where(beside, apart, jnp.inf).min(), (changed != lane).sum())

        begin = lane, position, jnp.full(cars, 8.0)
        (_, _, speed), (gap, changes) = jax.lax.scan(step, begin, jnp.arange(400))
        return speed, gap.min(), changes.sum()

    speed, gap, changes = drive(jnp.array([0.1, 1e9]))
    assert changes[0] >= 10
    assert changes[1] == 0
    assert (gap > 0.5).all()
    assert (speed[0] / wish).mean() > (speed[1] / wish).mean() + 0.05
