"""A transport over gRPC with mutual TLS: one bidirectional stream per connection, frames as they are.

    agent   connect --> TLS, both certificates --> stream --> enrolment table --> session(link)

Who an agent is follows from its certificate alone. Both ends ping each other, so that a peer that stopped or a broken
connection is noticed within seconds. Frames that nobody has asked for stay at their sender: gRPC reads ahead no more
than `READ_AHEAD` bytes of a connection, and `GrpcLink` one frame.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import Any

from fedrl.core.errors import ConfigError
from fedrl.transport.credentials import Credentials
from fedrl.transport.enrolment import Enrolment
from fedrl.transport.extra import check_installed
from fedrl.transport.grpc_faults import broken, not_connected
from fedrl.transport.grpc_link import CLOSE_S, GrpcLink
from fedrl.transport.grpc_listener import METHOD, NAME, SERVICE, GrpcListener
from fedrl.transport.seam import Link, LinkClosedError, LinkRefusedError, Listener, Session
from fedrl.transport.x509_parts import name_and_serial
from fedrl.wire.frames import LARGEST

READ_AHEAD = 256 * 1024
"""Bytes of a connection that gRPC receives before they are asked for."""


class GrpcTransport:
    """Connections over gRPC with mutual TLS.

    Args:
        credentials: Of this end.
        enrolment: Who may connect to `listen`; without it, every agent of the authority may.
        ping_s: Seconds between two pings, and seconds that a ping waits for its answer.
        proxy: HTTP proxy that `connect` goes through, "http://HOST:PORT". Without it, that of the environment
            variables `https_proxy` or `http_proxy` is used, unless `no_proxy` names the host.
        connect_s: Seconds after which `connect` gives up.

    >>> GrpcTransport(Credentials(b"", b"", b"")).ping_s
    1.0
    """

    def __init__(
        self,
        credentials: Credentials,
        enrolment: Enrolment | None = None,
        ping_s: float = 1.0,
        proxy: str | None = None,
        connect_s: float = 10.0,
    ) -> None:
        self.credentials, self.enrolment = credentials, enrolment
        self.ping_s, self.proxy, self.connect_s = ping_s, proxy, connect_s

    async def listen(self, address: str, session: Session) -> Listener:
        """Listen at an address, and hand each connection to a session.

        Raises:
            ConfigError: The address is none, or is taken.
        """
        grpc = _grpc()
        host, _ = split(address)
        name, _ = name_and_serial(self.credentials.certificate)
        server = grpc.aio.server(options=options(self.ping_s))
        listener = GrpcListener(server, name, session, self.enrolment, partial(broken, ping_s=self.ping_s))
        handler = grpc.stream_stream_rpc_method_handler(listener.serve)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
        pair = (self.credentials.key, self.credentials.certificate)
        secure = grpc.ssl_server_credentials([pair], self.credentials.ca, require_client_auth=True)
        try:
            port = server.add_secure_port(address, secure)
        except RuntimeError as fault:
            await server.stop(None)
            raise ConfigError(
                f"{address} can't be listened at: it is no address of this machine, or something listens there "
                "already. Choose another one."
            ) from fault
        await server.start()
        listener.begin(f"{host}:{port}")
        return listener

    async def connect(self, address: str) -> Link:
        """Return a link to a listener.

        Raises:
            LinkRefusedError: The other end is no coordinator of this authority, or refuses this one.
            LinkClosedError: Nobody listens there, or it does not answer.
        """
        try:
            split(address)
        except ConfigError as fault:
            raise LinkRefusedError(str(fault)) from fault
        grpc = _grpc()
        own = self.credentials
        secure = grpc.ssl_channel_credentials(own.ca, own.key, own.certificate)
        channel = grpc.aio.secure_channel(address, secure, options=options(self.ping_s, self.proxy, listens=False))
        call = channel.stream_stream(f"/{SERVICE}/{METHOD}")()
        try:
            async with asyncio.timeout(self.connect_s):
                peer = await _admitted(call, address)
        except BaseException as fault:
            call.cancel()
            await channel.close()
            if isinstance(fault, TimeoutError):
                raise LinkClosedError(
                    f"{address} has not answered for {self.connect_s:g} s. Check the address, and firewalls on the way."
                ) from fault
            if isinstance(fault, grpc.RpcError):
                raise not_connected(fault, address) from fault
            raise

        async def hang_up() -> None:
            try:
                async with asyncio.timeout(CLOSE_S):
                    await call.done_writing()
                    await call.code()
            except Exception:  # whatever is wrong with it, it is over
                call.cancel()
            finally:
                await channel.close()

        return GrpcLink(peer, call, partial(broken, ping_s=self.ping_s), hang_up)


async def _admitted(call: Any, address: str) -> str:
    """Wait until the other end has admitted this one, and return its name."""
    answer = dict(await call.initial_metadata() or ())
    if NAME not in answer:
        await call.read()  # raises why it has ended
        raise LinkRefusedError(f"{address} is a server of gRPC, but no coordinator of fedrl. Check the address.")
    return str(answer[NAME])


def options(ping_s: float, proxy: str | None = None, listens: bool = True) -> list[tuple[str, Any]]:
    """Return the options of gRPC for one end.

    Args:
        ping_s: Seconds between two pings, and until one that is not answered ends the connection.
        proxy: HTTP proxy of an agent, "http://HOST:PORT"; without it, that of the environment variables.
        listens: Whether this end is the one that listens.
    """
    ping_ms = round(1000 * ping_s)
    found: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", LARGEST + 1024),
        ("grpc.max_receive_message_length", LARGEST + 1024),
        ("grpc.http2.lookahead_bytes", READ_AHEAD),
        # Else the window grows with what was received, and a coordinator would hold megabytes for each agent.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.keepalive_time_ms", ping_ms),
        # This alone decides when a ping counts as unanswered. The next one becomes TCP_USER_TIMEOUT, which would end
        # connections through a proxy that takes no bytes for a while because its own link is slow.
        ("grpc.http2.ping_timeout_ms", ping_ms),
        ("grpc.keepalive_timeout_ms", 60_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    if listens:
        found += [
            ("grpc.http2.min_ping_interval_without_data_ms", ping_ms // 2),
            ("grpc.so_reuseport", 0),  # else a second coordinator at the same address would not be noticed
            ("grpc.server_handshake_timeout_ms", 10_000),
            ("grpc.max_concurrent_streams", 8),
        ]
    else:
        found += [
            ("grpc.use_local_subchannel_pool", 1),  # a connection of its own for each link
            ("grpc.enable_retries", 0),
            ("grpc.service_config_disable_resolution", 1),
        ]
        if proxy is not None:
            found.append(("grpc.http_proxy", proxy))
    return found


def split(address: str) -> tuple[str, int]:
    """Return the host and the port of an address.

    Raises:
        ConfigError: It is no HOST:PORT.

    >>> split("localhost:7500"), split("[::1]:0")
    (('localhost', 7500), ('[::1]', 0))
    """
    host, _, port = address.rpartition(":")
    whole = host.startswith("[") and host.endswith("]")
    if not host or (":" in host and not whole) or not (port.isascii() and port.isdecimal() and int(port) < 65536):
        raise ConfigError(
            f"{address!r} is no address. Write HOST:PORT with a port up to 65535, such as 0.0.0.0:7500 or [::1]:7500."
        )
    return host, int(port)


def _grpc() -> Any:
    check_installed()
    # The core of gRPC writes lines of its own to stderr for each failed handshake, which name no peer.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    import grpc
    import grpc.aio

    return grpc
