"""What an encrypted sum costs beside one with masks: error, bytes from an agent, seconds of the processor.

Updates in [-1, 1] on the grid of `ring_sum`, all parties in this process; nobody leaves. Beside them what TenSEAL's own
vectors cost, which are encrypted with the public key. `python -m benchmarks.encryption 20000` measures one size alone.
"""

from __future__ import annotations

import sys
import time
from typing import NamedTuple

import numpy as np
import tenseal

from benchmarks.measure import Figure, emit
from fedrl.secure import OpenedSum, encrypted_sum, new_encryption_key, ring_sum, secure_sum, sum_plan
from fedrl.secure.ckks import DEGREE
from fedrl.secure.encrypted import EncryptedSumPlan

AGENTS = {20_000: 10, 1_000_000: 2}
"""Entries of a vector: agents."""
CODE_BYTES = 4
"""Of an entry in a secure sum with masks."""
SLOTS = DEGREE // 2
"""Numbers in a ciphertext of `ckks_vector`."""


class Cost(NamedTuple):
    """What a sum costs; seconds of the processor.

    `opening_s` is what the agent that opens the sum needs, or the coordinator that removes masks.
    """

    error: float
    up_bytes: float
    agent_s: float
    adding_s: float
    opening_s: float


def show(name: str, size: int, cost: Cost) -> None:
    print(
        f"    {name}: error {cost.error:.1e}, {cost.up_bytes:,.0f} bytes from an agent "
        f"({cost.up_bytes / CODE_BYTES / size:.2f} x 4 a number), "
        f"{1e3 * cost.agent_s:.1f} ms each agent, {1e3 * cost.adding_s:.1f} ms to add a vector, "
        f"{1e3 * cost.opening_s:.1f} ms to open",
        flush=True,
    )


def error_of(opened: OpenedSum, agents: int, exact: np.ndarray) -> float:
    """The error of a sum of updates, rounding to the grid included; the last entry is the sum of the weights."""
    found = ring_sum(agents, largest=1.0).total([opened.total.view(np.int32)[None]])
    return float(np.abs(found - exact).max())


def encrypted(codes: np.ndarray, exact: np.ndarray) -> Cost:
    agents, size = codes.shape
    opened = encrypted_sum(codes, EncryptedSumPlan(tuple(range(agents)), size, 2), key=new_encryption_key())
    np.testing.assert_array_equal(opened.total.view(np.int32), codes.sum(axis=0))
    vectors, opening = opened.costs["vectors"], opened.costs["opening"]
    return Cost(
        error_of(opened, agents, exact),
        vectors.up_bytes / agents,
        vectors.agents_s / agents,
        vectors.coordinator_s / agents,
        opening.agents_s,
    )


def masked(codes: np.ndarray, exact: np.ndarray) -> Cost:
    agents, size = codes.shape
    opened = secure_sum(codes, sum_plan(b"benchmark", tuple(range(agents)), size, minimum=2))
    costs = opened.costs.values()
    return Cost(
        error_of(opened, agents, exact),
        sum(each.up_bytes for each in costs) / agents,
        sum(each.agents_s for each in costs) / agents,
        opened.costs["masked"].coordinator_s / agents,
        opened.costs["opening"].coordinator_s,
    )


def public_key_vectors(updates: np.ndarray, exact: np.ndarray) -> Cost:
    """TenSEAL's vectors with the usual parameters: N = 4096, 54 + 54 bits, scale 2^40, a number a slot."""
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, DEGREE, coeff_mod_bit_sizes=[54, 54])
    context.global_scale = 2.0**40
    agents, size = updates.shape
    clock, times = time.process_time, []
    parts = [updates[:, start : start + SLOTS] for start in range(0, size, SLOTS)]
    times.append(clock())
    sent = [[tenseal.ckks_vector(context, row).serialize() for row in part] for part in parts]
    times.append(clock())
    sums = []
    for each in sent:
        total, *others = (tenseal.ckks_vector_from(context, content) for content in each)
        for other in others:
            total += other
        sums.append(total)
    times.append(clock())
    found = np.concatenate([np.array(total.decrypt()) for total in sums])
    times.append(clock())
    agent_s, adding_s, opening_s = np.diff(times)
    up_bytes = sum(len(content) for each in sent for content in each) / agents
    return Cost(float(np.abs(found - exact).max()), up_bytes, agent_s / agents, adding_s / agents, opening_s)


def measure(size: int) -> None:
    agents = AGENTS[size]
    ring, draws = ring_sum(agents, largest=1.0), np.random.default_rng(size)
    updates = draws.uniform(-1.0, 1.0, (agents, size)).astype(np.float32)
    updates[:, -1] = 1.0
    exact = updates.sum(axis=0, dtype=np.float64)
    codes = np.concatenate([np.asarray(ring.quantize(row[None], np.ones(1, bool))) for row in updates])
    what = f"K = {agents}, d = {size:,}"
    print(what)
    cost = encrypted(codes, exact)
    show("encrypted", size, cost)
    show("masks", size, masked(codes, exact))
    show("ckks_vector", size, public_key_vectors(updates.astype(np.float64), exact))
    emit(
        Figure(f"error of an encrypted sum, {what}", cost.error, 1e-7, at_least=False),
        Figure(f"upload, {what}", cost.up_bytes / CODE_BYTES / size, 2.0, "x 4 bytes a number", at_least=False),
        Figure(f"encrypt, processor, {what}", cost.agent_s / size * 1e6, 0.5, "s a million", at_least=False),
    )


def main() -> None:
    for size in [int(each) for each in sys.argv[1:]] or AGENTS:
        measure(size)


if __name__ == "__main__":
    main()
