"""The authority's folder: what it makes, whom it refuses, and who may read its keys."""

import datetime
import os
import stat
import subprocess
import sys

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

import fedrl.transport.credentials as credentials_module
from fedrl.core.errors import ConfigError
from fedrl.transport.certificates import enrolment_of, init, issue, issued, renew, request, revoke, sign
from fedrl.transport.credentials import Credentials, load
from fedrl.transport.enrolment import Enrolment
from fedrl.transport.private_files import write_private
from fedrl.transport.x509_parts import name_and_serial, pem, pem_of_key, read_certificate, signed, subject_of
from tests.support.certified import authority, made


@pytest.fixture
def folder(tmp_path):
    return authority(tmp_path / "certs", "site-1")


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


class TestFiles:
    def test_keys_and_folders_are_private_whatever_the_umask_is(self, tmp_path):
        old = os.umask(0)
        try:
            folder = authority(tmp_path / "deep" / "certs", "site-1")
        finally:
            os.umask(old)
        for path in (tmp_path / "deep").rglob("*"):
            expected = 0o700 if path.is_dir() else 0o644 if path.suffix == ".pem" and path.name != "key.pem" else 0o600
            assert mode(path) == expected, path
        assert mode(folder / "ca.key") == mode(folder / "issued" / "site-1" / "key.pem") == 0o600

    @pytest.mark.parametrize("loose", [0o640, 0o604, 0o660, 0o620, 0o777])
    def test_a_key_that_others_may_use_is_refused_with_the_command_that_helps(self, folder, loose):
        path = folder / "issued" / "site-1" / "key.pem"
        path.chmod(loose)
        with pytest.raises(ConfigError, match=f"has mode 0{loose:o}.*Run: chmod 600 {path}"):
            load(path.parent, "agent")
        path.chmod(0o600)
        assert load(path.parent, "agent").key

    def test_the_authority_does_not_sign_with_a_loose_key(self, folder):
        (folder / "ca.key").chmod(0o644)
        with pytest.raises(ConfigError, match="chmod 600"):
            issue(folder, "site-2")
        assert "site-2" not in enrolment_of(folder).table()

    def test_an_interrupted_write_keeps_the_old_content_and_leaves_no_draft(self, tmp_path, monkeypatch):
        path = tmp_path / "key.pem"
        write_private(path, b"old")

        def fail(number):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(ConfigError, match="No space left"):
            write_private(path, b"new")
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]

    def test_credentials_do_not_show_their_key(self, folder):
        assert "PRIVATE" not in repr(load(folder / "issued" / "site-1", "agent"))
        assert "PRIVATE" not in f"{Credentials(b'', b'', b'PRIVATE')}"


