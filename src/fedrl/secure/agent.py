"""The agent's end of a secure sum: messages in, messages out, no clock and no socket.

    advert()                    ---Advert-->        fresh keys and a fresh seed
    share(AdvertList)           ---SealedShares-->  both secrets, split among neighbours and itself
    mask(Delivery, values)      ---MaskedValues-->  values + own mask + masks with neighbours, which cancel in the sum
    agree(SurvivorList)         ---SetSignature-->  if the plan is verified
    open(SignatureList)         ---OpenedShares-->  of each neighbour one share: of its seed, or of its mask key

Each step happens once and in this order. An agent that is asked for anything else, or that is shown something wrong,
raises and takes no further part in the sum: what it has sent by then reveals nothing.

Reference: Bonawitz et al. (2017), Practical Secure Aggregation for Privacy-Preserving Machine Learning,
https://doi.org/10.1145/3133956.3133982
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from fedrl.core.errors import SecureSumError, TooFewAgentsError
from fedrl.secure.identity import Identity
from fedrl.secure.masks import Mask, apply_masks, derived_key
from fedrl.secure.messages import (
    SHARE,
    Advert,
    AdvertList,
    Delivery,
    MaskedValues,
    OpenedShares,
    SealedShares,
    SetSignature,
    SignatureList,
    SurvivorList,
)
from fedrl.secure.plan import SumPlan
from fedrl.secure.ring import as_ring
from fedrl.secure.shares import commitment, split
from fedrl.secure.transcript import (
    MASK_KEY,
    SEED,
    advert_text,
    box_purpose,
    pair_purpose,
    seed_purpose,
    set_digest,
    share_purpose,
)

NONCE = bytes(12)
"""The nonce of a box. The key of a box encrypts this box alone."""
ENDED = "it has ended its part in this sum"


class SumAgent:
    """An agent in one secure sum.

    Args:
        identity: Its key, and the keys of all agents.
        plan: The plan of the sum.
        threads: Threads that compute masks.

    Raises:
        SecureSumError: The plan doesn't invite the agent, or it has taken part in a sum with this context.
    """

    def __init__(self, identity: Identity, plan: SumPlan, threads: int = 1) -> None:
        self.agent = identity.agent
        if self.agent not in plan.neighbours:
            raise SecureSumError(f"Agent {self.agent} was asked for a sum to which its plan does not invite it.")
        identity.enter(plan.context)
        self.plan, self._identity, self._threads = plan, identity, threads
        self._near = plan.neighbours[self.agent]
        self._state = "advert"
        self._channel_key: Any = None
        self._mask_key: Any = None
        self._seed: bytes | None = None
        self._secrets: dict[int, bytes] = {}
        self._held: dict[int, tuple[bytes, bytes]] = {}

    @contextlib.contextmanager
    def _step(self, name: str, following: str) -> Iterator[None]:
        """Take one step, once: after an error the agent has ended its part."""
        expected, self._state = self._state, ENDED
        if expected != name:
            self._forget()
            raise SecureSumError(
                f"Agent {self.agent} was asked for the step {name!r}, and its next step was {expected!r}. Each step is "
                "taken once and in order: asked twice, an agent would give away more than the sum."
            )
        try:
            yield
        except BaseException:
            self._forget()
            raise
        self._state = following

    def _forget(self) -> None:
        """Drop secrets and shares: nothing more is given out."""
        self._forget_secrets()
        self._held = {}

    def _forget_secrets(self) -> None:
        self._seed = self._mask_key = self._channel_key = None
        self._secrets = {}

    def advert(self) -> Advert:
        """Return fresh public keys, signed."""
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        with self._step("advert", "share"):
            self._channel_key = X25519PrivateKey.generate()
            self._mask_key = X25519PrivateKey.generate()
            self._seed = os.urandom(SHARE)
            self._advert = Advert(
                self.agent,
                self._channel_key.public_key().public_bytes_raw(),
                self._mask_key.public_key().public_bytes_raw(),
                commitment(self._seed, seed_purpose(self.plan, self.agent)),
                b"",
            )
            signature = self._identity.sign(advert_text(self.plan, self._advert))
            self._advert = self._advert._replace(signature=signature)
            return self._advert

    def share(self, shown: AdvertList) -> SealedShares:
        """Return both secrets, split among the neighbours that advertised, each share in a box for its holder.

        Raises:
            SecureSumError: An advert is forged, of another sum, or missing.
            TooFewAgentsError: Fewer agents than the minimum, or fewer holders than the threshold, advertised.
        """
        with self._step("share", "mask"):
            self._check_present(shown.present, self.plan.members, "advertised")
            self._check_senders(tuple(advert.agent for advert in shown.adverts), shown.present, "adverts")
            for advert in shown.adverts:
                text = advert_text(self.plan, advert)
                self._identity.directory.verify(advert.agent, text, advert.signature, "the advert")
            self._adverts = {advert.agent: advert for advert in shown.adverts}
            self._present, self._digest = shown.present, set_digest(self.plan.digest, shown.present)
            return self._sealed()

    def _sealed(self) -> SealedShares:
        assert self._seed is not None
        points = self.plan.points(self.agent)
        of_seed, of_key = (
            split(secret, self.plan.threshold, len(points))
            for secret in (self._seed, self._mask_key.private_bytes_raw())
        )
        boxes, commitments = [], []
        self._held = {}
        for holder, point in points.items():
            seed_share, key_share = of_seed[point - 1], of_key[point - 1]
            if holder == self.agent:
                self._held[holder] = (seed_share, key_share)
            elif holder in self._adverts:
                box = self._cipher(self._advert, self._adverts[holder]).encrypt(
                    NONCE, seed_share + key_share, self._digest
                )
                boxes.append((holder, box))
            else:
                continue
            both = zip((SEED, MASK_KEY), (seed_share, key_share), strict=True)
            hashes = [commitment(share, share_purpose(self.plan, kind, self.agent, holder)) for kind, share in both]
            commitments.append((holder, b"".join(hashes)))
        return SealedShares(self.agent, tuple(boxes), tuple(commitments))

    def _cipher(self, sender: Advert, receiver: Advert) -> Any:
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

        other = receiver if sender.agent == self.agent else sender
        if other.agent not in self._secrets:  # one secret serves both directions, by a key for each
            try:
                secret = self._channel_key.exchange(X25519PublicKey.from_public_bytes(other.channel_key))
            except ValueError as fault:
                raise SecureSumError(f"The channel key of agent {other.agent} is no X25519 key: {fault}.") from None
            self._secrets[other.agent] = secret
        return ChaCha20Poly1305(derived_key(self._secrets[other.agent], box_purpose(self.plan, sender, receiver)))

    def mask(self, delivery: Delivery, values: np.ndarray) -> MaskedValues:
        """Return a vector with its masks.

        Args:
            delivery: The boxes from the neighbours.
            values: int32 or uint32 `[size]`: finite numbers on the grid of the sum, with weights and statistics.

        Raises:
            ValueError: The vector has another type or length than the plan; the agent can be asked again.
            SecureSumError: A box doesn't open, or is missing.
            TooFewAgentsError: Fewer agents than the minimum, or fewer holders than the threshold, sent boxes.
        """
        values = as_ring(values)
        if values.size != self.plan.size:
            raise ValueError(f"A vector has {values.size} entries, and the sum was planned for {self.plan.size}.")
        with self._step("mask", "agree" if self.plan.verified else "open"):
            self._check_present(delivery.present, self._present, "sent boxes")
            self._check_senders(tuple(sender for sender, _ in delivery.boxes), delivery.present, "boxes")
            for sender, box in delivery.boxes:
                self._held[sender] = self._unsealed(sender, box)
            self._present, self._digest = delivery.present, set_digest(self._digest, delivery.present)
            masked = values.copy()
            apply_masks(masked, self._masks([sender for sender, _ in delivery.boxes]), self._threads)
            self._forget_secrets()  # from here on others hold the shares of them
            return MaskedValues(self.agent, masked)

    def _unsealed(self, sender: int, box: bytes) -> tuple[bytes, bytes]:
        from cryptography.exceptions import InvalidTag

        try:
            plain = self._cipher(self._adverts[sender], self._advert).decrypt(NONCE, box, self._digest)
        except InvalidTag:
            raise SecureSumError(
                f"The box from agent {sender} to agent {self.agent} does not open: it was replaced, or both were shown "
                "different lists of agents or keys."
            ) from None
        if len(plain) != 2 * SHARE:
            raise SecureSumError(f"The box from agent {sender} has {len(plain)} bytes, and two shares are {2 * SHARE}.")
        return plain[:SHARE], plain[SHARE:]

    def _masks(self, neighbours: list[int]) -> list[Mask]:
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

        assert self._seed is not None
        masks = [Mask(derived_key(self._seed, seed_purpose(self.plan, self.agent)), True)]
        for other in neighbours:
            advert = self._adverts[other]
            try:
                secret = self._mask_key.exchange(X25519PublicKey.from_public_bytes(advert.mask_key))
            except ValueError as fault:
                raise SecureSumError(f"The mask key of agent {other} is no X25519 key: {fault}.") from None
            key = derived_key(secret, pair_purpose(self.plan, self._advert, advert))
            masks.append(Mask(key, self.agent < other))
        return masks

    def agree(self, survivors: SurvivorList) -> SetSignature:
        """Return a signature under the agents whose vectors arrived, as this agent was shown them.

        Raises:
            SecureSumError: The set is not possible.
            TooFewAgentsError: Fewer vectors than the minimum arrived.
        """
        with self._step("agree", "open"):
            self._take_survivors(survivors)
            return SetSignature(self.agent, self._identity.sign(self._digest))

    def _take_survivors(self, survivors: SurvivorList) -> None:
        self._check_present(survivors.present, self._present, "sent masked vectors")
        self._present, self._digest = survivors.present, set_digest(self._digest, survivors.present)

    def open(self, shown: SurvivorList | SignatureList) -> OpenedShares:
        """Return one share of each neighbour: of its seed if its vector arrived, of its mask key if not; never both.

        Args:
            shown: The signatures of the neighbours; the agents whose vectors arrived if the plan is not verified.

        Raises:
            SecureSumError: A signature is under another set of agents.
            TooFewAgentsError: Fewer holders than the threshold signed the set that this agent was shown.
        """
        with self._step("open", ENDED):
            if isinstance(shown, SurvivorList) == self.plan.verified:
                raise SecureSumError(
                    f"Agent {self.agent} was sent a {type(shown).__name__} to open shares. A verified sum needs the "
                    "signatures of its neighbours under the set of survivors, another one the set."
                )
            if isinstance(shown, SurvivorList):
                self._take_survivors(shown)
            else:
                self._check_signatures(shown)
            arrived = set(self._present)
            opened = tuple((owner, held[0 if owner in arrived else 1]) for owner, held in sorted(self._held.items()))
            self._forget()
            return OpenedShares(self.agent, opened)

    def _check_signatures(self, shown: SignatureList) -> None:
        arrived, signers = set(self._present), {self.agent}
        for other, signature in shown.signatures:
            if other not in self._near or other not in arrived or other in signers:
                raise SecureSumError(f"A signature of agent {other} came, which is no neighbour in the sum, or twice.")
            try:
                self._identity.directory.verify(other, self._digest, signature, "the set of survivors")
            except SecureSumError:
                raise SecureSumError(
                    f"Agent {other} did not sign the set of survivors that agent {self.agent} was shown: the "
                    "coordinator shows different sets to different agents, or made the signature up."
                ) from None
            signers.add(other)
        self._check_holders(len(signers), "signed the same set of survivors")

    def _check_present(self, present: tuple[int, ...], possible: tuple[int, ...], what: str) -> None:
        """Refuse a set of agents that is impossible, or too small for the sum to hide this agent's vector."""
        if tuple(sorted(set(present))) != present or not set(present) <= set(possible) or self.agent not in present:
            raise SecureSumError(
                f"Agent {self.agent} was shown a set of agents that {what}, in which it is missing itself, or in which "
                "agents are that were not there before: the coordinator shows an impossible set."
            )
        if len(present) < self.plan.minimum:
            raise TooFewAgentsError(
                f"{len(present)} agents {what}, and the plan asks for {self.plan.minimum} in a sum: it stays hidden."
            )
        self._check_holders(1 + sum(other in set(present) for other in self._near), what)

    def _check_holders(self, count: int, what: str) -> None:
        if count < self.plan.threshold:
            raise TooFewAgentsError(
                f"{count} of the {self.plan.degree + 1} holders of agent {self.agent}'s secrets {what}, and "
                f"{self.plan.threshold} are needed to open them: the sum could not be completed."
            )

    def _check_senders(self, senders: tuple[int, ...], present: tuple[int, ...], what: str) -> None:
        """Refuse messages from others than all neighbours that are present, each once."""
        expected = tuple(sorted(set(self._near) & set(present)))
        if tuple(sorted(senders)) != expected:
            raise SecureSumError(
                f"Agent {self.agent} was sent {what} of {len(senders)} agents, and {len(expected)} of its neighbours "
                "are there: some are missing, twice, or of agents that are no neighbours."
            )
