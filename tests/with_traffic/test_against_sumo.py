"""Our vehicles beside SUMO's. `make test-traffic` runs these, with SUMO in an environment of its own.

With -s they print the figures of docs/traffic.md.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.environments.traffic import car_following
from fedrl.environments.traffic.car_following import PASSENGER, follow
from fedrl.environments.traffic.flow import pass_through, poisson_times
from fedrl.environments.traffic.fuel import coasting_acceleration, fuel_rate
from tests.with_traffic import simulator

LIMIT = 16.67
CARS = 11
DRIVER = PASSENGER._replace(desired_speed=LIMIT)


def leader_speeds(dt: float, steps: int) -> np.ndarray:
    """Speeds of a leader that goes 4 km in 300 s, in waves and with a stop, within what its engine and brakes allow."""
    time = np.arange(steps) * dt
    wish = 14.2 + 2.0 * np.sin(time / 9.0) + np.where((time > 120.0) & (time < 130.0), -30.0, 0.0)
    speeds = [10.0]
    for speed in np.clip(wish, 0.0, LIMIT):
        speeds.append(speeds[-1] + np.clip(speed - speeds[-1], -4.5 * dt, 2.6 * dt))
    return np.array(speeds[1:])


@pytest.fixture(scope="module", params=[0.1, 1.0], ids=lambda dt: f"dt={dt}")
def platoon(request, tmp_path_factory):
    """Eleven cars behind each other for 300 s, as SUMO moves them."""
    dt, folder = request.param, tmp_path_factory.mktemp("platoon")
    simulator.made_road(folder, 6000.0, LIMIT)
    names = [f"car{i}" for i in range(CARS)]
    departures = "".join(
        f'<vehicle id="{name}" type="car" route="all" depart="0" departPos="{300 - 25 * i}" departSpeed="10"/>'
        for i, name in enumerate(names)
    )
    steps = round(300 / dt)
    leader = leader_speeds(dt, steps)
    routes = f'{simulator.vehicle_type()}<route id="all" edges="road0"/>{departures}'
    scenario = {"routes": routes, "dt": dt, "steps": steps, "cars": names, "leader": leader.tolist()}
    return dt, leader, simulator.simulated(folder, scenario)


def driven(dt: float, leader: np.ndarray, theirs: simulator.Traces, dtype: type) -> tuple[float, float]:
    """How far our followers are from SUMO's, at most, in m and m/s."""
    ahead = jnp.arange(CARS) - 1

    @jax.jit
    def drive(position, speed, leader):
        def step(cars, pace):
            position, speed = follow(DRIVER, *cars, ahead, dt)
            cars = position.at[0].set(cars[0][0] + pace * dt), speed.at[0].set(pace)
            return cars, cars

        return jax.lax.scan(step, (position, speed), leader)[1]

    given = (jnp.asarray(x, dtype) for x in (theirs.position[0], theirs.speed[0], leader[1:]))
    position, speed = drive(*given)
    assert position.dtype == dtype
    return tuple(
        float(np.abs(np.asarray(ours) - its[1:])[:, 1:].max())
        for ours, its in ((position, theirs.position), (speed, theirs.speed))
    )


def test_followers_are_where_sumo_has_them(platoon):
    dt, leader, theirs = platoon
    gone = (theirs.position[-1] - theirs.position[0])[1:]
    assert (gone > 3900.0).all()
    assert theirs.speed[:, 1:].min() < 1.0  # they had to stop
    metres, pace = driven(dt, leader, theirs, np.float32)
    print(f"\nplatoon, dt {dt} s: position {metres:.4f} m, speed {pace:.5f} m/s, after {gone.min():.0f} m or more")
    assert metres <= 0.05
    assert pace <= 0.01
    with jax.enable_x64(True):
        metres, pace = driven(dt, leader, theirs, np.float64)
    print(f"in float64: position {metres:.1e} m, speed {pace:.1e} m/s")
    assert metres <= 1e-9


def test_fuel_on_the_way_is_that_of_sumo(platoon):
    """Speeds and accelerations as driven; the emission class has the same coasting in a simulation as in its table."""
    _, _, theirs = platoon
    ours = np.asarray(fuel_rate(jnp.float32(theirs.speed), jnp.float32(theirs.acceleration)))
    limit = np.asarray(coasting_acceleration(jnp.float32(theirs.speed)))
    far = np.abs(theirs.acceleration - limit) > 0.02
    off = np.abs(ours - theirs.fuel)
    print(f"\nfuel on the way: {off[far].max():.5f} mg/s, {off.max():.5f} with those close to coasting")
    assert far.mean() > 0.8
    assert (theirs.fuel[far] == 0.0).mean() > 0.01
    assert off[far].max() <= 0.01


