"""Learning algorithms, each useful alone, and the parts they are made of."""

from fedrl.learners.networks import mlp, network
from fedrl.learners.optimizers import adam, corrected, proximal, sgd
from fedrl.learners.ppo import ppo

__all__ = ["adam", "corrected", "mlp", "network", "ppo", "proximal", "sgd"]
