"""Draw uniform numbers that nobody can predict from others, for decisions that have to stay secret.

    (root, server, round) --BLAKE2b, as a counter--> 8 words of 64 bits --> 8 numbers in [0, 1)

The generators of NumPy are no secret: some of their output determines all of it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from fedrl.core.errors import ConfigError
from fedrl.core.keys import Root, Stream, derived

IN_A_HASH = 8
"""Numbers that one hash yields."""


class SecretDraws:
    """Uniform numbers of one server in one round, in place of a generator of NumPy.

    Args:
        root: The noise root.
        server: Number of the server.
        number: Number of the round.

    Raises:
        ConfigError: There is no root.

    >>> draws = SecretDraws(bytes(32), server=0, number=1)
    >>> draws.random(3).shape
    (3,)
    """

    def __init__(self, root: Root | None, server: int, number: int) -> None:
        if root is None:
            raise ConfigError(
                "Agents were to be sampled without a noise root. Cohorts of poisson(...) follow from 32 secret bytes, "
                "and from nothing that is known of a run. Pass them: fedrl.core.keys.noise_of_system."
            )
        self._root, self._path, self._drawn = root, (server, number), 0

    def random(self, size: int) -> Float64[np.ndarray, " size"]:
        """Return the next numbers, each in [0, 1)."""
        hashes = range(self._drawn, self._drawn + -(-size // IN_A_HASH))
        self._drawn = hashes.stop
        words = [derived(self._root, Stream.SAMPLING, *self._path, i, count=IN_A_HASH) for i in hashes]
        whole = np.concatenate([np.zeros((0, 2), np.uint32), *words]).view(np.uint64)[:size, 0]
        return (whole >> np.uint64(11)) * 2.0**-53