class TestCertificates:
    def test_they_say_who_and_what_for_and_end_with_the_authority(self, tmp_path):
        init(tmp_path / "certs", days=30)
        hub = issue(tmp_path / "certs", "hub", "coordinator", hosts=["hub.example.org", "10.0.0.1", "::1"])
        site = issue(tmp_path / "certs", "site-1", days=7)
        ca = read_certificate(tmp_path / "certs" / "ca.pem")
        assert hub.hosts == ("hub.example.org", "10.0.0.1", "::1")
        assert hub.expires == ca.not_valid_after_utc  # not a year, which the authority does not have
        left = site.expires - datetime.datetime.now(datetime.UTC)
        assert datetime.timedelta(days=6, hours=23) < left <= datetime.timedelta(days=7)
        certificate = read_certificate(site.folder / "certificate.pem")
        assert certificate.not_valid_before_utc < datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=4)
        uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert [use._name for use in uses] == ["clientAuth"]
        assert isinstance(certificate.public_key().curve, ec.SECP256R1)
        assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca

    def test_openssl_accepts_the_chain(self, folder):
        for name, purpose in (("hub", "sslserver"), ("site-1", "sslclient")):
            certificate = folder / "issued" / name / "certificate.pem"
            command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", folder / "ca.pem"]
            said = subprocess.run([*command, certificate], capture_output=True, text=True, check=False)
            assert said.returncode == 0, said.stderr

    def test_agents_get_numbers_in_turn_and_keep_them(self, folder):
        assert [issue(folder, name).seat for name in ("b", "a")] == [1, 2]
        revoke(folder, "b")
        assert issue(folder, "c").seat == 3  # the number of b is not given to another
        assert issue(folder, "b").seat == 1
        assert [(each.name, each.seat, each.state) for each in issued(folder)] == [
            ("a", 2, "valid"),
            ("b", 1, "valid"),
            ("c", 3, "valid"),
            ("hub", None, "valid"),
            ("site-1", 0, "valid"),
        ]

    @pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 65, "ü", "-f", "a\n"])
    def test_names_that_are_no_file_names_are_refused(self, folder, name):
        with pytest.raises(ConfigError, match="can't be the name"):
            issue(folder, name)

    @pytest.mark.parametrize(("role", "hosts"), [("coordinator", []), ("agent", ["localhost"])])
    def test_hosts_belong_to_coordinators(self, folder, role, hosts):
        with pytest.raises(ConfigError, match="--host"):
            issue(folder, "new", role, hosts)

    def test_what_is_missing_taken_or_nonsense_is_said(self, folder, tmp_path):
        for work, said in (
            (lambda: init(folder), "has an authority already"),
            (lambda: issue(tmp_path / "none", "a"), "can't be read"),
            (lambda: issue(folder, "site-1"), "has a certificate already"),
            (lambda: issue(folder, "b", days=0), "0 days"),
            (lambda: issue(folder, "b", "coordinator", ["ü.org"]), "neither an address nor a host name"),
            (lambda: renew(folder, "nobody"), "has no certificate in"),
            (lambda: revoke(folder, "nobody"), "is not enrolled"),
            (lambda: revoke(folder, "hub"), "is a coordinator"),
        ):
            with pytest.raises(ConfigError, match=said):
                work()

    def test_renewing_keeps_key_role_and_number_and_both_certificates_are_valid(self, folder):
        before = read_certificate(folder / "issued" / "site-1" / "certificate.pem")
        new = renew(folder, "site-1", days=700)
        after = read_certificate(new.folder / "certificate.pem")
        assert after.public_key() == before.public_key()
        assert (new.seat, new.role) == (0, "agent")
        assert new.expires > before.not_valid_after_utc
        assert load(new.folder, "agent")
        table = enrolment_of(folder)
        assert all(table.allowed("site-1", each.serial_number) for each in (before, after))
        revoke(folder, "site-1")
        assert not any(table.allowed("site-1", each.serial_number) for each in (before, after))
        with pytest.raises(ConfigError, match="was revoked"):
            renew(folder, "site-1")
        assert renew(folder, "hub").hosts == ("localhost", "127.0.0.1")


