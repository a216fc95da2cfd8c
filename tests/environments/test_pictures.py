"""Pictures of environments show the state: angles, positions, goals and walls are where they should be."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedrl.environments
from fedrl import environments
from fedrl.core.environment import Environment
from fedrl.environments.classic.acrobot import AcrobotState
from fedrl.environments.classic.cartpole import CartPoleState
from fedrl.environments.classic.lqr import LQRState
from fedrl.environments.classic.mountain_car import MountainCarState, height_at
from fedrl.environments.classic.pendulum import PendulumState
from fedrl.environments.pictures import ACCENT, BLUE, GREEN, INK, TILE
from fedrl.environments.probes import ProbeState
from fedrl.environments.tabular.gridworld import GridworldState
from fedrl.environments.tabular.model import TabularState
from fedrl.environments.time_limit import Timed
from fedrl.environments.traffic.platoon import PlatoonState
from fedrl.environments.worlds.matrix_games import CELL, MatrixGameState
from fedrl.environments.worlds.navigation import UNIT, NavigationState
from fedrl.environments.worlds.pursuit import PursuitState
from tests.environments.test_contract import PURE, built, players


def drawn(environment: Environment, state: Any, **changes: float) -> np.ndarray:
    """The picture of a state, uint8 `[height, width, 3]`."""
    assert environment.picture is not None
    numbers = jax.tree.map(jnp.asarray, state)  # None stays what it is
    params = environment.params._replace(**changes) if changes else environment.params
    return np.asarray(environment.picture.frame(Timed(numbers, jnp.int32(0)), params))


def places(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Column and row of each pixel of a colour, `[pixels, 2]`."""
    found = np.argwhere((image == colour).all(-1))[:, ::-1]
    assert len(found), f"nothing is drawn in {colour}"
    return found


def middle(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return places(image, colour).mean(0)


def angle(points: np.ndarray) -> float:
    """The angle of a long shape against the vertical, in radians, positive if its top leans to the right."""
    centred = points - points.mean(0)
    right, down = np.linalg.svd(centred, full_matrices=False)[2][0]
    return math.atan2(-right, down) if down > 0 else math.atan2(right, -down)


@pytest.mark.parametrize("name", PURE)
def test_every_environment_has_a_picture_of_its_first_state_and_the_next(name):
    environment = built(name)
    key = jax.random.key(0)
    _, state = environment.reset(environment.draw_reset(key, ()), environment.params)
    action = jnp.zeros((*environment.spaces.action.shape, *players(environment)), environment.spaces.action.dtype)
    later = environment.step(environment.draw_step(key, ()), environment.params, state, action)[1]
    for each in (state, later):
        image = environment.picture.frame(each, environment.params)
        assert image.mode == "RGB"
        assert 60 <= image.width <= 640
        assert 30 <= image.height <= 640
        assert len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) > 2
    assert 20 <= environment.picture.pause_ms <= 500


@pytest.mark.parametrize("theta", [-0.2, -0.05, 0.0, 0.1, 0.2])
def test_the_pole_of_a_cart_has_its_angle_and_stands_on_the_cart(theta):
    image = drawn(environments.cartpole(), CartPoleState(0.8, 0.0, theta, 0.0))
    pole, cart = places(image, ACCENT), places(image, INK)
    assert angle(pole) == pytest.approx(theta, abs=0.015)
    unit = 480 / (2.4 * 2.4)
    assert cart[:, 0].mean() == pytest.approx(240 + 0.8 * unit, abs=1.5)
    foot = pole[pole[:, 1] == pole[:, 1].max()]
    assert foot[:, 0].mean() == pytest.approx(cart[:, 0].mean(), abs=2)
    assert pole[:, 1].max() >= cart[:, 1].min() - 1


def test_an_upright_pole_is_vertical_above_the_cart_and_as_long_as_its_parameter_says():
    state = CartPoleState(0.0, 0.0, 0.0, 0.0)
    pole = places(drawn(environments.cartpole(), state), ACCENT)
    assert np.ptp(pole[:, 0]) <= 8
    short = places(drawn(environments.cartpole(), state, length=0.25), ACCENT)
    assert np.ptp(pole[:, 1]) == pytest.approx(480 / 5.76 + 0.04 * 480 / 5.76, abs=4)
    assert np.ptp(short[:, 1]) < 0.6 * np.ptp(pole[:, 1])


