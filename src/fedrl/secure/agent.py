"""The agent's end of a secure sum: messages in, messages out, no clock and no socket.

    advert()                    ---Advert-->        fresh keys and a fresh seed
    share(AdvertList)           ---SealedShares-->  both secrets, split among neighbours and itself, in boxes for them
    mask(Delivery, values)      ---MaskedValues-->  values + own mask + masks with neighbours, which cancel in the sum
    agree(SurvivorList)         ---SurvivorTags-->  if the plan is verified: for each neighbour, that it saw this set
    open(TagList)               ---OpenedShares-->  of each neighbour one share: of its seed, or of its mask key

Each step happens once and in this order. An agent that is asked for anything else, or that is shown something wrong,
raises and takes no further part in the sum: what it has sent by then reveals nothing.

Reference: Bonawitz et al. (2017), Practical Secure Aggregation for Privacy-Preserving Machine Learning,
https://doi.org/10.1145/3133956.3133982
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedrl.core.errors import SecureSumError, TooFewAgentsError
from fedrl.secure.channel import Channel, TagKeys, agreed
from fedrl.secure.fresh_keys import FreshKeys
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
    SumKeys,
    SurvivorList,
    SurvivorTags,
    TagList,
)
from fedrl.secure.plan import SumPlan
from fedrl.secure.ring import as_ring
from fedrl.secure.shares import commitment, split
from fedrl.secure.steps import ENDED, Steps
from fedrl.secure.transcript import (
    MASK_KEY,
    SEED,
    channel_purpose,
    pair_purpose,
    seed_purpose,
    set_digest,
    share_purpose,
    survivors_text,
)


class SumAgent:
    """An agent in one secure sum.

    Args:
        identity: Its key, and the keys of all agents.
        plan: The plan of the sum.
        threads: Threads that compute masks.
        keys: Keys that were drawn and advertised before the plan was known; new ones if None.

    Attributes:
        faults: Wrong tags of neighbours that were left out, a sentence for all of them.
        included: The agents whose vectors arrived, as it was shown them; empty before that.

    Raises:
        SecureSumError: The plan doesn't invite the agent, it has taken part in a sum with this context, or the keys
            were used in another sum.
    """

    def __init__(self, identity: Identity, plan: SumPlan, threads: int = 1, keys: FreshKeys | None = None) -> None:
        self.agent = identity.agent
        if self.agent not in plan.neighbours:
            raise SecureSumError(f"Agent {self.agent} was asked for a sum to which its plan does not invite it.")
        identity.enter(plan.context)
        self.plan, self._identity, self._threads = plan, identity, threads
        self._near = plan.neighbours[self.agent]
        self._step = Steps(self.agent, "advert", self._forget).take
        keys = FreshKeys(self.agent) if keys is None else keys
        self._keys, secrets = keys.public, keys.take()
        self._channel_key: Any = secrets[0]
        self._mask_key: Any = secrets[1]
        self._seed: bytes | None = secrets[2]
        self._channels: dict[int, Channel] = {}
        self._tag_keys: dict[int, TagKeys] = {}
        self.faults: list[str] = []
        self.included: tuple[int, ...] = ()
        self._held: dict[int, tuple[bytes, bytes]] = {}

    def _forget(self) -> None:
        """Drop secrets and shares: nothing more is given out."""
        self._forget_secrets()
        self._held, self._tag_keys = {}, {}

    def _forget_secrets(self) -> None:
        self._seed = self._mask_key = self._channel_key = None
        self._channels = {}

    def advert(self) -> Advert:
        """Return the public keys."""
        with self._step("advert", "share"):
            return Advert(self._keys)

    def share(self, shown: AdvertList) -> SealedShares:
        """Return both secrets, split among the neighbours that advertised, each share in a box for its holder.

        A forged advert is not seen here: boxes between both agents do not open then, for anybody.

        Raises:
            SecureSumError: An advert is missing or of no neighbour, or a key is none.
            TooFewAgentsError: Fewer agents than the minimum, or fewer holders than the threshold, advertised.
        """
        with self._step("share", "mask"):
            self._check_present(shown.present, self.plan.members, "advertised")
            self._check_senders(tuple(keys.agent for keys in shown.adverts), shown.present, "adverts")
            self._adverts = {keys.agent: keys for keys in shown.adverts}
            self._channels = {other: self._channel(advert) for other, advert in self._adverts.items()}
            self._present, self._digest = shown.present, set_digest(self.plan.digest, shown.present)
            return self._sealed()

    def _channel(self, other: SumKeys) -> Channel:
        fresh = agreed(self._channel_key, other.channel_key, f"channel key of agent {other.agent}")
        return self._identity.channel(other.agent, channel_purpose(self.plan, self._keys, other), fresh)

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
                boxes.append((holder, self._channels[holder].seal(seed_share + key_share, self._digest)))
            else:
                continue
            both = zip((SEED, MASK_KEY), (seed_share, key_share), strict=True)
            hashes = [commitment(share, share_purpose(self.plan, kind, self.agent, holder)) for kind, share in both]
            commitments.append((holder, b"".join(hashes)))
        return SealedShares(self.agent, tuple(boxes), tuple(commitments))

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
            self._tag_keys = {sender: self._channels[sender].tags for sender, _ in delivery.boxes}
            self._forget_secrets()  # from here on others hold the shares of them
            return MaskedValues(self.agent, masked)

    def _unsealed(self, sender: int, box: bytes) -> tuple[bytes, bytes]:
        plain = self._channels[sender].open(box, self._digest)
        if plain is None:
            raise SecureSumError(
                f"The box from agent {sender} to agent {self.agent} does not open: it was replaced, or both were shown "
                "different plans, lists of agents or keys."
            )
        if len(plain) != 2 * SHARE:
            raise SecureSumError(f"The box from agent {sender} has {len(plain)} bytes, and two shares are {2 * SHARE}.")
        return plain[:SHARE], plain[SHARE:]

    def _masks(self, neighbours: list[int]) -> list[Mask]:
        assert self._seed is not None
        masks = [Mask(derived_key(self._seed, seed_purpose(self.plan, self.agent)), True)]
        for other in neighbours:
            advert = self._adverts[other]
            secret = agreed(self._mask_key, advert.mask_key, f"mask key of agent {other}")
            key = derived_key(secret, pair_purpose(self.plan, self._keys, advert))
            masks.append(Mask(key, self.agent < other))
        return masks

    def agree(self, survivors: SurvivorList) -> SurvivorTags:
        """Return tags under the agents whose vectors arrived, as this agent was shown them, for its neighbours.

        Raises:
            SecureSumError: The set is not possible.
            TooFewAgentsError: Fewer vectors than the minimum arrived.
        """
        with self._step("agree", "open"):
            self._take_survivors(survivors)
            text, arrived = survivors_text(self._digest), set(self._present)
            keys = {other: keys for other, keys in sorted(self._tag_keys.items()) if other in arrived}
            return SurvivorTags(self.agent, tuple((other, each.tag(text)) for other, each in keys.items()))

    def _take_survivors(self, survivors: SurvivorList) -> None:
        self._check_present(survivors.present, self._present, "sent masked vectors")
        self._present, self._digest = survivors.present, set_digest(self._digest, survivors.present)
        self.included = survivors.present

    def open(self, shown: SurvivorList | TagList) -> OpenedShares:
        """Return one share of each neighbour: of its seed if its vector arrived, of its mask key if not; never both.

        Args:
            shown: The tags from the neighbours; the agents whose vectors arrived if the plan is not verified. A wrong
                tag counts as none: else one neighbour could end the part of an agent.

        Raises:
            SecureSumError: Tags are wrong, and without them it is fewer holders than the threshold who were shown the
                same set as this agent.
            TooFewAgentsError: Tags of fewer holders than the threshold came.
        """
        with self._step("open", ENDED):
            if isinstance(shown, SurvivorList) == self.plan.verified:
                raise SecureSumError(
                    f"Agent {self.agent} was sent a {type(shown).__name__} to open shares. A verified sum needs the "
                    "tags of its neighbours under the set of survivors, another one the set."
                )
            if isinstance(shown, SurvivorList):
                self._take_survivors(shown)
            else:
                self._check_tags(shown)
            arrived = set(self._present)
            opened = tuple((owner, held[0 if owner in arrived else 1]) for owner, held in sorted(self._held.items()))
            self._forget()
            return OpenedShares(self.agent, opened)

    def _check_tags(self, shown: TagList) -> None:
        text, arrived = survivors_text(self._digest), set(self._present)
        senders = [other for other, _ in shown.tags]
        if len(set(senders)) < len(senders) or not set(senders) <= arrived & set(self._near):
            raise SecureSumError(
                f"Agent {self.agent} was sent tags of agents {senders}, of which one is no neighbour in the sum, or "
                "comes twice."
            )
        wrong = [other for other, tag in shown.tags if not self._tag_keys[other].fits(tag, text)]
        right = 1 + len(senders) - len(wrong)
        if wrong:
            said = (
                f"The tags from agents {wrong} are not under the set of survivors that agent {self.agent} was shown: "
                "the coordinator shows different sets to different agents, or tags were made up"
            )
            if right < self.plan.threshold:
                raise SecureSumError(f"{said}. {right} holders were shown the same set, {self.plan.threshold} must be.")
            self.faults.append(f"{said}. They were left out.")
        self._check_holders(right, "were shown the same set of survivors")

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