class TestRequests:
    def test_the_key_stays_at_the_site(self, folder, tmp_path):
        path = request("site-2", tmp_path / "site")
        assert sorted(each.name for each in path.parent.iterdir()) == ["key.pem", "request.pem"]
        assert mode(path.parent / "key.pem") == 0o600
        made_here = sign(folder, path, name="site-2")
        assert sorted(each.name for each in made_here.folder.iterdir()) == ["ca.pem", "certificate.pem"]
        for name in ("ca.pem", "certificate.pem"):
            (path.parent / name).write_bytes((made_here.folder / name).read_bytes())
        assert name_and_serial(load(path.parent, "agent").certificate)[0] == "site-2"
        with pytest.raises(ConfigError, match="would be replaced"):
            request("site-2", tmp_path / "site")

    def test_nobody_gets_the_name_of_another_by_asking(self, folder, tmp_path):
        with pytest.raises(ConfigError, match="'site-1' has a certificate already"):
            sign(folder, request("site-1", tmp_path / "thief"))
        with pytest.raises(ConfigError, match="asks for the name 'site-9', and 'site-2' was expected"):
            sign(folder, request("site-9", tmp_path / "other"), name="site-2")

    def test_a_site_that_makes_its_own_key_after_a_revocation_leaves_none_here(self, folder, tmp_path):
        revoke(folder, "site-1")
        assert not (sign(folder, request("site-1", tmp_path / "site")).folder / "key.pem").exists()

    def test_what_a_request_asks_for_beside_its_name_is_ignored(self, folder, tmp_path):
        key = ec.generate_private_key(ec.SECP256R1())
        asked = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(subject_of("site-2"))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        (tmp_path / "request.pem").write_bytes(pem(asked))
        got = read_certificate(sign(folder, tmp_path / "request.pem").folder / "certificate.pem")
        assert not got.extensions.get_extension_for_class(x509.BasicConstraints).value.ca

    @pytest.mark.parametrize("content", ["rubbish", "damaged", "certificate", "rsa", "bad name", "two names"])
    def test_what_is_no_request_of_ours_is_refused(self, folder, tmp_path, content):
        path = tmp_path / "request.pem"
        key = rsa.generate_private_key(65537, 2048) if content == "rsa" else ec.generate_private_key(ec.SECP256R1())
        name = x509.NameAttribute(x509.NameOID.COMMON_NAME, "../x" if content == "bad name" else "site-2")
        names = x509.Name([name, name] if content == "two names" else [name])
        good = pem(x509.CertificateSigningRequestBuilder().subject_name(names).sign(key, hashes.SHA256()))
        if content == "damaged":  # a bit of the key, which the request is signed with
            from base64 import b64decode, b64encode

            lines = good.decode().split("\n")
            raw = bytearray(b64decode("".join(lines[1:-2])))
            raw[-5] ^= 1
            good = f"{lines[0]}\n{b64encode(raw).decode()}\n{lines[-2]}\n".encode()
        if content in ("rubbish", "certificate"):
            good = b"rubbish" if content == "rubbish" else (folder / "ca.pem").read_bytes()
        path.write_bytes(good)
        with pytest.raises(ConfigError):
            sign(folder, path)
        assert set(enrolment_of(folder).table()) == {"site-1"}


class TestLoad:
    def test_it_says_what_does_not_fit(self, folder, tmp_path):
        site, hub = (folder / "issued" / name for name in ("site-1", "hub"))
        other = authority(tmp_path / "other", "site-1") / "issued" / "site-1"

        def with_(**files):
            place = tmp_path / "mixed"
            place.mkdir(exist_ok=True)
            for name in ("ca", "certificate", "key"):
                content = files.get(name, (site / f"{name}.pem").read_bytes())
                write_private(place / f"{name}.pem", content)
            return place

        expired = made(folder, "site-1", "agent", ends_in_s=-60)
        with pytest.raises(ConfigError, match="is not the key of"):
            load(with_(key=(hub / "key.pem").read_bytes()), "agent")
        with pytest.raises(ConfigError, match="was not signed by"):
            load(with_(ca=(other / "ca.pem").read_bytes()), "agent")
        with pytest.raises(ConfigError, match="Renew it"):
            load(with_(certificate=expired.certificate, key=expired.key), "agent")
        with pytest.raises(
            ConfigError, match=r"role agent, not coordinator\. Use a certificate with the role coordinator"
        ):
            load(with_(), "coordinator")
        with pytest.raises(ConfigError, match="is no key"):
            load(with_(key=b"rubbish"), "agent")
        with pytest.raises(ConfigError, match="is no certificate"):
            load(with_(certificate=b"rubbish"), "agent")
        with pytest.raises(ConfigError, match="can't be read"):
            load(tmp_path / "missing", "agent")

    def test_clocks_and_certificates_of_others_are_told_apart(self, folder, monkeypatch):
        site = folder / "issued" / "site-1"

        class Clock(datetime.datetime):
            at = datetime.timedelta()

            @classmethod
            def now(cls, tz=None):
                return super().now(tz) + cls.at

        monkeypatch.setattr(credentials_module.datetime, "datetime", Clock)
        assert load(site, "agent").key
        Clock.at = -datetime.timedelta(days=2)
        with pytest.raises(ConfigError, match=r"ca\.pem is valid from .* Set the clock of this machine\."):
            load(site, "agent")
        Clock.at = datetime.timedelta(days=400)
        with pytest.raises(ConfigError, match=r"certificate\.pem is valid from .* Renew it"):
            load(site, "agent")
        Clock.at = datetime.timedelta(days=4000)
        with pytest.raises(ConfigError, match=r"ca\.pem is valid from .* Make a new authority"):
            load(site, "agent")

    def test_a_certificate_of_another_tool_without_a_role_is_named(self, folder):
        site = folder / "issued" / "site-1"
        key = ec.generate_private_key(ec.SECP256R1())
        signer = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
        ca, until = (
            read_certificate(folder / "ca.pem"),
            datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1),
        )
        certificate = signed(key.public_key(), subject_of("site-1"), signer, ca, until, [])
        write_private(site / "key.pem", pem_of_key(key))
        write_private(site / "certificate.pem", pem(certificate))
        for read in (lambda: load(site, "agent"), lambda: issued(folder)):
            with pytest.raises(ConfigError, match="doesn't say whether it is of a coordinator or of an agent"):
                read()


