"""Spend the privacy budget of a run: a round is charged on file before it begins, and settled after it.

    Spending --one per seed--> Account      charge on file --> simulation.round --> settle on file
             <--privacy.jsonl--             as long as an agent has budget left; those without take no part

A process that is killed at any moment has charged every round that may have released something. A resumed run reads all
charges; rounds that were lost with the process are run again with new noise, and paid for again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from fedrl.config.objects import Experiment
from fedrl.core.errors import ConfigError, RunError
from fedrl.engines.state import RoundResult, SimulationState
from fedrl.privacy.event_tables import event_of_table, table_of_event
from fedrl.privacy.guarantee import Guarantee
from fedrl.privacy.ledger import Ledger, OverspentError
from fedrl.records import PrivacyOfRound, RoundRecord, checkpoint
from fedrl.records.charges import CURE, Charge, ChargeFile
from fedrl.records.folder import CHARGES, CONFIG, FINAL, RunFolder
from fedrl.records.notices import named

METHOD = "federated"
"""The method that spends the budget; baselines have none."""
OneRound: TypeAlias = Callable[..., tuple[SimulationState, RoundResult]]
KILLED = "a process ended before their results were saved"


class Account:
    """The budget of one seed.

    Args:
        guarantee: What is promised.
        seed: Seed of the run.
        file: Where charges are written.
        before: What was charged by earlier processes.
    """

    def __init__(self, guarantee: Guarantee, seed: int, file: ChargeFile, before: Sequence[Charge] = ()) -> None:
        self.guarantee, self.seed, self._file = guarantee, seed, file
        self.ledger: Ledger = guarantee.ledger()
        self.charges, self.rounds = 0, set[int]()
        self._out = np.zeros(guarantee.agents, bool)
        self._covered, self._who = 0, np.zeros(guarantee.agents, bool)
        for charge in before:
            event = None if charge.event is None else event_of_table(charge.event)
            events = None if event is None else (event,) * guarantee.agents
            if not charge.covered:
                self.ledger.add(charge.who, events, -1 if charge.back else 1)
            self.charges = charge.number
            self.rounds.add(charge.round)

    @property
    def repeated(self) -> int:
        """Number of charges for rounds that were run again."""
        return self.charges - len(self.rounds)

    def over(self, number: int, run_state: SimulationState) -> str:
        """Return why a round can't be paid for; "" if it can."""
        if self._covered or self.ledger.may(self._events(run_state)).any():
            return ""
        budget = self.guarantee.budget
        lost = "" if not self.repeated else f", {self.repeated} of them for rounds that were run again, as {KILLED}"
        return (
            f"round {number} would exceed the privacy budget of every agent, epsilon = {budget.epsilon:g} at delta = "
            f"{budget.delta:g}: {self.ledger.epsilon(certified=True):.4g} is spent on {self.charges} charges{lost}."
        )

    def round(
        self, one_round: OneRound, run_state: SimulationState, number: int
    ) -> tuple[SimulationState, RoundResult]:
        """Charge a round, run it, and settle it.

        Args:
            one_round: `Simulation.round`.
            run_state: The state before the round.
            number: Number of the round.

        Raises:
            OverspentError: No agent has budget left; the state is whole.
            RunError: The charge can't be written.
        """
        over = self.over(number, run_state)
        if over:
            raise OverspentError(over)
        events = self._events(run_state)
        covered = self._covered > 0
        if not covered:
            self._who, self._covered = self.ledger.charge(None, events), self.guarantee.price.covers
        self._covered -= 1
        self.charges += 1
        self.rounds.add(number)
        who, event = self._who, None if events is None else table_of_event(events[0])
        self._file.charge(Charge(self.seed, self.charges, number, who, event, covered=covered))
        turns = _turns(run_state).copy()
        run_state, seen = one_round(run_state, without=np.flatnonzero(~who))
        if self.guarantee.price.participants:
            jobs = _turns(run_state) - turns
            back = self.ledger.settle(who, who & (jobs > 0), events)
            if back.any():
                self._file.settle(self.seed, self.charges, who & (jobs > 0))
            self._charge_repeated(jobs, number, events, event)
        return run_state, seen

    def _charge_repeated(self, jobs: np.ndarray, number: int, events: Any, event: dict[str, Any] | None) -> None:
        """Charge agents for every job of a round after their first one: each may have sent an update with noise."""
        # A round begins anew if no job of it is left, as when all updates were unreadable.
        for times in range(2, int(jobs.max(initial=0)) + 1):
            again = jobs >= times
            self.charges += 1
            self.ledger.add(again, events)
            self._file.charge(Charge(self.seed, self.charges, number, again, event))

    def noted(self, record: RoundRecord, run_state: SimulationState) -> RoundRecord:
        """Return the record of a round with what it has spent."""
        return {**record, "privacy": self.of_round(run_state)}

    def of_round(self, run_state: SimulationState) -> PrivacyOfRound:
        """Return what a record says of the budget."""
        budget, spent = self.guarantee.budget, self.ledger.epsilon()
        found: PrivacyOfRound = {
            "epsilon": spent,
            "remaining": max(budget.epsilon - spent, 0.0),
            "charges": self.charges,
        }
        out = int(self._without(run_state).sum())
        return {**found, "without_budget": out} if out else found

    def dropped(self, run_state: SimulationState, number: int) -> str:
        """Return a sentence about agents that have no budget for this round and had for the one before; "" if none."""
        out = self._without(run_state)
        new = np.flatnonzero(out & ~self._out)
        self._out = out
        if not len(new) or out.all():
            return ""
        return (
            f"Seed {self.seed}: {named(new.tolist())} take{'s' * (len(new) == 1)} no part from round {number} on: the "
            f"privacy budget is not enough for it. {int((~out).sum()):,} of {len(out):,} agents go on."
        )

    def continued(self, run_state: SimulationState, done: int) -> SimulationState:
        """Return a state after `done` rounds as one from a checkpoint.

        An event that covers several rounds ends there: noise that is correlated between rounds begins anew, since no
        checkpoint has it. And a round that is run again must not learn from the same episodes, since an episode pays
        for one round only.
        """
        self._covered = 0
        again = max(self.rounds, default=0) > done
        if not again or not self.guarantee.price.parallel or self.guarantee.reproducible:
            return run_state
        root = np.frombuffer(secrets.token_bytes(32), np.uint32).copy()
        return run_state._replace(keys=run_state.keys._replace(run=root))

    def _without(self, run_state: SimulationState) -> np.ndarray:
        """Return the mask of the agents that take no part in the next round."""
        return ~(self._who if self._covered else self.ledger.may(self._events(run_state)))

    def _events(self, run_state: SimulationState) -> tuple[Any, ...] | None:
        return self.guarantee.next_events(run_state.server.stage_states)


