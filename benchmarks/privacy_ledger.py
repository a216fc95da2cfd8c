"""What a privacy ledger costs a round: what agents may, a charge, a settlement, and what is shown of it.

Everybody is charged under Poisson sampling; those who take part, under noise that agents add themselves; and a tenth of
the agents asks for less. With the file `privacy.jsonl`, whose lines are passed to the operating system, and without.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.measure import Figure, emit
from fedrl.privacy.extra import accounting
from fedrl.privacy.ledger import Budget, Ledger
from fedrl.privacy.pricing import Price
from fedrl.records.charges import Charge, ChargeFile

ROUNDS, SHARE = 300, 0.1
GOALS = {100: 1.0, 1000: 2.0}
"""Milliseconds of a processor for a round, by the number of agents."""


def per_round_ms(price: Price, path: Path | None = None) -> float:
    """Return the milliseconds of a processor for a round of a run."""
    agents, draws = len(price.events), np.random.default_rng(0)
    budget = Budget(200.0, 1e-5, dict.fromkeys(range(agents // 10), 150.0))
    ledger, file = Ledger(budget, price), None
    if path is not None:
        file = ChargeFile(path)
        file.begin({})
    ledger.may()  # searching for the limits of the budget is done once in a run
    began = time.process_time()
    for number in range(1, ROUNDS + 1):
        charged = ledger.charge()
        if file is not None:
            file.charge(Charge(0, number, number, charged))
        took = draws.random(agents) < SHARE
        back = ledger.settle(charged, took)
        if file is not None and back.any():
            file.settle(0, number, took)
        ledger.epsilon()
        ledger.may()
    return (time.process_time() - began) / ROUNDS * 1e3


def main() -> None:
    kinds = accounting()
    sampled = kinds.PoissonSampledDpEvent(SHARE, kinds.GaussianDpEvent(1.2))
    for agents, goal in GOALS.items():
        prices = {
            "everybody, sampled": Price((sampled,) * agents, "add-remove", "agent"),
            "participants": Price((kinds.GaussianDpEvent(2.0),) * agents, "replace-one", "agent", True),
        }
        for name, price in prices.items():
            with tempfile.TemporaryDirectory() as folder:
                for path in (None, Path(folder) / "privacy.jsonl"):
                    what = f"privacy ledger, {agents:,} agents, {name}, {'with' if path else 'without'} its file"
                    emit(Figure(what, per_round_ms(price, path), goal, "ms", at_least=False))


if __name__ == "__main__":
    main()
