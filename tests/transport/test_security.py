"""Who is let in over gRPC, as whom, and what those hear who are not."""

import asyncio
import time

import pytest

from fedrl.core.errors import ConfigError
from fedrl.transport.certificates import enrolment_of, issue, revoke
from fedrl.transport.enrolment import Enrolment
from fedrl.transport.grpc_transport import GrpcTransport
from fedrl.transport.seam import LinkClosedError, LinkRefusedError
from tests.support.certified import authority, credentials, made
from tests.support.links import Ends, end_of, listening, over_grpc, run
from tests.support.proxy import Proxy


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Another authority, with the same names."""
    return authority(tmp_path_factory.mktemp("certs") / "B", "site-1")


def refused(coordinator, agent, address="localhost:{}", enrolment=None):
    """What an agent hears whose connection is not made; no session is begun."""

    async def test():
        begun = []

        async def session(link):
            begun.append(link.peer)

        listener = await GrpcTransport(coordinator, enrolment).listen("127.0.0.1:0", session)
        try:
            with pytest.raises(LinkClosedError) as heard:
                await GrpcTransport(agent).connect(address.format(listener.address.rpartition(":")[2]))
        finally:
            await listener.close()
        assert begun == []
        return heard.value

    return run(test())


class TestWhoIsLetIn:
    def test_no_certificate(self, certs):
        assert "UNAVAILABLE" in _without_certificate(certs)

    def test_a_certificate_of_another_authority(self, certs, others):
        own, other = credentials(certs, "site-1"), credentials(others, "site-1")
        heard = refused(credentials(certs, "hub"), own._replace(certificate=other.certificate, key=other.key))
        assert "refuses the certificate of this end" in str(heard)

    def test_a_coordinator_of_another_authority(self, certs, others):
        heard = refused(credentials(certs, "hub"), credentials(others, "site-1"))
        assert isinstance(heard, LinkRefusedError)
        assert "another authority has signed it" in str(heard)

    def test_an_expired_agent(self, certs):
        heard = refused(credentials(certs, "hub"), made(certs, "site-1", "agent", ends_in_s=-60))
        assert "expired by its clock" in str(heard)

    def test_an_expired_coordinator(self, certs):
        expired = made(certs, "hub", "coordinator", ("localhost",), ends_in_s=-60)
        heard = refused(expired, credentials(certs, "site-1"))
        assert isinstance(heard, LinkRefusedError)
        assert "Its certificate has expired" in str(heard)

    def test_an_agent_as_coordinator(self, certs):
        heard = refused(made(certs, "site-2", "agent", ("localhost",)), credentials(certs, "site-1"))
        assert isinstance(heard, LinkRefusedError)
        assert "it is no coordinator's" in str(heard)

    def test_a_coordinator_as_agent(self, certs):
        heard = refused(credentials(certs, "hub"), credentials(certs, "hub"))
        assert "no agent's" in str(heard)

    def test_a_wrong_host_name(self, certs):
        heard = refused(made(certs, "hub", "coordinator", ("elsewhere.org",)), credentials(certs, "site-1"))
        assert isinstance(heard, LinkRefusedError)
        assert "for other host names" in str(heard)

    def test_a_name_that_fedrl_would_not_certify(self, certs):
        heard = refused(credentials(certs, "hub"), made(certs, "../site", "agent"))
        assert isinstance(heard, LinkRefusedError)
        assert "can't be the name" in str(heard)

    def test_plaintext(self, certs):
        async def test():
            import grpc

            async with (
                listening(over_grpc(certs)) as meeting,
                grpc.aio.insecure_channel(meeting.listener.address) as ch,
            ):
                call = ch.stream_stream("/fedrl.v1/Session")()
                with pytest.raises(grpc.RpcError) as heard:
                    await call.read()
                assert heard.value.code() is grpc.StatusCode.UNAVAILABLE
                assert meeting.came.empty()

        run(test())

    def test_a_server_that_is_no_coordinator(self, certs):
        async def test():
            async with await asyncio.start_server(_say_http, "127.0.0.1", 0) as server:
                port = server.sockets[0].getsockname()[1]
                with pytest.raises(LinkRefusedError, match="speaks no TLS"):
                    await GrpcTransport(credentials(certs, "site-1")).connect(f"localhost:{port}")

        run(test())

    def test_a_server_that_says_nothing(self, certs):
        async def test():
            silent = asyncio.Event()

            async def hold(reader, writer):
                await silent.wait()
                writer.close()

            server = await asyncio.start_server(hold, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(LinkClosedError, match=r"has not answered for 0\.5 s"):
                await GrpcTransport(credentials(certs, "site-1"), connect_s=0.5).connect(f"localhost:{port}")
            silent.set()
            server.close()
            await asyncio.sleep(0.01)

        run(test())

    @pytest.mark.parametrize("address", ["nonsense", "localhost", "localhost:99999", "::1:70", "localhost:x", ""])
    def test_addresses_that_are_none(self, certs, address):
        async def test():
            with pytest.raises(LinkRefusedError, match="is no address"):
                await GrpcTransport(credentials(certs, "site-1")).connect(address)
            with pytest.raises(ConfigError, match="is no address"):
                await GrpcTransport(credentials(certs, "hub")).listen(address, end_of)

        run(test())

    def test_an_unknown_host_and_a_foreign_address(self, certs):
        async def test():
            with pytest.raises(LinkClosedError, match="host name is not known"):
                await GrpcTransport(credentials(certs, "site-1")).connect("nowhere.invalid:7500")
            with pytest.raises(ConfigError, match="no address of this machine"):
                await GrpcTransport(credentials(certs, "hub")).listen("192.0.2.1:7500", end_of)

        run(test())


class TestEnrolment:
    def test_a_name_that_is_not_enrolled(self, certs, tmp_path):
        heard = refused(
            credentials(certs, "hub"), credentials(certs, "site-1"), enrolment=Enrolment(tmp_path / "enrolment.json")
        )
        assert isinstance(heard, LinkRefusedError)
        assert "'site-1' is not enrolled" in str(heard)

    def test_a_certificate_of_the_name_that_is_not_in_the_table(self, certs):
        heard = refused(credentials(certs, "hub"), made(certs, "site-1", "agent"), enrolment=enrolment_of(certs))
        assert "is not enrolled" in str(heard)

    def test_a_table_that_is_damaged_lets_nobody_in(self, tmp_path):
        folder = authority(tmp_path / "certs", "site-1")
        table = enrolment_of(folder)
        table.path.write_text("{")
        heard = refused(credentials(folder, "hub"), credentials(folder, "site-1"), enrolment=table)
        assert "can't be read" in str(heard)

    def test_a_revoked_agent_is_cut_off_within_two_seconds_and_not_let_in_again(self, tmp_path):
        folder = authority(tmp_path / "certs", "site-1", "site-2")

        async def test():
            async with listening(over_grpc(folder)) as meeting:
                address = meeting.listener.address
                links = [await over_grpc(folder).agent(name).connect(address) for name in ("site-1", "site-2")]
                there = {link.peer: link for link in [await meeting.link(), await meeting.link()]}
                waiting = asyncio.ensure_future(end_of(there["site-1"]))
                await asyncio.sleep(0.1)
                revoke(folder, "site-1")
                begun = time.monotonic()
                with pytest.raises(LinkRefusedError, match="was revoked at"):
                    await asyncio.wait_for(links[0].receive(), 5)
                assert time.monotonic() - begun < 2
                assert "was revoked at" in await waiting
                with pytest.raises(LinkRefusedError, match="was revoked at"):
                    await over_grpc(folder).agent("site-1").connect(address)
                await links[1].send(b"still here")  # the other one goes on
                assert await there["site-2"].receive() == b"still here"
                issue(folder, "site-1")  # again, with another key
                again = await over_grpc(folder).agent("site-1").connect(address)
                assert again.peer == "hub"
                for link in (*links, again):
                    await link.close()

        run(test())

    def test_a_session_ends_when_its_certificate_expires(self, certs):
        async def test():
            async with listening(Ends(GrpcTransport(credentials(certs, "hub")), None, "127.0.0.1:0")) as meeting:
                short_lived = made(certs, "site-1", "agent", ends_in_s=3.0)
                agent = await GrpcTransport(short_lived).connect(meeting.listener.address)
                assert "has expired" in await end_of(agent, within_s=5)
                assert "has expired" in await end_of(await meeting.link(), within_s=1)
                await agent.close()

        run(test())

    def test_a_damaged_table_ends_no_session_in_progress_and_is_logged_once(self, tmp_path, caplog):
        folder = authority(tmp_path / "certs", "site-1")

        async def test():
            async with listening(over_grpc(folder)) as meeting:
                agent = await over_grpc(folder).agent("site-1").connect(meeting.listener.address)
                there = await meeting.link()
                (folder / "enrolment.json").write_text("{")
                await asyncio.sleep(1.3)
                await agent.send(b"still here")
                assert await there.receive() == b"still here"
                await agent.close()

        run(test())
        said = [record.message for record in caplog.records if record.levelname == "ERROR"]
        assert len(said) == 1
        assert "is no enrolment table" in said[0]


class TestProxy:
    def test_an_explicit_proxy_carries_the_connection_and_reads_nothing(self, certs):
        async def test():
            async with listening(over_grpc(certs)) as meeting, Proxy() as proxy:
                port = meeting.listener.address.rpartition(":")[2]
                agent = await GrpcTransport(credentials(certs, "site-1"), proxy=proxy.address).connect(
                    f"localhost:{port}"
                )
                there = await meeting.link()
                await agent.send(b"x" * 100_000)
                assert await there.receive() == b"x" * 100_000
                assert there.peer == "site-1"
                assert proxy.asked == [f"localhost:{port}"]
                await agent.close()

        run(test())

    def test_the_proxy_of_the_environment_is_used_and_no_proxy_kept(self, certs, monkeypatch):
        async def test():
            async with listening(over_grpc(certs)) as meeting, Proxy() as proxy:
                monkeypatch.setenv("https_proxy", proxy.address)
                monkeypatch.delenv("no_proxy", raising=False)
                for through in (1, 0):
                    agent = await over_grpc(certs).agent("site-1").connect(meeting.listener.address)
                    await meeting.link()
                    await agent.close()
                    assert len(proxy.asked) == 1, through
                    monkeypatch.setenv("no_proxy", "127.0.0.1")

        run(test())

    def test_a_proxy_that_refuses_is_said(self, certs):
        async def test():
            async with Proxy("403 Forbidden") as proxy:
                with pytest.raises(LinkClosedError, match="403"):
                    await GrpcTransport(credentials(certs, "site-1"), proxy=proxy.address).connect("localhost:7500")

        run(test())


def test_an_error_of_a_session_is_logged_and_tells_the_agent_nothing(certs, caplog):
    async def test():
        async def session(link):
            raise ValueError("a secret of the coordinator")

        listener = await over_grpc(certs).coordinator.listen("127.0.0.1:0", session)
        agent = await over_grpc(certs).agent("site-1").connect(listener.address)
        assert "secret" not in await end_of(agent)
        await agent.close()
        await listener.close()

    run(test())
    assert "the session of site-1 failed" in caplog.text
    assert "a secret of the coordinator" in caplog.text


async def _say_http(reader, writer):
    await reader.read(10)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await writer.drain()
    writer.close()


def _without_certificate(certs):
    """What a client without a certificate hears."""

    async def test():
        import grpc

        async with listening(over_grpc(certs)) as meeting:
            port = meeting.listener.address.rpartition(":")[2]
            secure = grpc.ssl_channel_credentials((certs / "ca.pem").read_bytes())
            async with grpc.aio.secure_channel(f"localhost:{port}", secure) as channel:
                with pytest.raises(grpc.RpcError) as heard:
                    await channel.stream_stream("/fedrl.v1/Session")().read()
            assert meeting.came.empty()
            return str(heard.value)

    return run(test())
