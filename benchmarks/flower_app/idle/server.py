"""A server that averages, and prints how long each round took and how many agents took part."""

import time

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class Timed(FedAvg):
    def configure_train(self, server_round, arrays, config, grid):
        self.began = time.perf_counter()
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        found = super().aggregate_train(server_round, replies)
        print(f"ROUND {server_round} {len(replies)} {time.perf_counter() - self.began}", flush=True)
        return found


@app.main()
def main(grid: Grid, context: Context) -> None:
    asked = context.run_config
    agents = int(asked["agents"])
    while len(list(grid.get_node_ids())) < agents:
        time.sleep(0.5)
    strategy = Timed(fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=agents, min_available_nodes=agents)
    first = ArrayRecord([np.zeros(int(asked["parameters"]), np.float32)])
    strategy.start(grid=grid, initial_arrays=first, num_rounds=int(asked["rounds"]))
