"""Run the experiment of cartpole.toml from Python."""

import fedrl
from fedrl.environments import cartpole
from fedrl.learners import adam, ppo

fedrl.configure_jax()
env = cartpole()
result = fedrl.run(
    fedrl.Config(
        name="cartpole",
        rounds=45,
        seeds=5,
        environment=env,
        fleet={"length": {"range": [0.3, 0.7]}, "cart_mass": {"range": [0.8, 1.2]}},
        learner=ppo(env, optimizer=adam(0.004, max_norm=0.5, decay_steps=960)),
        federation=fedrl.FederationConfig(agents=10, local_steps=1, aggregator="mean"),
        baselines=fedrl.BaselinesConfig(independent=True, average_once=True, centralised=True),
    )
)
print(result["final_return"])
