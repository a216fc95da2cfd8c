"""The messages by which agents and a coordinator carry out a secure sum, since version 1.2 of the protocol.

    agent                                coordinator
    Credential  ----------------------->            before Ready: its key for sums, certified by the authority
    JobDone     ----------------------->            a job is done, and fresh keys; its vector stays with the agent
                <-----------------------  Invitation   what the sum is, its members, credentials and keys of neighbours
    SumReply    ----------------------->            the first message, or Declined: it takes no part, and why
                <-----------------------  SumRequest   what the next phase shows an agent
    SumReply    ----------------------->            its answer; and so on, phase by phase

Contents of `SumRequest` and `SumReply` are those of the protocol (`fedrl.secure.protocols`). Each comes again as the
same bytes if a connection breaks in between.
"""

from __future__ import annotations

from typing import NamedTuple


class Credential(NamedTuple):
    """By which key an agent is known in secure sums.

    Attributes:
        content: Its certificate, the key and the signature that certifies it: `fedrl.secure.credential`.
    """

    content: bytes


class JobDone(NamedTuple):
    """A job is done, and its update waits for a secure sum.

    Attributes:
        job: Number of the job.
        version: Version of the broadcast from which the agent trained.
        fits: Whether all numbers are finite and within the grid of the sum; else the update is left out.
        content: The agent's public keys for the sum, drawn for it alone (`fedrl.secure.fresh_keys`); empty for a
            protocol without such. Since version 1.3.
        last_sum: What it was told of the last sum in which its vector was, for the others (`fedrl.secure.orders`):
            24 hexadecimal digits, or "" if there was none. Since version 1.3.
    """

    job: int
    version: int
    fits: bool = True
    content: bytes = b""
    last_sum: str = ""


class Invitation(NamedTuple):
    """A secure sum begins. An agent compares all of it with what it knows itself.

    Attributes:
        job: Number of the agent's job whose vector is summed.
        version: Version of the broadcast from which all members trained.
        attempt: A number that was drawn for this attempt, so that no two sums of a version are alike.
        entries: Number of entries of a vector.
        degree: Number of neighbours of an agent.
        threshold: Number of shares that give a secret back.
        minimum: The least number of vectors in the sum.
        verified: Whether agents compare which sets of agents they were shown.
        federation: Digest of the federation, 64 hexadecimal digits.
        broadcast: SHA-256 of the broadcast that all members have received, 64 hexadecimal digits.
        content: Numbers of the members, the order of each, credentials of neighbours that are new to it, and the keys
            of its neighbours, if all members have said theirs when their jobs were done.
        protocol: Name of the protocol. Since version 1.3.
        adverts: Bytes of these keys at the end of the content: the message in which a later phase would have them; 0
            for none, and then the answer has the agent's own. Since version 1.3.
        own: SHA-256 of the agent's own keys as the coordinator has them, 64 hexadecimal digits; "" without keys of
            neighbours. Since version 1.3.
    """

    job: int
    version: int
    attempt: int
    entries: int
    degree: int
    threshold: int
    minimum: int
    verified: bool
    federation: str
    broadcast: str
    content: bytes
    protocol: str = "masks"
    adverts: int = 0
    own: str = ""


class SumRequest(NamedTuple):
    """What a phase of a secure sum shows an agent.

    Attributes:
        job: Number of the agent's job.
        attempt: As of the invitation.
        content: The message of the coordinator, encoded.
    """

    job: int
    attempt: int
    content: bytes


class SumReply(NamedTuple):
    """An agent's answer in a phase of a secure sum.

    Attributes:
        job: Number of its job.
        attempt: As of the invitation.
        content: The message of the agent, encoded.
    """

    job: int
    attempt: int
    content: bytes


class Declined(NamedTuple):
    """An agent takes no part in a secure sum, or no further part.

    Attributes:
        job: Number of its job.
        attempt: As of the invitation.
        reason: Why, one sentence. It says nothing about data: it compares the sum with what the agent knows of it.
    """

    job: int
    attempt: int
    reason: str
