"""Where noise roots come from: the operating system, the seed of a run, or nowhere if no part draws from one.

keys --NoiseSource--> noise root of the next merge of a simulation, or of the next job or version of a half
"""

from __future__ import annotations

from fedrl.core.keys import Keys, NoiseRoot, NoiseSource, Root, check_roots, no_noise, noise_of_seed, noise_of_system
from fedrl.federation.federation import Federation
from fedrl.federation.private import adds_noise
from fedrl.server.scheduler import Scheduler


def of_simulation(federation: Federation, scheduler: Scheduler, reproducible: bool) -> NoiseSource:
    """Return the source of a simulation; `reproducible` noise follows from the seed."""
    sampled = scheduler.selection is not None and scheduler.selection.sampling is not None
    if not sampled and not adds_noise(federation.learner, federation.stages):
        return no_noise
    return noise_of_seed if reproducible else noise_of_system


def of_half(federation: Federation, run: Root, secret: Root, noise: Root | None) -> NoiseSource:
    """Return the source of one party: `noise` in every round, or by default the operating system.

    Raises:
        ConfigError: `noise` is no root, or one of the others.
    """
    if noise is not None:
        check_roots(run=run, secret=secret, noise=noise)
    if not adds_noise(federation.learner, federation.stages):
        return no_noise
    return noise_of_system if noise is None else _always(NoiseRoot(noise))


def _always(root: NoiseRoot) -> NoiseSource:
    def source(keys: Keys) -> NoiseRoot:
        del keys
        return root

    return source
