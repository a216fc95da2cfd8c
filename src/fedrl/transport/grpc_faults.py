"""What gRPC says of a connection that fails or ends, as a sentence for people: value, cause, cure."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from fedrl.transport.seam import LinkClosedError, LinkRefusedError

CUT = "The connection was cut. The other end has ended or was stopped, or the network in between failed."
LOG = logging.getLogger(__name__)
OTHER = "It has a certificate that this end does not accept: {}. Use the ca.pem of the coordinator's authority."
CONNECTING = (
    # what gRPC says, what it means, whether to try again
    ("connection refused", "Nobody listens there. Check the address, and whether the coordinator runs.", True),
    ("lookup failed", "Its host name is not known here. Check the address.", True),
    ("errors resolving", "It is no HOST:PORT. Check the address.", False),
    ("failed to parse", "It is no HOST:PORT. Check the address.", False),
    ("issuer certificate", OTHER.format("another authority has signed it"), False),
    ("self-signed", OTHER.format("another authority has signed it"), False),
    ("self signed", OTHER.format("another authority has signed it"), False),
    ("has expired", "Its certificate has expired. Its operator has to renew it with fedrl certs renew.", False),
    ("not yet valid", "Its certificate is not valid yet. Set the clocks of both ends.", False),
    ("certificate purpose", OTHER.format("it is no coordinator's"), False),
    (
        "hostname verification",
        "Its certificate is for other host names. Use one of those for which it was issued.",
        False,
    ),
    ("wrong_version_number", "What listens there speaks no TLS. Check the port, and proxies on the way.", False),
    ("proxy", "The HTTP proxy did not let the connection through: {}. Check the address and the proxy.", True),
    ("handshake", "The TLS handshake failed: {}. Check the port, and proxies on the way.", True),
    (
        "socket closed",
        "It closed the connection in the handshake. Either it refuses the certificate of this end (of another "
        "authority, expired by its clock, or no agent's), or it is no coordinator of fedrl.",
        True,
    ),
    ("timeout", "It doesn't answer. Check the address, and firewalls on the way.", True),
)


def not_connected(fault: Any, address: str) -> LinkClosedError:
    """Return why a connection to an address was not made, from the error of gRPC."""
    import grpc

    code, said = fault.code(), str(fault.details() or "").strip()
    if code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED):
        return LinkRefusedError(f"The coordinator at {address} refuses this agent. {said}")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return LinkRefusedError(f"{address} is a server of gRPC, but no coordinator of fedrl. Check the address.")
    for sign, meaning, again in CONNECTING:
        if sign in said.lower():
            kind = LinkClosedError if again else LinkRefusedError
            return kind(f"No connection to {address}. {meaning.format(_last(said))}")
    return LinkClosedError(f"No connection to {address} ({code.name.lower()}: {_last(said)}).")


def broken(fault: Exception, ping_s: float) -> LinkClosedError:
    """Return why a connection has ended, from what a read or a write on it raised."""
    import grpc
    from grpc import aio

    if not isinstance(fault, grpc.RpcError):
        # gRPC raises these for a stream that was ended before; after SIGCONT, for example, InvalidStateError.
        if not isinstance(fault, asyncio.InvalidStateError | aio.UsageError | aio.BaseError):
            LOG.error("a read or a write raised what gRPC never raises", exc_info=fault)
        return LinkClosedError("The connection has ended.")
    code, said = fault.code(), str(fault.details() or "").strip()
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return LinkRefusedError(f"The coordinator has ended the connection. {said}")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return LinkRefusedError(f"A frame was too large for the other end ({said}). Install the same version of fedrl.")
    low = said.lower()
    if "ping" in low or "keepalive" in low or "timed out" in low:
        return LinkClosedError(
            f"The other end has not answered for {2 * ping_s:g} s. It was stopped, or the network cut."
        )
    if "socket closed" in low or "reset" in low or "broken pipe" in low or "goaway" in low:
        return LinkClosedError(CUT)
    return LinkClosedError(f"The connection has ended ({code.name.lower()}: {said}).")


def _last(said: str) -> str:
    """Return what gRPC says of the last address that it has tried, without the addresses."""
    return said.rpartition("last error: ")[2].removesuffix(": OK")
