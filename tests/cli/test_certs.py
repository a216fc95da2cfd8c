"""`fedrl certs`, from an authority to a coordinator and a site that find each other."""

import json
import os

import pytest

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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("list",), "can't be read"),
        (("issue", "a"), "can't be read"),
        (("issue", "a", "--role", "king"), "Write agent or coordinator"),
        (("request", "../a"), "can't be the name"),
        (("sign", "nothing.pem"), "can't be read"),
        (("revoke", "a"), "is not enrolled"),
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
