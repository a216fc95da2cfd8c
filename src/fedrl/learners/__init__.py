"""Learning algorithms, each useful alone, and the parts they are made of."""

from fedrl.learners.networks import mlp, network
from fedrl.learners.optimizers import adam, chain, corrected, proximal, rmsprop, sgd
from fedrl.learners.ppo import ppo

__all__ = ["adam", "chain", "corrected", "mlp", "network", "ppo", "proximal", "rmsprop", "sgd"]
