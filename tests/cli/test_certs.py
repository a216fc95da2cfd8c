"""`fedrl certs`, from an authority to a coordinator and a site that find each other."""

import json
import os
from pathlib import Path

import pytest

from fedrl.secure.ckks import EncryptionKey
from tests.cli.test_cli import Call, call

__all__ = ["call"]


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_from_an_authority_to_a_revoked_site(call: Call):
    assert call("certs", "init").code == 0
    assert "at localhost, until" in call("certs", "issue", "hub", "--role", "coordinator", "--host", "localhost").out
    assert "number 0" in call("certs", "issue", "site-1").out
    assert "fedrl certs sign request.pem" in call("certs", "request", "site-2", "--to", "site").out
    assert "number 1" in call("certs", "sign", "site/request.pem", "--name", "site-2").out
    assert "the key stays" in call("certs", "renew", "site-2", "--days", "30").out
    assert "are revoked" in call("certs", "revoke", "site-1").out
    shown = call("certs", "list").out.splitlines()
    assert [line.split()[0] for line in shown] == ["name", "hub", "site-1", "site-2"]
    assert shown[2].split()[-1] == "revoked"
    found = json.loads(call("certs", "list", "--json").out)
    assert [(each["name"], each["role"], each["seat"], each["state"]) for each in found] == [
        ("hub", "coordinator", None, "valid"),
        ("site-1", "agent", 0, "revoked"),
        ("site-2", "agent", 1, "valid"),
    ]
    assert found[0]["hosts"] == ["localhost"]
    assert not [name for _, _, names in os.walk("site") for name in names if name not in ("key.pem", "request.pem")]


def test_the_key_of_encrypted_sums_is_made_once_and_is_its_owners_alone(call: Call):
    heard = call("certs", "encryption-key", "shared.key")
    assert heard.code == 0
    assert 'encryption_key = "shared.key"' in heard.out
    assert Path("shared.key").stat().st_mode & 0o777 == 0o600
    before = Path("shared.key").read_bytes()
    assert EncryptionKey.read(Path("shared.key")).content == before
    again = call("certs", "encryption-key", "shared.key")
    assert again.code == 2
    assert "shared.key exists" in again.err
    assert Path("shared.key").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("list",), "can't be read"),
        (("issue", "a"), "can't be read"),
        (("issue", "a", "--role", "king"), "Write agent or coordinator"),
        (("request", "../a"), "can't be the name"),
        (("sign", "nothing.pem"), "can't be read"),
        (("revoke", "a"), "is not enrolled"),
        (("renew", "a"), "'a' has no certificate in certs"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_exit_code_2(call: Call, arguments, said):
    heard = call("certs", *arguments)
    assert heard.code == 2
    assert said in heard.err
    assert heard.err.startswith("error: ")
    assert "Traceback" not in heard.err


def test_without_the_extra_it_says_how_to_get_it(call: Call, monkeypatch):
    from fedrl.transport import extra

    monkeypatch.setattr(extra, "PACKAGES", ("grpc", "no_such_package"))
    heard = call("certs", "init")
    assert heard.code == 2
    assert "no_such_package, which is not installed. Run pip install 'fedrl[network]'" in heard.err


@pytest.fixture
def made(call: Call):
    """An authority with a coordinator and two agents, of which one is revoked."""
    for arguments in (
        ("init",),
        ("issue", "hub", "--role", "coordinator", "--host", "localhost"),
        ("issue", "site-1"),
        ("issue", "gone"),
        ("revoke", "gone"),
        ("request", "site-2", "--to", "at the s\u00fcd site"),
    ):
        assert call("certs", *arguments).code == 0


HUB = ("issue", "hub-2", "--role", "coordinator", "--host")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("init",), "has an authority already"),
        (("issue", "site-1"), "has a certificate already. To prolong it: fedrl certs renew site-1"),
        (("issue", "hub", "--role", "coordinator", "--host", "a"), "delete certs/issued/hub first"),
        (("issue", "a", "--days", "0"), "A validity of 0 days is none"),
        (("issue", "a", "--days", "99999999"), "A validity of 99999999 days is none"),
        (("issue", "a", "--host", "localhost"), "Leave --host out"),
        (HUB[:-1], "Give at least one with --host"),
        ((*HUB, ""), "'' is neither an address nor a host name"),
        ((*HUB, "fed.example.org:7500"), "Write it without scheme, port and path"),
        ((*HUB, "https://fed.example.org"), "Write it without scheme, port and path"),
        ((*HUB, "s\u00fcd.example.org"), "its ASCII form (xn--...)"),
        ((*HUB, "a b"), "is neither an address nor a host name"),
        (("renew", "gone"), "was revoked. Issue another"),
        (("revoke", "gone"), "has no certificate that is not revoked"),
        (("revoke", "hub"), "is a coordinator"),
        (("revoke", "nobody"), "is not enrolled"),
        (("request", "site-2", "--to", "at the s\u00fcd site"), "exists, and would be replaced"),
        (("sign", "at the s\u00fcd site/request.pem", "--name", "site-3"), "asks for the name 'site-2'"),
        (("sign", "at the s\u00fcd site/key.pem"), "is no certificate request, or a damaged one"),
        (("sign", "at the s\u00fcd site"), "Is a directory"),
    ],
)
def test_with_an_authority_too(call: Call, made, arguments, said):
    heard = call("certs", *arguments)
    assert heard.code == 2, heard.err
    assert said in heard.err
    assert heard.err.count("\n") == 1
    assert not list((Path("certs") / "issued").glob("hub-2"))


@pytest.mark.parametrize("host", ["fed.example.org", "localhost", "my_hub", "192.0.2.7", "::1", "*.example.org"])
def test_hosts_that_agents_may_dial(call: Call, made, host):
    assert f"at {host}, until" in call("certs", *HUB, host).out


def test_a_request_from_a_path_with_spaces_and_other_letters_is_signed(call: Call, made):
    folder = "at the s\u00fcd site"
    assert "number 2" in call("certs", "sign", f"{folder}/request.pem").out
    assert call("certs", "init", "--folder", "Beh\u00f6rde A").code == 0
    assert "number 0" in call("certs", "issue", "s", "--folder", "Beh\u00f6rde A").out
    os.chmod("Beh\u00f6rde A/ca.key", 0o640)
    assert "Run: chmod 600 'Beh\u00f6rde A/ca.key'" in call("certs", "issue", "t", "--folder", "Beh\u00f6rde A").err


def test_a_key_of_another_authority_and_a_damaged_one_sign_nothing(call: Call, made):
    assert call("certs", "init", "--folder", "other").code == 0
    own, key = Path("certs/ca.key").read_bytes(), Path("certs/ca.key")
    for content, said in ((Path("other/ca.key").read_bytes(), "is not the key of"), (b"rubbish", "is no key")):
        key.write_bytes(content)
        heard = call("certs", "issue", "a")
        assert heard.code == 2
        assert said in heard.err
        assert not Path("certs/issued/a").exists()
    key.write_bytes(own)
    assert "number 2" in call("certs", "issue", "a").out


def test_a_lost_enrolment_table_gives_no_number_away_again(call: Call, made):
    table = Path("certs/enrolment.json")
    kept = table.read_bytes()
    table.unlink()
    for arguments in (("issue", "a"), ("list",), ("renew", "site-1"), ("sign", "at the s\u00fcd site/request.pem")):
        heard = call("certs", *arguments)
        assert heard.code == 2
        assert "Restore enrolment.json from a backup" in heard.err
    assert not table.exists()
    table.write_bytes(kept)
    assert "number 2" in call("certs", "issue", "a").out
