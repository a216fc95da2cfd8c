"""Five agents, each with its own pole, learn one policy that balances all poles: python experiment.py."""

import fedrl
from fedrl.aggregators import mean
from fedrl.environments import cartpole
from fedrl.learners import adam, ppo

fedrl.configure_jax()  # before the first array: all cores, and a cache of compiled programs

environment = cartpole()  # fedrl.environments has the others
config = fedrl.Config(
    name="experiment",
    rounds=40,  # exchanges between the agents and the server
    seeds=2,  # comparisons get intervals from them
    environment=environment,
    fleet={"length": {"range": [0.3, 0.7]}},  # how the agents' environments differ: half the pole in metres
    learner=ppo(environment, optimizer=adam(0.004, max_norm=0.5)),
    federation=fedrl.FederationConfig(agents=5, aggregator=mean()),
    baselines=fedrl.BaselinesConfig(independent=True),  # every agent alone
    evaluation=fedrl.EvaluationConfig(episodes=20),  # greedy episodes per agent, at the end
)
summary = fedrl.run(config)
print(f"return {summary['final_return']['mean']:.0f}")
