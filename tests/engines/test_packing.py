"""Trees as rows of words: every type comes back bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.engines.packing import packing

TREE = {
    "real": jnp.array([[1.5, -0.0], [jnp.inf, jnp.nan]]),
    "half": jnp.array([1.5, -2.0], jnp.bfloat16),
    "whole": jnp.array([-1, 2**31 - 1], jnp.int32),
    "bytes": jnp.array([255, 0], jnp.uint8),
    "truth": jnp.array([True, False, True]),
    "key": jax.random.key(7),
    "nothing": jnp.zeros((0, 3)),
    "scalar": jnp.float32(1e-42),
}


def test_a_tree_survives_packing_bit_for_bit():
    how = packing(TREE)
    rows = jax.jit(jax.vmap(how.pack))(jax.tree.map(lambda x: jnp.stack([x, x]), TREE))
    assert rows.shape == (2, how.num_words)
    assert rows.dtype == jnp.uint32
    back = jax.jit(how.unpack)(np.asarray(rows)[1])
    assert jax.tree.structure(back) == jax.tree.structure(TREE)
    for found, leaf in zip(jax.tree.leaves(back), jax.tree.leaves(TREE), strict=True):
        assert found.dtype == leaf.dtype
        raw = [jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in (found, leaf)]
        assert np.asarray(raw[0]).tobytes() == np.asarray(raw[1]).tobytes()
