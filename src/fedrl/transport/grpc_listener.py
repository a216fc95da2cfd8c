"""The coordinator's end of gRPC: each stream is checked against the enrolment table and handed to a session."""

from __future__ import annotations

import asyncio
import datetime
import logging
from collections.abc import Callable
from typing import Any

from fedrl.core.errors import ConfigError
from fedrl.transport.enrolment import Enrolment
from fedrl.transport.grpc_faults import CUT
from fedrl.transport.grpc_link import GrpcLink
from fedrl.transport.seam import LinkClosedError, LinkRefusedError, Session
from fedrl.transport.x509_parts import end_of_validity, name_and_serial

SERVICE, METHOD = "fedrl.v1", "Session"
NAME = "fedrl-name"
"""The header with the coordinator's name, in its answer to a connection."""
LOOK_S = 0.5
"""Seconds between two looks whether a certificate in use has been revoked or has expired."""
CLOSE_S = 1.0
"""Seconds that sessions have to end when the listener closes."""
LOG = logging.getLogger(__name__)


class GrpcListener:
    """A server of gRPC.

    Args:
        server: The server.
        name: Name of the coordinator.
        session: What is done with a connection.
        enrolment: Who may connect; None for every agent of the authority.
        because: Says why a connection has ended, from what a read or a write on it raised.
    """

    def __init__(
        self,
        server: Any,
        name: str,
        session: Session,
        enrolment: Enrolment | None,
        because: Callable[[Exception], LinkClosedError],
    ) -> None:
        self._server, self._name, self._session = server, name, session
        self._enrolment, self._because = enrolment, because
        self._open: dict[GrpcLink, tuple[str, int, datetime.datetime]] = {}
        self._sessions: set[asyncio.Task[None]] = set()
        self._address = self._reported = ""
        self._watch: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """The address with the port that was really taken."""
        return self._address

    def begin(self, address: str) -> None:
        """Note the address, and begin to look for certificates that are valid no more."""
        self._address = address
        self._watch = asyncio.ensure_future(self._looking())

    async def serve(self, requests: Any, context: Any) -> None:
        """Serve one stream, as its handler in gRPC."""
        import grpc

        del requests  # frames are read from the context
        certificate = context.auth_context()["x509_pem_cert"][0]
        try:
            name, serial = name_and_serial(certificate)
            why = self._refusal(name, serial)
        except ConfigError as fault:
            name, serial, why = context.peer(), 0, str(fault)
        if why:
            LOG.warning("refused %s: %s", name, why)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, why)
        await context.send_initial_metadata(((NAME, self._name),))
        link = GrpcLink(name, context, self._because)
        self._open[link] = name, serial, end_of_validity(certificate)
        session = asyncio.ensure_future(self._held(link))
        self._sessions.add(session)
        session.add_done_callback(self._sessions.discard)
        try:
            await link.over.wait()
        except asyncio.CancelledError:
            # gRPC cancels the handler when the agent has gone; the session learns it from its link.
            link.ended(LinkClosedError(CUT))
            raise
        finally:
            self._open.pop(link, None)
        if isinstance(link.why, LinkRefusedError):
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(link.why))

    async def _held(self, link: GrpcLink) -> None:
        """Run the session of a link; what it raises is logged, as nobody waits for it."""
        try:
            await self._session(link)
        except LinkClosedError:
            pass
        except Exception:
            LOG.exception("the session of %s failed", link.peer)
        finally:
            await link.close()

    async def _looking(self) -> None:
        """End the sessions of revoked and expired certificates."""
        while True:
            await asyncio.sleep(LOOK_S)
            readable, now = self._readable(), datetime.datetime.now(datetime.UTC)
            for link, (name, serial, end) in list(self._open.items()):
                why = self._refusal(name, serial) if readable else ""
                if now > end:
                    why = f"The certificate of {name!r} has expired. Ask the coordinator's operator to renew it."
                if why:
                    LOG.warning("ended the session of %s: %s", name, why)
                    link.ended(LinkRefusedError(why))

    def _readable(self) -> bool:
        """Return whether the enrolment table can be read, and log what is wrong with it once."""
        try:
            if self._enrolment is not None:
                self._enrolment.table()
        except ConfigError as fault:
            # Sessions in progress go on; nobody new is admitted.
            if str(fault) != self._reported:
                LOG.error("%s", fault)
            self._reported = str(fault)
            return False
        self._reported = ""
        return True

    def _refusal(self, name: str, serial: int) -> str:
        return "" if self._enrolment is None else self._enrolment.refusal(name, serial)

    async def close(self) -> None:
        """End all connections and listen no more."""
        if self._watch is not None:
            self._watch.cancel()
        links, own = list(self._open), asyncio.current_task()
        await asyncio.gather(*(link.close() for link in links))
        # A session may close the listener, and can't wait for itself.
        sessions = [session for session in self._sessions if session is not own]
        if sessions:
            _, pending = await asyncio.wait(sessions, timeout=CLOSE_S)
            for session in pending:
                session.cancel()
        await self._server.stop(CLOSE_S)
