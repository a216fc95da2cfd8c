"""Learning algorithms, each useful alone, and the parts they are made of."""

from fedrl.learners.a2c import a2c
from fedrl.learners.embedding import adapting, embedded
from fedrl.learners.mixture import mixture
from fedrl.learners.networks import mlp, network
from fedrl.learners.normalize import normalize
from fedrl.learners.optimizers import adam, chain, corrected, proximal, rmsprop, sgd
from fedrl.learners.personal import personal
from fedrl.learners.personal_gate import gated
from fedrl.learners.personal_interpolation import apfl, interpolated
from fedrl.learners.ppo import ppo
from fedrl.learners.q_table import q_table
from fedrl.learners.reinforce import reinforce

__all__ = [
    "a2c",
    "adam",
    "adapting",
    "apfl",
    "chain",
    "corrected",
    "embedded",
    "gated",
    "interpolated",
    "mixture",
    "mlp",
    "network",
    "normalize",
    "personal",
    "ppo",
    "proximal",
    "q_table",
    "reinforce",
    "rmsprop",
    "sgd",
]
