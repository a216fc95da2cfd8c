"""The same run as cartpole.toml, from Python."""

import fedrl

fedrl.prepare()
summary = fedrl.run(
    fedrl.Config(
        name="cartpole",
        rounds=60,
        seeds=5,
        environment={"name": "cartpole"},
        fleet={"length": {"range": [0.3, 0.7]}, "cart_mass": {"range": [0.8, 1.2]}},
        learner={"name": "ppo"},
        federation=fedrl.FederationConfig(agents=10, local_steps=1, aggregator="mean"),
        baselines=fedrl.BaselinesConfig(independent=True, average_once=True, centralised=True),
    )
)
print(summary["final_return"])