class Unlimited:
    """The account of a method without a privacy budget: nothing is charged."""

    def continued(self, run_state: SimulationState, done: int) -> SimulationState:
        """Return the state."""
        del done
        return run_state

    def over(self, number: int, run_state: SimulationState) -> str:
        """Return "": every round can be paid for."""
        del number, run_state
        return ""

    def dropped(self, run_state: SimulationState, number: int) -> str:
        """Return "": no agent drops out."""
        del run_state, number
        return ""

    def round(
        self, one_round: OneRound, run_state: SimulationState, number: int
    ) -> tuple[SimulationState, RoundResult]:
        """Run a round."""
        del number
        return one_round(run_state)

    def noted(self, record: RoundRecord, run_state: SimulationState) -> RoundRecord:
        """Return the record."""
        del run_state
        return record


class Spending:
    """The accounts of the seeds of a run.

    Args:
        guarantee: What is promised.
        file: Where charges are written.
        charges: Those of earlier processes.
    """

    def __init__(self, guarantee: Guarantee, file: ChargeFile, charges: Sequence[Charge] = ()) -> None:
        self.guarantee, self._file, self._charges = guarantee, file, charges
        self.accounts: dict[int, Account] = {}
        for seed in sorted({charge.seed for charge in charges}):
            self.account(seed)

    def account(self, seed: int) -> Account:
        """Return the account of a seed, with all that was charged to it before."""
        if seed not in self.accounts:
            before = [charge for charge in self._charges if charge.seed == seed]
            self.accounts[seed] = Account(self.guarantee, seed, self._file, before)
        return self.accounts[seed]

    def check_longer(self, rounds: int, done: Mapping[int, int]) -> None:
        """Refuse to go on for more rounds than the budget allows.

        Args:
            rounds: Number of rounds in all.
            done: Number of rounds that each seed has done.

        Raises:
            ConfigError: No agent could take part in all of them.
        """
        for seed, so_far in done.items():
            account = self.account(seed)
            price = self.guarantee.price
            # Whether others of these rounds are within the budget is known as they come.
            known = not price.participants and self.guarantee.now is None
            needed = price.times(rounds - so_far) if known else min(rounds - so_far, 1)
            left = account.ledger.releases_left()
            if needed > left:
                lost = f", {account.repeated} of them lost, as {KILLED}" if account.repeated else ""
                budget = self.guarantee.budget
                raise ConfigError(
                    f"rounds is {rounds}, and seed {seed} has done {so_far} and paid for {account.charges}{lost}: its "
                    f"privacy budget, epsilon = {budget.epsilon:g} at delta = {budget.delta:g}, is enough for "
                    f"{left * price.covers} more. Continue it for fewer, or begin a new run with a larger epsilon."
                )


