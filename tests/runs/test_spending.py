"""The account of a seed: charged on file before a round begins, settled after it, never beyond the budget."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedrl.core.aggregator import on_time
from fedrl.core.keys import keys_of
from fedrl.engines.state import RoundResult, SimulationState, no_uploads
from fedrl.federation.federation import ServerState
from fedrl.federation.trust_models import TRUSTED
from fedrl.privacy.extra import accounting
from fedrl.privacy.guarantee import Guarantee
from fedrl.privacy.ledger import Budget, OverspentError
from fedrl.privacy.pricing import Price
from fedrl.records.charges import ChargeFile
from fedrl.runs.spending import Account, Spending

AGENTS = 3
NOTHING = RoundResult({}, 1.0, (), 0, 0, 0, 0, no_uploads(AGENTS), on_time(np.arange(AGENTS)))
GAUSSIAN = accounting().GaussianDpEvent


def guarantee(own: dict[int, float] | None = None, now: Any = None, **price: Any) -> Guarantee:
    events = (GAUSSIAN(2.6293),) * AGENTS
    budget = Budget(8.0, 1e-3, own or {})
    return Guarantee(
        budget, Price(events, "add-remove", "agent", **price), "central", 0, 2.63, 1.0, "server", TRUSTED, now
    )


class Rounds:
    """A simulation of rounds in which chosen agents take part."""

    def __init__(self, file: Path, chosen: list[int] | None = None) -> None:
        self.file, self.chosen, self.without, self.found = file, chosen, [], []
        self.fails = False

    def state(self) -> Any:
        board = SimpleNamespace(turns=np.zeros(AGENTS, int))
        server = ServerState((), (np.float32(1.0),), (), (), 0)  # type: ignore[arg-type]
        return SimulationState(server, (), keys_of(0), SimpleNamespace(board=board))

    def round(self, state: Any, without: np.ndarray) -> tuple[Any, Any]:
        self.without.append(without.tolist())
        self.found.append(self.file.read_text().splitlines()[-1])
        if self.fails:
            raise RuntimeError("the round failed")
        took = np.ones(AGENTS, bool) if self.chosen is None else np.isin(np.arange(AGENTS), self.chosen)
        took[without] = False
        turns = state.engine_state.board.turns
        # In place, as the board of a scheduler may be.
        turns += took
        return state, NOTHING


def adapted(state: SimulationState, to: float) -> SimulationState:
    return state._replace(server=state.server._replace(stage_states=(np.float32(to),)))


@pytest.fixture
def file(tmp_path: Path) -> ChargeFile:
    made = ChargeFile(tmp_path / "privacy.jsonl")
    made.begin({})
    return made


def test_a_charge_is_on_file_before_its_round_begins(file: ChargeFile) -> None:
    account, rounds = Account(guarantee(), 0, file), Rounds(file.path)
    state = rounds.state()
    for number in (1, 2):
        state, _ = account.round(rounds.round, state, number)
        assert json.loads(rounds.found[-1])["charge"] == number
    rounds.fails = True
    with pytest.raises(RuntimeError):
        account.round(rounds.round, state, 3)
    assert [charge.round for charge in ChargeFile(file.path).read(AGENTS)[1]] == [1, 2, 3]


def test_a_seed_ends_before_it_exceeds_its_budget(file: ChargeFile) -> None:
    account, rounds = Account(guarantee(), 0, file), Rounds(file.path)
    state = rounds.state()
    for number in range(1, 31):
        assert account.over(number, state) == ""
        state, _ = account.round(rounds.round, state, number)
    assert account.over(31, state).startswith("round 31 would exceed the privacy budget of every agent, epsilon = 8 at")
    with pytest.raises(OverspentError):
        account.round(rounds.round, state, 31)
    assert account.of_round(state)["remaining"] == pytest.approx(0.0, abs=1e-3)
    assert account.of_round(state)["without_budget"] == AGENTS


def test_a_later_process_has_all_charges_of_the_earlier_ones(file: ChargeFile) -> None:
    account, rounds = Account(guarantee({1: 2.0}), 0, file), Rounds(file.path)
    state = rounds.state()
    for number in range(1, 6):
        state, _ = account.round(rounds.round, state, number)
    again = ChargeFile(file.path)
    resumed = Spending(guarantee({1: 2.0}), again, again.read(AGENTS)[1]).account(0)
    assert resumed.ledger.spent().tolist() == account.ledger.spent().tolist()
    assert resumed.charges == 5
    # Rounds 3 to 5 were lost, and are run again.
    for number in range(3, 6):
        state, _ = resumed.round(rounds.round, state, number)
    assert (resumed.charges, resumed.repeated) == (8, 3)
    assert resumed.ledger.epsilon() > account.ledger.epsilon()


def test_agents_without_budget_take_no_part_and_are_told_once(file: ChargeFile) -> None:
    account, rounds = Account(guarantee({1: 2.0}), 0, file), Rounds(file.path)
    state, told = rounds.state(), []
    for number in range(1, 8):
        told.append(account.dropped(state, number))
        state, _ = account.round(rounds.round, state, number)
    own = rounds.without.index([1])
    assert 0 < own < 5
    assert rounds.without == [[]] * own + [[1]] * (7 - own)
    assert [bool(text) for text in told] == [number == own for number in range(7)]
    assert f"agent 1 takes no part from round {own + 1} on" in told[own]
    assert "2 of 3 agents go on" in told[own]


def test_those_who_take_no_part_get_their_charge_back_and_only_on_file_after_the_round(file: ChargeFile) -> None:
    account, rounds = Account(guarantee(participants=True), 0, file), Rounds(file.path, [2])
    account.round(rounds.round, rounds.state(), 1)
    assert (account.ledger.spent() > 0.0).tolist() == [False, False, True]
    assert json.loads(rounds.found[0])["who"] == "all"
    assert json.loads(file.path.read_text().splitlines()[-1])["took"] == {"only": [2]}
    # A process that is killed in between leaves the larger number.
    lines = file.path.read_text().splitlines()[:-1]
    file.path.write_text("".join(f"{line}\n" for line in lines))
    again = ChargeFile(file.path)
    killed = Spending(guarantee(participants=True), again, again.read(AGENTS)[1]).account(0)
    assert (killed.ledger.spent() > 0.0).all()


def test_an_agent_that_has_two_jobs_in_a_round_pays_twice(file: ChargeFile) -> None:
    account, rounds = Account(guarantee(participants=True), 0, file), Rounds(file.path)

    def one_round(state: Any, without: np.ndarray) -> tuple[Any, Any]:
        state, seen = rounds.round(state, without)
        state.engine_state.board.turns[1] += 1
        return state, seen

    account.round(one_round, rounds.state(), 1)
    counts = [sum(each.values()) for each in account.ledger.releases()]
    assert counts == [1, 2, 1]
    again = ChargeFile(file.path)
    resumed = Spending(guarantee(participants=True), again, again.read(AGENTS)[1]).account(0)
    assert [sum(each.values()) for each in resumed.ledger.releases()] == counts


def test_adapted_noise_is_charged_as_the_state_of_the_server_says(file: ChargeFile) -> None:
    def now(state: Any) -> Any:
        return GAUSSIAN(4.0 * float(state))

    account, rounds = Account(guarantee(now=now), 0, file), Rounds(file.path)
    state, _ = account.round(rounds.round, rounds.state(), 1)
    state = adapted(state, 0.5)
    account.round(rounds.round, state, 2)
    assert dict(account.ledger.releases()[0]) == {GAUSSIAN(4.0): 1, GAUSSIAN(2.0): 1}
    again = ChargeFile(file.path)
    resumed = Spending(guarantee(now=now), again, again.read(AGENTS)[1]).account(0)
    assert resumed.ledger.releases() == account.ledger.releases()
    state = adapted(state, 0.05)
    assert resumed.over(3, state)


def test_noise_that_is_correlated_between_rounds_is_paid_once_and_again_after_it_began_anew(file: ChargeFile) -> None:
    promised = guarantee(covers=4)
    account, rounds = Account(promised, 0, file), Rounds(file.path)
    state = rounds.state()
    for number in range(1, 4):
        state, _ = account.round(rounds.round, state, number)
    assert dict(account.ledger.releases()[0]) == {GAUSSIAN(2.6293): 1}
    again = ChargeFile(file.path)
    resumed = Spending(promised, again, again.read(AGENTS)[1]).account(0)
    assert (resumed.charges, dict(resumed.ledger.releases()[0])) == (3, {GAUSSIAN(2.6293): 1})
    state = resumed.continued(state, 3)
    for number in range(4, 9):
        state, _ = resumed.round(rounds.round, state, number)
    assert dict(resumed.ledger.releases()[0]) == {GAUSSIAN(2.6293): 3}


def test_rounds_that_are_run_again_learn_from_other_episodes_if_an_episode_pays_for_one_round(file: ChargeFile) -> None:
    rounds = Rounds(file.path)
    for more, fresh in (({"parallel": True}, True), ({}, False)):
        account = Account(guarantee(**more), 0, file)
        state = rounds.state()
        for number in (1, 2):
            state, _ = account.round(rounds.round, state, number)
        same, other = account.continued(state, 2), account.continued(state, 1)
        assert (same.keys.run == state.keys.run).all()
        assert (other.keys.run != state.keys.run).any() == fresh
        assert other.keys.run.dtype == state.keys.run.dtype
        assert other.keys.run.shape == state.keys.run.shape
