"""Games of one move: both players choose an action at once, and a table has what each of them gets.

    game                  payoffs of (row, column)                       what is known
    climbing              11 -30 0 / -30 7 6 / 0 0 5, to both            optimum 11; independent learners settle at 7
    penalty               10 0 k / 0 2 0 / k 0 10, to both               optima 10 in two corners, safe 2 in the middle
    stag_hunt             stag 4 or 0, hare 3                            two equilibria: both stag (4), both hare (3)
    matching_pennies      +1 to the row if equal, else to the column     equilibrium (1/2, 1/2), value 0
    rock_paper_scissors   +1 to the winner, -1 to the loser              equilibrium (1/3, 1/3, 1/3), value 0

An episode is one play, and the game is repeated from episode to episode. All that a player observes is the number 1, so
a policy is a distribution over actions. With shared parameters both players have the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from fedrl.core.component import component
from fedrl.core.environment import (
    Box,
    Discrete,
    Environment,
    Overview,
    Picture,
    Spaces,
    Timestep,
    Variants,
    draw_nothing,
    draw_uniform,
    first,
)
from fedrl.core.measures import Measure
from fedrl.core.ranges import Finite
from fedrl.environments import pictures
from fedrl.environments.worlds.player_returns import player_returns

CLIMBING = ((11.0, -30.0, 0.0), (-30.0, 7.0, 6.0), (0.0, 0.0, 5.0))
PENNIES = ((1.0, -1.0), (-1.0, 1.0))
ROCK_PAPER_SCISSORS = ((0.0, -1.0, 1.0), (1.0, 0.0, -1.0), (-1.0, 1.0, 0.0))
CELL = 72
"""Pixels of a cell of a picture."""
Table = Sequence[Sequence[float]]
CLAUS_BOUTILIER = "Claus & Boutilier (1998), https://aaai.org/papers/106-aaai98-106"


class MatrixGameParams(NamedTuple):
    """`payoff[player, row, column]`: what each player gets if the first chooses the row and the second the column."""

    payoff: jax.Array


class MatrixGameState(NamedTuple):
    """The number of the row and of the column that were chosen, -1 before the play; only the picture shows them."""

    row: jax.Array
    column: jax.Array


@component("environment", reference=CLAUS_BOUTILIER)
def climbing() -> Environment:
    """Build the climbing game, where two players have to find the best of nine joint actions together.

        11  -30   0
       -30    7   6
         0    0   5

    Both get the same. The optimum 11 has the worst neighbours: while the other player still explores, its row is worth
    less than the others, so players that learn independently climb from (2, 2) over (1, 2) to the equilibrium 7.

    The measure `optimum` is the share of plays with the payoff 11.

    >>> float(climbing().params.payoff[0, 1, 1])
    7.0
    """
    return _team_game(CLIMBING)


@component("environment", reference=CLAUS_BOUTILIER)
def penalty(penalty: Finite = -100.0) -> Environment:
    """Build the penalty game, where two optima have to be told apart without talking.

        10   0   k
         0   2   0
         k   0  10

    Both get the same. Two corners give 10, and mixing them up gives the penalty k, so that k far below zero makes the
    safe middle attractive.

    The measure `optimum` is the share of plays with the payoff 10.

    Args:
        penalty: k; agents of a fleet may differ in it.

    >>> float(penalty(-50.0).params.payoff[0, 0, 2])
    -50.0
    """

    def tables(penalty: float | jax.Array) -> MatrixGameParams:
        k, zero = jnp.asarray(penalty, jnp.float32), jnp.zeros(jnp.shape(penalty))
        rows = ((zero + 10.0, zero, k), (zero, zero + 2.0, zero), (k, zero, zero + 10.0))
        return _shared(jnp.stack([jnp.stack(row, -1) for row in rows], -2))

    return _team_game(tables(penalty).payoff[0], Variants(tables, {"penalty": penalty}))


@component("environment", reference="Skyrms (2004), https://doi.org/10.1017/CBO9781139165228")
def stag_hunt(stag: Finite = 4.0, hare: Finite = 3.0) -> Environment:
    """Build the stag hunt: a stag takes two hunters, and a hare one.

                stag          hare
        stag    stag, stag    0, hare
        hare    hare, 0       hare, hare

    Both equilibria in pure strategies are stable: both hunt stag, which pays best, and both hunt hare, which is safe.
    A player should hunt stag if the other one does with a probability above hare / stag.

    The measures `stag_hunts` and `hare_hunts` are the shares of plays in which both hunt the same, and
    `player_1_return`, `player_2_return` what each gets.

    Args:
        stag: What each gets of a stag; agents of a fleet may differ in it and in `hare`.
        hare: What a hare is worth.

    >>> stag_hunt().params.payoff[0].tolist()
    [[4.0, 0.0], [3.0, 3.0]]
    """

    def tables(stag: float | jax.Array, hare: float | jax.Array) -> MatrixGameParams:
        big, small = jnp.broadcast_arrays(jnp.asarray(stag, jnp.float32), jnp.asarray(hare, jnp.float32))
        row = jnp.stack([jnp.stack([big, jnp.zeros_like(big)], -1), jnp.stack([small, small], -1)], -2)
        return MatrixGameParams(jnp.stack([row, jnp.swapaxes(row, -1, -2)], -3))

    def measured(params: MatrixGameParams, action: jax.Array) -> dict[str, jax.Array]:
        del params
        return {"stag_hunts": (action == 0).all(), "hare_hunts": (action == 1).all()}

    measures = {name: Measure("episode") for name in ("stag_hunts", "hare_hunts")}
    numbers = Variants(tables, {"stag": stag, "hare": hare})
    return player_returns(_game(tables(stag, hare), measured, measures, numbers))


@component("environment", reference="von Neumann (1928), https://doi.org/10.1007/BF01448847")
def matching_pennies() -> Environment:
    """Build matching pennies: the first player wins 1 from the second if both show the same side, else the second does.

    The only equilibrium is to show each side half of the time, with the value 0: see `exploitability`. The return in
    records is the mean over players, which is always 0; `player_1_return` is what the first player wins.

    >>> matching_pennies().params.payoff[1].tolist()
    [[-1.0, 1.0], [1.0, -1.0]]
    """
    return _zero_sum_game(PENNIES)


@component("environment", reference="von Neumann (1928), https://doi.org/10.1007/BF01448847")
def rock_paper_scissors() -> Environment:
    """Build rock-paper-scissors, actions 0, 1 and 2: the winner gets 1 and the loser -1.

    The only equilibrium is to choose each action a third of the time, with the value 0: see `exploitability`. The
    return in records is the mean over players, which is always 0; `player_1_return` is what the first player wins.

    >>> float(rock_paper_scissors().params.payoff[0, 1, 0])
    1.0
    """
    return _zero_sum_game(ROCK_PAPER_SCISSORS)


def exploitability(payoff: ArrayLike, row: ArrayLike, column: ArrayLike) -> float:
    """Return how much the players of a matrix game could gain on average by a best answer: 0 only in an equilibrium.

        1/2 (max_a u_1(a, column) - u_1(row, column)) + 1/2 (max_b u_2(row, b) - u_2(row, column))

    Args:
        payoff: What each player gets, `[2, rows, columns]`.
        row: The probabilities of the first player's actions, `[rows]`.
        column: Those of the second player's, `[columns]`.

    Reference: Lanctot et al. (2017), https://arxiv.org/abs/1711.00832 (NashConv, here divided by the players)

    >>> payoff = matching_pennies().params.payoff
    >>> exploitability(payoff, [0.5, 0.5], [0.5, 0.5]), exploitability(payoff, [1.0, 0.0], [0.5, 0.5])
    (0.0, 0.5)
    """
    table, row, column = (np.asarray(x, np.float64) for x in (payoff, row, column))
    first, second = table[0] @ column, row @ table[1]
    return float((first.max() - row @ first + second.max() - second @ column) / 2)


def _team_game(table: Table | jax.Array, numbers: Variants | None = None) -> Environment:
    """Return the game whose payoffs both players get."""

    def measured(params: MatrixGameParams, action: jax.Array) -> dict[str, jax.Array]:
        best = params.payoff[0].max()
        return {"optimum": params.payoff[0, action[0], action[1]] == best}

    measures = {"optimum": Measure("episode", better="higher")}
    return _game(_shared(jnp.asarray(table, jnp.float32)), measured, measures, numbers)


def _zero_sum_game(table: Table) -> Environment:
    """Return the game whose payoffs the first player gets from the second."""
    won = jnp.asarray(table, jnp.float32)
    return player_returns(_game(MatrixGameParams(jnp.stack([won, -won])), lambda params, action: {}, {}))


def _shared(table: jax.Array) -> MatrixGameParams:
    return MatrixGameParams(jnp.stack([table, table], -3))


def _game(
    params: MatrixGameParams,
    measured: Callable[[MatrixGameParams, jax.Array], Mapping[str, jax.Array]],
    measures: Mapping[str, Measure],
    numbers: Variants | None = None,
) -> Environment:
    players, actions = 2, params.payoff.shape[-1]
    one = jnp.ones((1, players))

    def reset(noise: jax.Array, params: MatrixGameParams) -> tuple[Timestep, MatrixGameState]:
        del noise, params
        return first(one, players), MatrixGameState(jnp.int32(-1), jnp.int32(-1))

    def step(
        noise: tuple[()], params: MatrixGameParams, state: MatrixGameState, action: jax.Array
    ) -> tuple[Timestep, MatrixGameState]:
        del noise, state
        reward = params.payoff[:, action[0], action[1]]
        played = MatrixGameState(action[0], action[1])
        return Timestep(one, reward, jnp.bool_(True), jnp.bool_(False), measured(params, action)), played

    return Environment(
        params,
        Spaces(Box((1,), 1.0, 1.0), Discrete(actions)),
        draw_uniform(1),
        draw_nothing,
        reset,
        step,
        max_steps=1,
        variants=numbers,
        picture=Picture(_drawn, pause_ms=500),
        measures=measures,
        players=players,
        overview=Overview(Box((1,), 1.0, 1.0), lambda params, state: jnp.ones(1)),
    )


def _drawn(state: MatrixGameState, params: MatrixGameParams) -> Any:
    payoff = np.asarray(params.payoff)
    size = payoff.shape[-1]
    picture = pictures.plane(CELL * size, CELL * size, CELL, (0, CELL * size))
    for row in range(size):
        for column in range(size):
            played = (row, column) == (int(state.row), int(state.column))
            low = (float(column), float(size - row - 1))
            picture.box(low, (low[0] + 1.0, low[1] + 1.0), pictures.ACCENT if played else pictures.PAPER, pictures.SOFT)
            paid = ", ".join(f"{float(x):g}" for x in payoff[:, row, column])
            picture.text((column + 0.5, size - row - 0.5), paid, pictures.PAPER if played else pictures.INK)
    return picture.finished()
