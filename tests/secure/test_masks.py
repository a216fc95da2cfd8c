import hashlib
import hmac

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedrl.secure.channel import Channel
from fedrl.secure.masks import BLOCK, SALT, Mask, apply_masks, derived_key
from fedrl.secure.messages import SumKeys
from fedrl.secure.plan import SumPlan
from fedrl.secure.transcript import channel_purpose

WORDS = BLOCK // 4


def keystream(key: bytes, size: int) -> np.ndarray:
    """AES in counter mode by hand: the encrypted counters 0, 1, 2, ..."""
    counters = b"".join(i.to_bytes(16, "big") for i in range(-(-size // 4)))
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return np.frombuffer(encryptor.update(counters), "<u4")[:size]


def test_a_key_is_that_of_rfc_5869():
    """HMAC by hand: extract with the salt, expand by one block."""
    extracted = hmac.new(SALT, b"secret", hashlib.sha256).digest()
    assert derived_key(b"secret", b"purpose") == hmac.new(extracted, b"purpose\x01", hashlib.sha256).digest()


@pytest.mark.parametrize("size", [1, 3, 4, 5, WORDS - 1, WORDS, WORDS + 1, 3 * WORDS + 7])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_masks_are_aes_in_counter_mode_for_any_size_and_any_number_of_threads(size, threads):
    values = np.arange(size, dtype=np.uint32)
    apply_masks(values, [Mask(b"a" * 32, True), Mask(b"b" * 32, False)], threads)
    expected = np.arange(size, dtype=np.uint32) + keystream(b"a" * 32, size) - keystream(b"b" * 32, size)
    np.testing.assert_array_equal(values, expected)


def test_a_mask_and_its_opposite_cancel():
    values = np.full(1000, 5, np.uint32)
    apply_masks(values, [Mask(b"a" * 32, True)])
    assert np.unique(values).size > 990
    apply_masks(values, [Mask(b"a" * 32, False)])
    assert set(values) == {5}


def test_no_masks_change_nothing():
    values = np.arange(3, dtype=np.uint32)
    apply_masks(values, [])
    assert values.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "change", [{"context": b"another"}, {"threshold": 3}, {"verified": False}, {"adverts": 2}], ids=str
)
def test_a_channel_of_another_plan_or_of_other_adverts_opens_no_box_and_fits_no_tag(change):
    """Even if both channels had the same secret."""

    def channel(lower, context=b"", threshold=2, verified=True, adverts=1):
        plan = SumPlan(context, (0, 1, 2), 1, 2, threshold, 2, verified)
        keys = [SumKeys(agent, bytes([adverts]) * 32, bytes(32), bytes(32)) for agent in (0, 1)]
        return Channel(bytes(32), channel_purpose(plan, *(keys if lower else keys[::-1])), lower)

    here, there, other = channel(True), channel(False), channel(False, **change)
    box, tag = here.seal(b"shares", b""), here.tags.tag(b"set")
    assert (there.open(box, b""), there.tags.fits(tag, b"set")) == (b"shares", True)
    assert (other.open(box, b""), other.tags.fits(tag, b"set")) == (None, False)
    assert there.open(box, b"another set") is None
