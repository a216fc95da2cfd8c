"""Small versions of the benchmarks that repeat published results."""

import math

import numpy as np

from benchmarks import fedq_law, jin_table1


def test_the_error_of_federated_q_learning_falls_with_the_root_of_the_agents():
    one, sixteen = (fedq_law.errors(agents, seeds=32).mean() for agents in (1, 16))
    assert 0.05 < one < 0.15
    assert abs(4 * sixteen / one - 1.0) < 0.25


def test_qavg_gains_what_jin_et_al_report():
    seeds = 1000
    for kappa in (0.0, 0.8):
        found = jin_table1.gains(kappa, seeds, rounds=50)
        published, their_error = jin_table1.PUBLISHED[kappa]
        error = math.hypot(found.std() / math.sqrt(seeds), their_error)
        assert error < 0.3
        assert abs(found.mean() - published) < 3 * error
    assert np.ptp([published for published, _ in jin_table1.PUBLISHED.values()]) > 6 * error
