"""What an agent says about itself, worked out by hand."""

import jax.numpy as jnp
import pytest

from fedrl.core.reports import statement
from fedrl.core.types import UpdateContext


def test_an_agent_tells_means_and_not_sums():
    metrics = {"loss": jnp.float32(12.0), "episodes": jnp.float32(3.0), "episode_return": jnp.float32(6.0)}
    context = UpdateContext(jnp.int32(5), jnp.int32(0), jnp.int32(2), jnp.int32(4), metrics)
    told = statement(["norm", "return", "loss"], context, {"a": jnp.array([3.0]), "b": jnp.array([0.0, 4.0])})
    assert {name: float(value) for name, value in told.items()} == pytest.approx(
        {"norm": 5.0, "return": 2.0, "loss": 3.0}  # of four local steps
    )
