"""Learning algorithms of single agents, wrappers around them, and the networks and optimisers they take."""

from fedrl.learners.algorithms.a2c import a2c
from fedrl.learners.algorithms.dqn import dqn
from fedrl.learners.algorithms.mappo import mappo
from fedrl.learners.algorithms.ppo import ppo
from fedrl.learners.algorithms.q_table import q_table
from fedrl.learners.algorithms.reinforce import reinforce
from fedrl.learners.algorithms.vdn import vdn
from fedrl.learners.parts.convolution import conv
from fedrl.learners.parts.networks import mlp, network, per_player
from fedrl.learners.parts.optimizers import adam, add_correction, chain, fedprox, rmsprop, sgd
from fedrl.learners.parts.recurrent import gru
from fedrl.learners.wrappers.acceptance import accept_if_better
from fedrl.learners.wrappers.embedding import freeze_except, with_embedding
from fedrl.learners.wrappers.exploitability import measure_exploitability
from fedrl.learners.wrappers.gradient_penalty import gradient_penalty
from fedrl.learners.wrappers.interpolation import apfl, interpolate
from fedrl.learners.wrappers.mixture import mixture
from fedrl.learners.wrappers.normalize import normalize
from fedrl.learners.wrappers.personal import personal
from fedrl.learners.wrappers.self_play import self_play

__all__ = [
    "a2c",
    "accept_if_better",
    "adam",
    "add_correction",
    "apfl",
    "chain",
    "conv",
    "dqn",
    "fedprox",
    "freeze_except",
    "gradient_penalty",
    "gru",
    "interpolate",
    "mappo",
    "measure_exploitability",
    "mixture",
    "mlp",
    "network",
    "normalize",
    "per_player",
    "personal",
    "ppo",
    "q_table",
    "reinforce",
    "rmsprop",
    "self_play",
    "sgd",
    "vdn",
    "with_embedding",
]
