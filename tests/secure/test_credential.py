"""Certified keys: what no holder of other keys can pass off as the key of an agent."""

import datetime

import numpy as np
import pytest

from fedrl.core.errors import SecureSumError
from fedrl.secure import SumPlan, secure_sum
from fedrl.secure.credential import MOST_BYTES, KnownSigners, SumCredential, SumSigner, decoded
from fedrl.transport import x509_parts
from tests.support.certified import authority, credentials, made

RUN = "ab" * 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return authority(tmp_path_factory.mktemp("certificates") / "own", "site-0", "site-1", "site-2")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return authority(tmp_path_factory.mktemp("certificates") / "other", "site-0", "site-1", "site-2")


def signer(folder, name):
    return SumSigner(credentials(folder, name))


def known(folder, run=RUN):
    return KnownSigners(credentials(folder, "hub").ca, run)


def test_agents_that_know_each_other_by_credentials_add(folder):
    signers = [signer(folder, f"site-{k}") for k in range(3)]
    identities = {}
    for k, mine in enumerate(signers):
        mine_of = known(folder)
        for other, theirs in enumerate(signers):
            mine_of.add(other, theirs.credential(RUN, other), f"site-{other}")
        identities[k] = mine.identity(k, mine_of.directory)
    plan = SumPlan(b"credentials", (0, 1, 2), 2, 2, 2, 2)
    values = np.array([[1, 2], [30, 40], [500, 600]], np.int32)
    assert secure_sum(values, plan, identities=identities).total.tolist() == [531, 642]


def forged(folder, other):
    """What is refused, with a part of the sentence."""
    mine = decoded(signer(folder, "site-1").credential(RUN, 1))
    yield "authority", signer(other, "site-1").credential(RUN, 1), "of this federation's authority"
    yield "run", signer(folder, "site-1").credential("cd" * 16, 1), "for this run and number"
    yield "number", signer(folder, "site-1").credential(RUN, 2), "for this run and number"
    yield "key", mine._replace(key=bytes(range(32))).encoded(), "for this run and number"
    yield "certificate", mine._replace(certificate=mine.certificate[:-9]).encoded(), "of this federation's authority"
    seventh = mine.certificate.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07", 1)
    yield "version of X.509", mine._replace(certificate=seventh).encoded(), "of this federation's authority"
    swapped = decoded(signer(folder, "site-2").credential(RUN, 1)).certificate
    yield "another's certificate", mine._replace(certificate=swapped).encoded(), "for this run and number"
    yield "role", SumSigner(credentials(folder, "hub")).credential(RUN, 1), "certificate of a coordinator"
    yield (
        "expired",
        SumSigner(made(folder, "site-1", "agent", ends_in_s=-1.0)).credential(RUN, 1),
        "is not valid now: its certificate is from",
    )
    yield "name", signer(folder, "site-2").credential(RUN, 1), "the agent is 'site-1'"
    yield "bytes", mine.encoded()[:-1], "they were cut off"
    yield "more bytes", mine.encoded() + b"\0\0", "they were cut off"
    yield "many bytes", SumCredential(bytes(MOST_BYTES), mine.key, mine.signature).encoded(), "they were cut off"


NAMES = ("authority", "run", "number", "key", "certificate", "another's certificate", "role", "expired", "name")
OTHERS = ("version of X.509", "bytes", "more bytes", "many bytes")


@pytest.mark.parametrize("case", [*NAMES, *OTHERS])
def test_a_credential_of_another_authority_run_agent_or_role_is_refused(folder, other, case):
    data, sentence = next((data, sentence) for name, data, sentence in forged(folder, other) if name == case)
    signers = known(folder)
    with pytest.raises(SecureSumError, match=sentence):
        signers.add(1, data, "site-1")
    assert 1 not in signers
    signers.add(1, signer(folder, "site-1").credential(RUN, 1), "site-1")
    assert 1 in signers


def test_a_certificate_of_the_future_is_refused(folder, monkeypatch):
    monkeypatch.setattr(x509_parts, "CLOCK_SKEW", -datetime.timedelta(hours=1))
    early = SumSigner(made(folder, "site-1", "agent", ends_in_s=7200.0)).credential(RUN, 1)
    with pytest.raises(SecureSumError, match="is not valid now"):
        known(folder).add(1, early)


def test_a_number_stays_with_its_name_and_no_name_has_two_numbers(folder):
    signers = known(folder)
    signers.add(1, signer(folder, "site-1").credential(RUN, 1))
    with pytest.raises(SecureSumError, match="was 'site-1' and is now said to be 'site-2'"):
        signers.add(1, signer(folder, "site-2").credential(RUN, 1))
    with pytest.raises(SecureSumError, match="are both 'site-1'"):
        signers.add(2, signer(folder, "site-1").credential(RUN, 2))


def test_an_agent_that_begins_anew_is_known_by_its_new_key(folder):
    signers, first, second = known(folder), signer(folder, "site-1"), signer(folder, "site-1")
    for each in (first, second, second):
        signers.add(1, each.credential(RUN, 1))
    signers.add(0, signer(folder, "site-0").credential(RUN, 0))
    here = signer(folder, "site-0")
    signers.add(0, here.credential(RUN, 0))
    mine = here.identity(0, signers.directory)
    before, now = (each.identity(1, signers.directory).root(0) for each in (first, second))
    assert mine.root(1) == now != before
    signers.add(1, first.credential(RUN, 1))  # and by the old one if that is certified last
    assert mine.root(1) == before


def test_a_signer_shows_no_key(folder):
    assert repr(signer(folder, "site-0")) == "SumSigner(...)"
