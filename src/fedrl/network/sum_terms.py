"""Which secure sums a federation has over a network, as either end knows it by itself."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.summation import Summation, hidden
from fedrl.core.types import Update
from fedrl.engines.messages import messages
from fedrl.federation.federation import Federation
from fedrl.secure.ckks import EncryptionKey
from fedrl.secure.credential import SumSigner
from fedrl.secure.invitation import Terms
from fedrl.secure.protocols import PROTOCOLS
from fedrl.secure.vector import vector_size
from fedrl.transport.credentials import Credentials
from fedrl.transport.seam import Transport

WHY_NOT = {"none": "adds numbers in a simulation, where nobody has to be kept from reading them"}
"""Why other protocols don't go over a network, by name."""


def terms_of(federation: Federation, run: str, agents: int, digest: str) -> Terms:
    """Return what an end knows of all secure sums of a run.

    Args:
        federation: Its federation, whose summation hides updates.
        run: Identity of the run.
        agents: Number of agents.
        digest: Digest of the federation, hexadecimal.
    """
    one = jax.tree.map(lambda x: jnp.asarray(x)[None], federation.learner.environment.params)
    decoded, summation = messages(federation, one).decoded, federation.summation
    counts = sum(leaf.size for leaf in jax.tree.leaves(decoded.statistics))
    entries = vector_size(code_count(decoded), counts)
    aggregator, samples = federation.aggregator, federation.learner.samples
    weights = tuple(float(aggregator.weight_scale(float(n * samples))) for n in range(1, federation.local_steps + 1))
    minimum, verified = max(summation.minimum, 2), summation.verified
    return Terms(run, agents, digest, entries, minimum, verified, weights, summation.protocol)


def code_count(decoded: Update) -> int:
    """Return the number of codes in a vector: the entries of a decoded update, and its weight."""
    return sum(leaf.size for leaf in jax.tree.leaves(decoded.value)) + 1


def certified(federation: Federation, transport: Transport) -> Credentials | None:
    """Return the certificates by which agents know each other in secure sums; None if updates are not hidden in sums.

    Raises:
        UnsoundError: The protocol of the summation does not go over a network.
        ConfigError: The transport authenticates nobody.
    """
    summation = hidden(federation.summation)
    if summation is None:
        return None
    check_protocol(summation)
    if transport.credentials is None:
        raise ConfigError(
            f"{summation!r} hides updates in sums, for which agents know each other by certificates, and this "
            "transport has none: a coordinator could be all others. Use gRPC with mutual TLS."
        )
    return transport.credentials


def check_protocol(summation: Summation) -> None:
    """Refuse a summation that hides updates by a protocol that does not go over a network.

    Raises:
        UnsoundError: It does.
    """
    if summation.protocol not in PROTOCOLS:
        why = WHY_NOT.get(summation.protocol, "is not one that agents at other sites carry out")
        known = ", ".join(repr(name) for name in PROTOCOLS)
        raise UnsoundError(
            f"{summation!r} has protocol = {summation.protocol!r}, which {why}. Use one of {known}, or simulate the "
            "federation.",
            reason="hidden",
        )


def check_encryption_key(federation: Federation, given: bool) -> None:
    """Refuse encrypted sums without the key that agents share, and the key where nothing is encrypted with it.

    Args:
        federation: Federation of the site.
        given: Whether the site has a key.

    Raises:
        ConfigError: There is none and one is needed, or the other way round.
    """
    summation = hidden(federation.summation)
    needed = summation is not None and summation.protocol in PROTOCOLS and PROTOCOLS[summation.protocol].has_key
    if needed and not given:
        raise ConfigError(
            f"{summation!r} encrypts updates with a key that all agents share, and this site has none. Make one at one "
            "site with `fedrl certs encryption-key`, copy its file to the others past the coordinator, and name it as "
            "encryption_key."
        )
    if given and not needed:
        raise ConfigError(
            "encryption_key is given, and no update of this federation is encrypted with it. Leave it out, or use a "
            'summation with protocol = "ckks".'
        )


def signer_of(
    federation: Federation, transport: Transport, encryption_key: EncryptionKey | None = None
) -> tuple[SumSigner, bytes] | None:
    """Return a site's key for secure sums and its certificate of the authority; None if updates are not hidden in sums.

    Args:
        federation: Federation of the site.
        transport: How to reach the coordinator.
        encryption_key: The key that all agents share in encrypted sums; None for other protocols.

    Raises:
        UnsoundError: The protocol of the summation does not go over a network.
        ConfigError: The transport authenticates nobody, its certificates can't be read, or the key of encrypted sums is
            missing, or not needed.
    """
    found = certified(federation, transport)
    check_encryption_key(federation, encryption_key is not None)
    return None if found is None else (SumSigner(found, encryption_key), found.ca)