@pytest.mark.parametrize(("theta", "leaning"), [(0.0, 0.0), (0.7, -0.7), (-1.2, 1.2)])
def test_a_rod_leans_to_the_left_at_a_positive_angle_as_in_gymnasium(theta, leaning):
    rod = places(drawn(environments.pendulum(), PendulumState(theta, 0.0)), ACCENT)
    assert angle(rod) == pytest.approx(leaning, abs=0.02)
    assert rod[:, 1].mean() < 120  # above the joint


def test_a_rod_hangs_below_the_joint_at_half_a_turn_and_a_shorter_one_is_shorter():
    down = places(drawn(environments.pendulum(), PendulumState(math.pi, 0.0)), ACCENT)
    assert down[:, 1].mean() > 150
    half = places(drawn(environments.pendulum(), PendulumState(math.pi, 0.0), length=0.5), ACCENT)
    assert half[:, 1].max() - 120 == pytest.approx((down[:, 1].max() - 120) / 2, abs=6)


def test_the_links_of_an_acrobot_have_their_angles():
    hanging = drawn(environments.acrobot(), AcrobotState(0.0, 0.0, 0.0, 0.0))
    assert middle(hanging, INK)[1] == pytest.approx(130 + 0.22 * 260 / 2, abs=4)
    assert middle(hanging, ACCENT)[1] == pytest.approx(130 + 3 * 0.22 * 260 / 2, abs=6)
    assert middle(hanging, ACCENT)[0] == pytest.approx(130, abs=1.5)
    bent = drawn(environments.acrobot(), AcrobotState(math.pi / 2, math.pi / 2, 0.0, 0.0))
    # The first link points to the right, the second one up from its end.
    assert middle(bent, INK) == pytest.approx([130 + 0.22 * 260 / 2, 130], abs=4)
    assert middle(bent, ACCENT) == pytest.approx([130 + 0.22 * 260, 130 - 0.22 * 260 / 2], abs=5)
    assert middle(bent, GREEN)[1] == pytest.approx(130 - 0.22 * 260, abs=1.5)


@pytest.mark.parametrize("position", [-1.0, -0.5236, 0.2])
def test_a_car_is_on_the_track_and_leans_as_the_track_does(position):
    image = drawn(environments.mountain_car(), MountainCarState(position, 0.0))
    car = middle(image, ACCENT)
    slope = math.atan(1.35 * math.cos(3 * position))
    expected = np.array([210 + (position + 0.3) * 220, 276 - height_at(position) * 220])
    expected += 0.065 * 220 * np.array([-math.sin(slope), -math.cos(slope)])
    assert car == pytest.approx(expected, abs=2.5)
    flag = places(image, GREEN)
    assert flag[:, 0].min() == pytest.approx(210 + 0.8 * 220, abs=3)
    moved = places(drawn(environments.mountain_car(), MountainCarState(0.0, 0.0), goal_position=0.2), GREEN)
    assert moved[:, 0].min() == pytest.approx(210 + 0.5 * 220, abs=3)


def test_a_cart_on_a_rail_is_at_its_position_with_an_arrow_in_the_direction_of_its_velocity():
    unit = 420 / 4.6
    left = drawn(environments.lqr(), LQRState(-1.2, 0.9))
    cart = places(left, INK)
    cart = cart[(cart[:, 1] > 60) & (cart[:, 1] < 85)]
    assert cart[:, 0].mean() == pytest.approx(210 - 1.2 * unit, abs=2)
    arrow = places(left, ACCENT)
    assert (arrow[:, 0].min(), arrow[:, 0].max()) == pytest.approx((210 - 1.2 * unit, 210 - 0.3 * unit), abs=4)
    back = places(drawn(environments.lqr(), LQRState(0.5, -0.9)), ACCENT)
    assert (back[:, 0].min(), back[:, 0].max()) == pytest.approx((210 - 0.4 * unit, 210 + 0.5 * unit), abs=4)
    outside = drawn(environments.lqr(), LQRState(70.0, 0.0))
    assert outside[5:30, 370:].min() < 200  # its position as text
    assert left[5:30, 370:].min() == 255
    assert places(outside, INK)[:, 0].max() > 400


def test_a_gridworld_shows_walls_goals_pits_and_where_the_agent_is():
    image = drawn(environments.gridworld("S.#\n.O.\n..G"), GridworldState(2))

    def tile(row: int, column: int) -> tuple[int, ...]:
        return tuple(image[row * TILE + 5, column * TILE + 5])

    assert (tile(0, 2), tile(1, 1), tile(2, 2)) == (INK, BLUE, GREEN)
    # Cell 2 is the third that is no wall: the left one of the second row.
    assert middle(image, ACCENT) == pytest.approx([TILE / 2, 1.5 * TILE], abs=1)


