"""What somebody on the way between a coordinator and its agents reads: over mutual TLS, neither parameters nor reports.

    agent --> relay with a recording --> coordinator          and beside it: what was sent, noted above the transport

Whatever was sent is looked for in the recording. The same search finds all of it where the transport is plain TCP.
"""

import asyncio

import jax
import numpy as np

from fedrl.aggregators import mean
from fedrl.engines.messages import messages
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from fedrl.learners import sgd
from fedrl.network.bridge import Bridge
from fedrl.network.choices import sites
from fedrl.sites.agent import Backoff, SiteAgent
from fedrl.sites.policy import MayLeave
from fedrl.transport.certificates import enrolment_of
from fedrl.transport.grpc_transport import GrpcTransport
from fedrl.wire.codec import codec
from fedrl.wire.protocol import Hello, Reader, Sent, Stop, Task
from tests.support.certified import authority, credentials
from tests.support.plain_transport import PlainTransport
from tests.support.quadratic import Valley, quadratic
from tests.support.relay import Recording, Relay

AGENTS, SIZE, SEED, ROUNDS, WINDOW = 2, 32, 11, 3, 16
RUN, TITLE, SITE = "0123456789abcdef" * 2, "federation-of-valleys", "hospital-of-the-north"
NAMES = [f"{SITE}-{k}" for k in range(AGENTS)]
REPORTS = ("duration_s", "loss", "norm")
draws = np.random.default_rng(2)
FLEET = Valley(*(draws.uniform(0.2, 2.0, (AGENTS, SIZE)).astype(np.float32) for _ in range(2)))
FEDERATION = federate(quadratic(sgd(0.1), size=SIZE), mean(), reports=REPORTS, local_steps=2)


class NotedLink:
    """A link that notes what is sent on it before it is."""

    def __init__(self, link, frames):
        self._link, self._frames = link, frames

    @property
    def peer(self):
        return self._link.peer

    async def send(self, frame):
        self._frames.append(frame)
        await self._link.send(frame)

    async def receive(self):
        return await self._link.receive()

    async def close(self):
        await self._link.close()


class NotedTransport:
    """A transport whose links note what is sent: the frames of each link in `sent`."""

    def __init__(self, transport):
        self._transport, self.sent, self.credentials = transport, [], transport.credentials

    def _noted(self, link):
        self.sent.append([])
        return NotedLink(link, self.sent[-1])

    async def listen(self, address, session):
        return await self._transport.listen(address, lambda link: session(self._noted(link)))

    async def connect(self, address):
        return self._noted(await self._transport.connect(address))

    def messages(self):
        """All messages that were sent."""
        found = []
        for frames in self.sent:
            reader = Reader(1 << 24)
            found += [message for frame in frames if (message := reader.take(frame)) is not None]
        return found


def recorded(folder, coordinator, agent_of, host="localhost"):
    """The recording of a few rounds, and the messages of both ends, on transports of the coordinator and of each name.

    The server's parameters before each round come third.
    """
    coordinator, recording, agents, versions = NotedTransport(coordinator), Recording(), [], []
    bridge = Bridge(coordinator, "127.0.0.1:0", run=lambda: RUN, name=TITLE, replayable=True)
    placement = sites(bridge, NAMES.index)
    with simulate(FEDERATION, FLEET, executor=placement) as simulation:

        async def live():
            async with Relay(bridge.address) as relay:
                relay.recording = recording
                address = f"{host}:{relay.address.rpartition(':')[2]}"
                for k, name in enumerate(NAMES):
                    transport = NotedTransport(agent_of(name))
                    agents.append((transport, site(k, name, transport, address)))
                return await asyncio.gather(*(agent.run() for _, agent in agents))

        def site(k, name, transport, address):
            return SiteAgent(
                FEDERATION,
                lambda number: jax.tree.map(lambda x: x[number], FLEET),
                transport,
                address,
                folder / name,
                MayLeave(reports=REPORTS),
                seed=SEED,
                backoff=Backoff(0.05, 0.2),
            )

        living = asyncio.run_coroutine_threadsafe(live(), bridge._loop)
        state = simulation.init(SEED)
        for _ in range(ROUNDS):
            versions.append([np.asarray(leaf).astype("<f4") for leaf in jax.tree.leaves(state.server.params)])
            state, _ = simulation.round(state)
        running = bridge.sessions.stop(Stop("The run is complete.", "done", False))
        asyncio.run_coroutine_threadsafe(running, bridge._loop).result(30)
        assert {end.code for end in living.result(30)} == {"done"}
        bridge.close()
    sent = [message for transport in (coordinator, *(each for each, _ in agents)) for message in transport.messages()]
    return recording, sent, versions