def begun(place: RunFolder, experiment: Experiment) -> Spending | None:
    """Begin the ledger of a new run; None without a budget.

    Raises:
        RunError: It can't be written.
    """
    guarantee = guarantee_of(experiment)
    if guarantee is None:
        return None
    file = _file(place, experiment)
    file.begin(_promised(guarantee))
    return Spending(guarantee, file)


def reopened(place: RunFolder, experiment: Experiment) -> Spending | None:
    """Read the ledger of a run that goes on; None without a budget.

    Raises:
        RunError: It is missing, damaged, of another budget, or shorter than what the folder has of the run.
    """
    guarantee = guarantee_of(experiment)
    if guarantee is None:
        return None
    file = _file(place, experiment)
    budget, charges = file.read(guarantee.agents)
    promised = _promised(guarantee)
    for key in dict.fromkeys((*promised, *budget)):
        if budget.get(key) != promised.get(key):
            raise RunError(
                f"{place.path / CONFIG} has another privacy budget than the ledger {file.path}, in {key}: "
                f"{_shown(promised.get(key))} there, {_shown(budget.get(key))} here. Restore the one that was changed, "
                "or begin a new run in another folder."
            )
    _check_whole(place, experiment, charges)
    return Spending(guarantee, file, charges)


def guarantee_of(experiment: Experiment) -> Guarantee | None:
    """Return the guarantee of a run, with what its executor means for it."""
    guarantee = experiment.guarantee
    if guarantee is None:
        return None
    return guarantee._replace(reproducible=guarantee.reproducible or getattr(experiment.executor, "replayable", False))


def _check_whole(place: RunFolder, experiment: Experiment, charges: Sequence[Charge]) -> None:
    """Refuse a ledger with fewer charges than the records and the states of a run show."""
    paid = dict.fromkeys(experiment.config.seed_list, 0)
    for charge in charges:
        paid[charge.seed] = max(paid.get(charge.seed, 0), charge.number)
    shown = dict.fromkeys(paid, 0)
    for record in place.records():
        if record["method"] == METHOD:
            number = max(int((record.get("privacy") or {}).get("charges", 0)), int(record["round"]))
            shown[record["seed"]] = max(shown.get(record["seed"], 0), number)
    for seed in shown:
        path = place.checkpoint(METHOD, seed)
        for state in (path, place.path / FINAL / path.name):
            shown[seed] = max(shown[seed], checkpoint.round_of(state))
        if shown[seed] > paid.get(seed, 0):
            raise RunError(
                f"{place.path / CHARGES} has {paid.get(seed, 0)} charges of seed {seed}, and the folder shows that "
                f"{shown[seed]} were made: lines at its end were removed. {CURE}"
            )


def _file(place: RunFolder, experiment: Experiment) -> ChargeFile:
    # Where every version is on the disk before the next one, its charge has to be there, too.
    return ChargeFile(place.path / CHARGES, experiment.in_real_time or experiment.config.checkpoint_s == 0.0)


def _promised(guarantee: Guarantee) -> dict[str, Any]:
    """Return the budget and the price of a run as plain values, from which its epsilon can be computed again."""
    price, different = guarantee.price, list(dict.fromkeys(guarantee.price.events))
    found: dict[str, Any] = {
        "epsilon": guarantee.budget.epsilon,
        "delta": guarantee.budget.delta,
        "own": {str(agent): epsilon for agent, epsilon in sorted(guarantee.budget.own.items())},
        "agents": guarantee.agents,
        "unit": price.unit,
        "relation": price.relation,
        "participants": price.participants,
        "parallel": price.parallel,
        "covers": price.covers,
        "episodes_per_person": price.episodes_per_person,
        "adaptive": guarantee.now is not None,
        "reproducible": guarantee.reproducible,
        "events": [table_of_event(event) for event in different],
    }
    if len(different) > 1:
        number = {event: i for i, event in enumerate(different)}
        found["event_of"] = [number[event] for event in price.events]
    return found


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _turns(run_state: SimulationState) -> np.ndarray:
    return np.asarray(run_state.engine_state.board.turns)