def test_a_windy_cliff_has_its_start_at_the_lower_left_and_its_goal_at_the_lower_right():
    cliff = environments.windy_cliff(width=5, height=3)
    image = drawn(cliff, TabularState(0))
    assert middle(image, ACCENT) == pytest.approx([TILE / 2, 2.5 * TILE], abs=1)
    assert middle(image, GREEN) == pytest.approx([4.5 * TILE, 2.5 * TILE], abs=1.5)
    assert middle(image, BLUE) == pytest.approx([2.5 * TILE, 2.5 * TILE], abs=1.5)
    assert middle(drawn(cliff, TabularState(6)), ACCENT) == pytest.approx([1.5 * TILE, 1.5 * TILE], abs=1)


def test_the_states_of_a_finite_process_are_on_a_circle_with_lines_to_where_actions_lead():
    moves = np.zeros((4, 1, 4))
    moves[0, 0, 1] = moves[1, 0, 2] = moves[2, 0, 3] = moves[3, 0, 3] = 1.0
    process = environments.tabular(moves, [[0.0], [0.0], [1.0], [0.5]])
    radius = 0.42 * 260
    around = [(130, 130 - radius), (130 + radius, 130), (130, 130 + radius), (130 - radius, 130)]
    for state, place in enumerate(around):
        assert middle(drawn(process, TabularState(state)), ACCENT) == pytest.approx(place, abs=2)
    first = drawn(process, TabularState(0))
    halfway = np.array([130 + radius / 2, 130 - radius / 2]).astype(int)
    near = first[halfway[1] - 2 : halfway[1] + 3, halfway[0] - 2 : halfway[0] + 3]
    assert near.min() < 100  # the line from state 0 to state 1
    beside = first[halfway[1] - 2 : halfway[1] + 3, 260 - halfway[0] - 2 : 260 - halfway[0] + 3]
    assert beside.min() > 200  # no action leads from state 0 to state 3
    assert tuple(first[int(130 + radius) - 9, 130 - 9]) == GREEN  # the state with the largest reward


@pytest.mark.parametrize(("shown", "column"), [(-1.0, 96), (0.0, 160), (1.0, 224)])
def test_a_probe_shows_its_observation_on_a_line(shown, column):
    image = drawn(fedrl.environments.probe_observation(), ProbeState(shown))
    assert middle(image, ACCENT) == pytest.approx([column, 40], abs=1)


def test_a_matrix_game_marks_the_cell_that_was_played():
    game = environments.climbing()
    for row, column in ((0, 2), (1, 1)):
        image = np.asarray(game.picture.frame(MatrixGameState(row, column), game.params))
        np.testing.assert_allclose(middle(image, ACCENT) / CELL - 0.5, [column, row], atol=0.1)


def test_players_and_what_they_look_for_are_where_they_should_be():
    hunt = environments.pursuit(players=2, size=5)
    state = PursuitState(np.array([[1, 1], [3, 3]]), np.array([4, 0]))
    image = drawn(hunt, state)
    np.testing.assert_allclose(middle(image, BLUE) / TILE, [1.5, 5 - 3.5], atol=0.05)
    np.testing.assert_allclose(middle(image, ACCENT) / TILE, [4.5, 5 - 0.5], atol=0.05)
    road = environments.platoon(cars=1)
    exact, behind = (
        middle(drawn(road, PlatoonState(np.array([e]), np.zeros(1), np.zeros(1), np.zeros(1), 0.0)), BLUE)
        for e in (0.0, 10.0)
    )
    np.testing.assert_allclose(behind - exact, [-10.0 * 620 / 120, 0.0], atol=1.0)
    plane = environments.navigation(players=1)
    image = drawn(plane, NavigationState(np.array([[0.5], [0.2]]), np.zeros((2, 1)), np.array([[-0.8], [0.0]])))
    centre = np.array(image.shape[1::-1]) / 2
    np.testing.assert_allclose((middle(image, BLUE) - centre) / UNIT, [0.5, -0.2], atol=0.02)
    np.testing.assert_allclose((middle(image, ACCENT) - centre) / UNIT, [-0.8, 0.0], atol=0.02)
