"""The example of the README is an environment."""

import pathlib
import re

import jax
import jax.numpy as jnp

import fedrl.environments
from fedrl.core.component import CATALOGUE
from fedrl.environments import fleet


def test_the_readme_shows_an_environment_that_works():
    text = (pathlib.Path(fedrl.environments.__file__).parent / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    scope = {"__name__": "readme"}
    try:
        exec(code, scope)
        environment = scope["walk"](max_steps=50)
    finally:
        CATALOGUE.pop(("environment", "walk"), None)
    params = fleet(environment, 2, {"stride": [0.3, 0.01]})
    _, state = jax.vmap(environment.reset, (-1, 0), -1)(jnp.full((1, 2), 0.75), params)
    move = jax.jit(jax.vmap(environment.step, (None, 0, -1, None), -1))
    for _ in range(3):
        timestep, state = move((), params, state, jnp.int32(1))
    assert timestep.terminated.tolist() == [True, False]
    assert repr(environment) == "walk()"
