"""The coordinator's end of a secure sum: messages in, messages out, no clock and no socket.

    phase        receive           close: who is left enough?       returned
    adverts      Advert            -> AdvertList for each
    shares       SealedShares      -> Delivery for each
    masked       MaskedValues      -> SurvivorList for each          vectors are added as they come, and not kept
    tags         SurvivorTags      -> TagList for each               if the plan is verified
    opening      OpenedShares      total(): the sum, without its masks

Whoever drives it decides when a phase closes: a simulation at once, a virtual clock at its deadline, a network by a
timer. A message that raises has changed nothing; its sender counts as dropped unless it sends another one in time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from fedrl.core.errors import SecureSumError, TooFewAgentsError
from fedrl.secure.channel import TAG, agreed
from fedrl.secure.masks import Mask, apply_masks, derived_key
from fedrl.secure.messages import (
    BOX,
    HASH,
    Advert,
    AdvertList,
    Delivery,
    MaskedValues,
    OpenedShares,
    SealedShares,
    SumKeys,
    SumMessage,
    SurvivorList,
    SurvivorTags,
    TagList,
)
from fedrl.secure.plan import SumPlan
from fedrl.secure.ring import add, as_ring
from fedrl.secure.shares import commitment, joined
from fedrl.secure.steps import check_turn
from fedrl.secure.transcript import (
    MASK_KEY,
    SEED,
    committed_seed,
    pair_purpose,
    seed_purpose,
    set_digest,
    share_purpose,
)

PHASES = ("adverts", "shares", "masked", "tags", "opening")
"""The phases in which agents send. A plan that is not verified has no tags."""
ENDED = "ended"


class SumCoordinator:
    """The coordinator of one secure sum.

    Args:
        plan: The plan of the sum.

    Attributes:
        phase: The phase: one of `PHASES`, or "ended".
        included: The agents whose vectors are in the sum; known once the phase "masked" is closed.
        faults: Wrong shares that were left out, a sentence each.
    """

    repeatable: tuple[str, ...] = PHASES[:2]
    """The phases after which a sum may begin again: no masked vector has been asked for."""

    def __init__(self, plan: SumPlan) -> None:
        self.plan = plan
        self.phase = PHASES[0]
        self.included: tuple[int, ...] = ()
        self.faults: list[str] = []
        self._present: tuple[int, ...] = plan.members
        self._came: dict[int, Any] = {}
        self._digest = plan.digest
        self._sum = np.zeros(plan.size, np.uint32)
        self._adverts: dict[int, SumKeys] = {}
        self._sealed: dict[int, SealedShares] = {}

    @property
    def complete(self) -> bool:
        """Whether the sum is what comes next, and no further phase."""
        return self.phase == "opening"

    def receive(self, sender: int, message: SumMessage) -> None:
        """Take a message.

        Args:
            sender: The agent from which it came, as the connection knows it.
            message: The message.

        Raises:
            SecureSumError: It is not what this agent has to send now.
        """
        phases: dict[str, tuple[type[Any] | None, Callable[[Any], Any]]] = {
            "adverts": (Advert, self._take_advert),
            "shares": (SealedShares, self._take_shares),
            "masked": (MaskedValues, self._take_masked),
            "tags": (SurvivorTags, self._take_tags),
            "opening": (OpenedShares, self._take_opened),
        }
        expected, take = phases.get(self.phase, (None, bool))
        check_turn(sender, message, expected, self.phase, self._present, self._came)
        self._came[sender] = take(message)

    def _take_advert(self, advert: Advert) -> Advert:
        return advert

    def _take_shares(self, sealed: SealedShares) -> SealedShares:
        near = self._near(sealed.agent, self._present)
        self._check_rows(sealed.agent, "boxes", sealed.boxes, near, BOX)
        self._check_rows(sealed.agent, "commitments", sealed.commitments, (*near, sealed.agent), 2 * HASH)
        return sealed

    def _take_masked(self, masked: MaskedValues) -> bool:
        values = as_ring(masked.values)
        if values.size != self.plan.size:
            raise SecureSumError(
                f"Agent {masked.agent} sent a vector of {values.size} entries, and the sum has {self.plan.size}."
            )
        add(self._sum, values)
        return True

    def _take_tags(self, sent: SurvivorTags) -> dict[int, bytes]:
        self._check_rows(sent.agent, "tags", sent.tags, self._near(sent.agent, self.included), TAG)
        return dict(sent.tags)

    def _take_opened(self, opened: OpenedShares) -> dict[int, bytes]:
        """Return the shares that fit their commitments."""
        holder, arrived = opened.agent, set(self.included)
        owners = (*self._near(holder, tuple(self._sealed)), holder)
        self._check_rows(holder, "shares", opened.shares, owners, HASH)
        right = {}
        for owner, share in opened.shares:
            kind = SEED if owner in arrived else MASK_KEY
            both = dict(self._sealed[owner].commitments)[holder]
            expected = both[:HASH] if owner in arrived else both[HASH:]
            if commitment(share, share_purpose(self.plan, kind, owner, holder)) == expected:
                right[owner] = share
            else:
                self.faults.append(
                    f"The share of agent {owner}'s {kind.decode()} that agent {holder} holds is wrong and was left "
                    "out: one of both made it up."
                )
        return right

    def _check_rows(
        self, sender: int, what: str, rows: tuple[tuple[int, bytes], ...], agents: Iterable[int], size: int
    ) -> None:
        if sorted(agent for agent, _ in rows) != sorted(agents) or any(len(content) != size for _, content in rows):
            raise SecureSumError(
                f"Agent {sender} sent {len(rows)} {what}, which are not one of {size} bytes for each agent of its "
                "neighbourhood that is there."
            )

    def _near(self, agent: int, present: Iterable[int]) -> tuple[int, ...]:
        found = set(present)
        return tuple(other for other in self.plan.neighbours[agent] if other in found)

    def close(self) -> dict[int, SumMessage]:
        """End a phase, and return what each agent that is left has to be sent.

        Raises:
            TooFewAgentsError: Fewer agents than the minimum or the threshold are left. The sum has ended.
            SecureSumError: This phase is ended by `total`, or the sum has ended.
        """
        closings: dict[str, Callable[[dict[int, Any]], dict[int, SumMessage]]] = {
            "adverts": self._close_adverts,
            "shares": self._close_shares,
            "masked": self._close_masked,
            "tags": self._close_tags,
        }
        if self.phase not in closings:
            raise SecureSumError(f"The phase {self.phase!r} of a secure sum can't be closed: after it comes the sum.")
        closing = closings[self.phase]
        present, least = tuple(sorted(self._came)), self.plan.threshold
        if self.phase != "tags":
            least = max(least, self.plan.minimum)
        if len(present) < least:
            phase, self.phase = self.phase, ENDED
            raise TooFewAgentsError(
                f"{len(present)} of {len(self._present)} agents sent what the phase {phase!r} asks for, and {least} "
                "are needed: the sum stays hidden. Wait longer, invite more agents, or lower the threshold."
            )
        if self.phase != "tags":
            self._digest = set_digest(self._digest, present)
        came, self._came, self._present = self._came, {}, present
        return closing(came)

    def _close_adverts(self, came: dict[int, Advert]) -> dict[int, SumMessage]:
        self._adverts, self.phase = {agent: advert.keys for agent, advert in came.items()}, "shares"
        return {
            agent: AdvertList(self._present, tuple(self._adverts[other] for other in self._near(agent, came)))
            for agent in came
        }

    def _close_shares(self, came: dict[int, SealedShares]) -> dict[int, SumMessage]:
        self._sealed, self.phase = came, "masked"
        boxes = {sender: dict(sealed.boxes) for sender, sealed in came.items()}
        return {
            agent: Delivery(self._present, tuple((other, boxes[other][agent]) for other in self._near(agent, came)))
            for agent in came
        }

    def _close_masked(self, came: dict[int, bool]) -> dict[int, SumMessage]:
        self.included, self.phase = self._present, "tags" if self.plan.verified else "opening"
        return {agent: SurvivorList(self._present) for agent in came}

    def _close_tags(self, came: dict[int, dict[int, bytes]]) -> dict[int, SumMessage]:
        self.phase = "opening"
        return {
            agent: TagList(tuple((other, came[other][agent]) for other in self._near(agent, came))) for agent in came
        }

    def total(self, threads: int = 1) -> np.ndarray:
        """Remove all masks that are left, and return the sum of the vectors that arrived.

        Args:
            threads: Threads that compute masks.

        Returns:
            uint32 `[size]`, modulo 2^32; `included` names the agents.

        Raises:
            TooFewAgentsError: A secret has fewer shares than the threshold.
            SecureSumError: It is not the phase "opening", or the shares of an agent don't give its secret.
        """
        if self.phase != "opening":
            raise SecureSumError(f"The sum was asked for in the phase {self.phase!r}, and is there after 'opening'.")
        self.phase = ENDED
        masks = [Mask(self._own_key(agent), False) for agent in self.included]
        for agent in set(self._sealed) - set(self.included):
            masks += self._masks_with(agent)
        apply_masks(self._sum, masks, threads)
        return self._sum

    def _own_key(self, agent: int) -> bytes:
        """Return the key of the own mask of an agent whose vector arrived."""
        seed, purpose = self._joined(agent), seed_purpose(self.plan, agent)
        advert = self._adverts[agent]
        committed = committed_seed(agent, advert.channel_key, advert.mask_key)
        if commitment(seed, committed) != advert.seed_commitment:
            raise self._made_up(agent)
        return derived_key(seed, purpose)

    def _masks_with(self, agent: int) -> list[Mask]:
        """Return what the masks of an agent that left have put into the vectors of its neighbours, to remove it."""
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        neighbours = self._near(agent, self.included)
        if not neighbours:
            return []
        advert, key = self._adverts[agent], X25519PrivateKey.from_private_bytes(self._joined(agent))
        if key.public_key().public_bytes_raw() != advert.mask_key:
            raise self._made_up(agent)
        masks = []
        for other in neighbours:  # a key of small order is one that no honest neighbour accepts either
            secret = agreed(key, self._adverts[other].mask_key, f"mask key of agent {other}")
            masks.append(
                Mask(derived_key(secret, pair_purpose(self.plan, advert, self._adverts[other])), agent < other)
            )
        return masks

    def _joined(self, owner: int) -> bytes:
        points = self.plan.points(owner)
        shares = {points[holder]: right[owner] for holder, right in self._came.items() if owner in right}
        return joined(shares, self.plan.threshold)

    def _made_up(self, agent: int) -> SecureSumError:
        return SecureSumError(
            f"The shares of agent {agent} don't give the secret to which it committed: it made them up. The sum can't "
            "be opened. Leave the agent out of the next one."
        )