def test_fuel_is_that_of_sumos_table(tmp_path):
    """At speeds up to 30 m/s and accelerations up to 2.6 m/s2, where six digits are more than the bound asks for."""
    grid = np.meshgrid(np.arange(0.0, 30.1, 0.25), np.linspace(-5.0, 2.6, 96))
    speed, acceleration = (axis.ravel() for axis in grid)
    theirs = simulator.emitted(tmp_path, speed, acceleration)
    ours = np.asarray(fuel_rate(jnp.float32(speed), jnp.float32(acceleration)))
    far = np.abs(acceleration - np.asarray(coasting_acceleration(jnp.float32(speed)))) > 0.02
    off = np.abs(ours - theirs)[far].max()
    print(f"\nfuel of the table: {off:.5f} mg/s at {far.sum()} points, {theirs.max():.0f} mg/s at most")
    assert far.mean() > 0.95
    assert 0.3 < (theirs == 0.0).mean() < 0.9
    assert 8000.0 < theirs.max() < 10_000.0
    assert off <= 0.01


def test_cars_coast_from_the_acceleration_on_from_which_sumos_do(tmp_path):
    speed = np.arange(0.75, 45.1, 0.25)
    limit = np.asarray(coasting_acceleration(jnp.float32(speed)), float)
    below, above = (simulator.emitted(tmp_path, speed, limit + off) for off in (-1e-5, 1e-5))
    assert (below == 0.0).all()
    assert (above > 100.0).all()
    assert simulator.emitted(tmp_path, np.array([0.5]), np.array([-1.0])) > 100.0  # nothing coasts that slowly


@pytest.mark.parametrize("name", ["passenger", "truck", "bus", "motorcycle"])
def test_vehicle_types_have_sumos_numbers(name, tmp_path):
    ours = getattr(car_following, name.upper())._asdict()
    for quantity, theirs in simulator.defaults(tmp_path, name).items():
        assert ours[quantity] == pytest.approx(theirs), quantity


RATES, SEEDS = (100, 300, 500), 10
LENGTH, ENTRY, DT, SECONDS = 500.0, 10.0, 0.1, 1200


def test_as_many_cars_pass_as_in_sumo_and_take_as_long(tmp_path):
    """The same arrivals at thirty roads, one for each rate and seed; means over the seeds."""
    uniform = jax.random.uniform(jax.random.key(0), (SEEDS, 240))
    planned = jnp.stack([jax.vmap(lambda row, rate=rate: poisson_times(row, rate))(uniform) for rate in RATES])
    planned = jnp.ceil(planned / DT) * DT  # both step in whole steps
    driver = PASSENGER._replace(desired_speed=13.89)
    drive = jax.jit(
        jax.vmap(jax.vmap(lambda times: pass_through(driver, times, LENGTH, ENTRY, DT, round(SECONDS / DT))))
    )
    ours = jax.device_get(drive(planned))
    assert np.asarray(planned).max(2).min() > SECONDS  # no seed runs out of cars
    theirs = simulator.trips(tmp_path, np.asarray(planned), LENGTH, 13.89, ENTRY, DT, SECONDS)
    for rate, times, mine, its in zip(RATES, np.asarray(planned), zip(*ours, strict=True), theirs, strict=True):
        entered, left, fuel = mine
        done = np.isfinite(left)
        figures = {
            "throughput": (done.sum(1).mean() * 3600 / SECONDS, its["passed"].mean() * 3600 / SECONDS),
            "time": (mean_of(np.where(done, left, 0.0) - np.where(done, entered, 0.0), done), its["time"].mean()),
            "fuel": (mean_of(fuel, done), its["fuel"].mean()),
        }
        print(f"\n{rate} veh/h: " + ", ".join(f"{name} {a:.2f} (SUMO {b:.2f})" for name, (a, b) in figures.items()))
        for name, (a, b) in figures.items():
            assert a == pytest.approx(b, rel=0.01), name
        wait = mean_of(np.where(done, entered, 0.0) - times, done), its["wait"].mean()
        print(f"wait outside {wait[0]:.3f} s (SUMO {wait[1]:.3f})")
        assert wait[0] == pytest.approx(wait[1], abs=0.02)


def mean_of(x: np.ndarray, where: np.ndarray) -> float:
    """The mean over seeds of the mean over the cars that left."""
    return float(np.mean([row[chosen].mean() for row, chosen in zip(x, where, strict=True)]))