class TestTable:
    def test_it_is_read_again_when_another_process_has_changed_it(self, folder):
        table = enrolment_of(folder)
        assert set(table.table()) == {"site-1"}
        code = (
            "import sys,pathlib; from fedrl.transport.certificates import issue; issue(pathlib.Path(sys.argv[1]), 'x')"
        )
        subprocess.run([sys.executable, "-c", code, folder], check=True)
        assert set(table.table()) == {"site-1", "x"}

    def test_processes_that_add_at_once_lose_nothing(self, tmp_path):
        code = (
            "import sys, pathlib; from fedrl.transport.enrolment import Enrolment;"
            "table = Enrolment(pathlib.Path(sys.argv[1])); [table.add(f'{sys.argv[2]}-{i}', i) for i in range(10)]"
        )
        path = tmp_path / "enrolment.json"
        running = [subprocess.Popen([sys.executable, "-c", code, path, name]) for name in ("a", "b", "c")]
        assert [process.wait() for process in running] == [0, 0, 0]
        assert sorted(entry.seat for entry in Enrolment(path).table().values()) == list(range(30))

    @pytest.mark.parametrize(
        "content",
        [
            "{",
            "[]",
            "null",
            '{"format": 1}',
            '{"format": 2, "agents": {}}',
            '{"format": 1, "agents": {"a": 1}}',
            '{"format": 1, "agents": {"a": {"seat": -1, "serials": [], "revoked": {}}}}',
            '{"format": 1, "agents": {"a": {"seat": 0, "serials": "ff", "revoked": {}}}}',
            '{"format": 1, "agents": {"a": {"seat": 0, "serials": [], "revoked": []}}}',
            '{"format": 1, "agents": {"a": {"seat": 0, "serials": [], "revoked": {}},'
            ' "b": {"seat": 0, "serials": [], "revoked": {}}}}',
        ],
    )
    def test_a_damaged_table_is_refused_and_lets_nobody_in(self, tmp_path, content):
        table = Enrolment(tmp_path / "enrolment.json")
        table.add("a", 255)
        assert table.allowed("a", 255)
        table.path.write_text(content)
        with pytest.raises(ConfigError, match=r"enrolment\.json"):
            Enrolment(table.path)
        with pytest.raises(ConfigError):
            table.table()
        assert not table.allowed("a", 255)
        assert not table.allowed("a", 255)  # also when it is asked again
        with pytest.raises(ConfigError):
            table.add("b", 1)
        assert table.path.read_text() == content

    def test_names_and_serials_that_are_not_in_it_are_refused_in_a_sentence(self, folder):
        table = enrolment_of(folder)
        assert "is not enrolled" in table.refusal("nobody", 1)
        assert "serial number 1 is not enrolled" in table.refusal("site-1", 1)
        assert table.seat("site-1") == 0
        with pytest.raises(ConfigError, match="fedrl certs issue nobody"):
            table.seat("nobody")
