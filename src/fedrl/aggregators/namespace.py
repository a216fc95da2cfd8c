"""One rule for both worlds: NumPy where the arrays are NumPy's, JAX where they are traced.

On a CPU, NumPy's reductions and sorts over agents are up to forty times as fast as XLA's.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.types import PyTree


def namespace(updates: PyTree) -> Any:
    """The module whose functions suit every array in `updates`: `numpy` if all are NumPy's, else `jax.numpy`.

    >>> import numpy as np
    >>> namespace({"weight": np.ones(3)}).__name__
    'numpy'
    """
    return np if all(isinstance(leaf, np.ndarray | np.generic) for leaf in jax.tree.leaves(updates)) else jnp
