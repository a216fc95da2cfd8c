"""Communication topologies: graphs, mixing weights and gossip rules without a server, and trees of servers."""

from fedrl.topologies.given_graphs import from_file, time_varying
from fedrl.topologies.gossip import average, gradient_tracking, push_sum
from fedrl.topologies.graphs import complete, exponential, hypercube, ring, star, torus
from fedrl.topologies.mixing import column_stochastic, laplacian, metropolis, uniform_neighbours
from fedrl.topologies.random_graphs import erdos_renyi, random_matching, watts_strogatz
from fedrl.topologies.trees import given_tree, tree

__all__ = [
    "average",
    "column_stochastic",
    "complete",
    "erdos_renyi",
    "exponential",
    "from_file",
    "given_tree",
    "gradient_tracking",
    "hypercube",
    "laplacian",
    "metropolis",
    "push_sum",
    "random_matching",
    "ring",
    "star",
    "time_varying",
    "torus",
    "tree",
    "uniform_neighbours",
    "watts_strogatz",
]