def secrets_of(sent, versions):
    """What nobody on the way may read, by kind: runs of bytes that are long enough to be nothing else by accident."""
    contents = [message.content for message in sent if isinstance(message, Sent | Task)]
    assert len(contents) == 2 * AGENTS * ROUNDS
    updates = [message.content for message in sent if isinstance(message, Sent)]
    hellos = [message.content for message in sent if isinstance(message, Hello)]
    wire = codec(messages(FEDERATION, FLEET).update)
    reports = []
    for content in updates:
        for value in wire.decode(content).report.values():
            raw = np.asarray(value).tobytes()
            assert content.count(raw) == 1  # so it is the report that is looked for, with four bytes beside it
            at = content.index(raw)
            reports += [content[at - 4 : at + 4]]
    assert len(reports) == len(updates) * len(REPORTS)
    assert any(b"norm" in hello for hello in hellos)
    rows = [leaf.reshape(-1) for leaves in versions[1:] for leaf in leaves]  # the first version is all zeros
    assert all(np.abs(row).min() > 1e-4 for row in rows)
    return {
        "parameters": {row[i : i + 4].tobytes() for row in rows for i in range(len(row) - 3)},
        "messages": {content[i : i + WINDOW] for content in contents for i in range(len(content) - WINDOW + 1)},
        "reports": set(reports),
        "the federation": {hello[i : i + WINDOW] for hello in hellos for i in range(len(hello) - WINDOW + 1)},
        "names of agents": {name.encode() for name in NAMES},
        "names of the run": {RUN.encode(), TITLE.encode()},
        "the end": {b"The run is complete."},
    }


def test_a_recording_over_mutual_tls_has_neither_parameters_nor_reports_nor_names(tmp_path):
    folder = authority(tmp_path / "certificates", *NAMES)
    hub = GrpcTransport(credentials(folder, "hub"), enrolment_of(folder))
    recording, sent, versions = recorded(tmp_path, hub, lambda name: GrpcTransport(credentials(folder, name)))
    assert len(recording) > sum(len(message.content) for message in sent if isinstance(message, Sent | Task | Hello))
    windows = {size: recording.windows(size) for size in (8, WINDOW)}
    for kind, needles in secrets_of(sent, versions).items():
        found = [n for n in needles if (n in windows[len(n)] if len(n) in windows else recording.found(n))]
        assert not found, kind
    assert not recording.found(b"duration_s")
    # Certificates are encrypted too, and so are the names in them; the host name that agents ask for is not.
    assert not recording.found(b"fedrl authority")
    assert recording.found(b"localhost")


def test_the_same_recorder_finds_all_of_it_where_there_is_no_tls(tmp_path):
    recording, sent, versions = recorded(tmp_path, PlainTransport(), PlainTransport, "127.0.0.1")
    windows = recording.windows(WINDOW)
    assert recording.found(b"duration_s")
    for kind, needles in secrets_of(sent, versions).items():
        missing = [n for n in needles if not (n in windows if len(n) == WINDOW else recording.found(n))]
        assert needles, kind
        assert not missing, kind
