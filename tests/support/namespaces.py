"""Hosts on one network, each a network namespace of Linux with a link to a switch that this process can cut or slow.

    hub    eth0 ---- to-hub  \
    site-0 eth0 ---- to-site-0 }  bridge, in a namespace of its own         10.77.0.1, 10.77.0.10, 10.77.0.11, ...
    site-1 eth0 ---- to-site-1 /

A cut is `ip link set down` of the port at the switch: the host behind it loses its carrier, and all others hear of
nothing, as on a real network. Bandwidth is `tbf` at both ends of a link. It takes root, the tools `ip` and `tc`, and a
kernel with veth, bridges and tbf. Other users than root run the suite without these tests, and its last lines say so;
for root, a test whose means are missing is skipped with the reason of `missing`, which counts as a failure.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Any

SWITCH, PREFIX = "switch", "10.77.0"
BURST, LATENCY = "4kb", "400ms"


def is_root() -> bool:
    """Whether this process may make hosts."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say that these tests were left out, if they were."""
    if not is_root():
        terminalreporter.write_line(
            "tests/network/test_namespaces.py was left out: it takes root. See CONTRIBUTING.md."
        )


def _told(*command: str) -> str:
    """Run a command, and return what it complains of; "" if it succeeds."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"{' '.join(command)} says: {done.stderr.strip()}"


def _do(*command: str) -> None:
    said = _told(*command)
    if said:
        raise RuntimeError(said)


@functools.cache
def missing() -> str:
    """Return why there can be no such hosts here, one sentence; "" if there can."""
    if not is_root():
        return "Network namespaces take root, and this is another user."
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            return f"The tool {tool!r} is not installed. It is in the package iproute2."
    return _tried(["tbf", "rate", "500kbit", "burst", BURST, "latency", LATENCY])


@functools.cache
def netem() -> bool:
    """Return whether the kernel has `netem`, which delays, loses and reorders packets."""
    return not missing() and not _tried(["netem", "delay", "1ms"])


def _tried(discipline: Sequence[str]) -> str:
    """Try a namespace with a bridge and a link of this queueing discipline, and return what fails."""
    name = f"fedrl-{os.getpid()}-probe"
    try:
        return (
            _told("ip", "netns", "add", name)
            or _told("ip", "-n", name, "link", "add", "one", "type", "veth", "peer", "name", "other")
            or _told("ip", "-n", name, "link", "add", "between", "type", "bridge")
            or _told("tc", "-n", name, "qdisc", "add", "dev", "one", "root", *discipline)
        )
    finally:
        _told("ip", "netns", "del", name)


class Hosts:
    """Hosts by name; the first one has the address 10.77.0.1, the others 10.77.0.10 and on.

    Args:
        names: Names of the hosts; at most 8 characters each, since a link is named after its host.
    """

    def __init__(self, *names: str) -> None:
        self._names = names
        self.addresses = {name: f"{PREFIX}.{1 if k == 0 else 9 + k}" for k, name in enumerate(names)}

    def __enter__(self) -> Hosts:
        try:
            switch = self._namespace(SWITCH)
            _do("ip", "netns", "add", switch)
            _do("ip", "-n", switch, "link", "add", "between", "type", "bridge")
            _do("ip", "-n", switch, "link", "set", "between", "up")
            for name in self._names:
                own = self._namespace(name)
                _do("ip", "netns", "add", own)
                _do("ip", "-n", own, "link", "set", "lo", "up")
                port = ("name", f"to-{name}", "netns", switch)
                _do("ip", "-n", own, "link", "add", "eth0", "type", "veth", "peer", *port)
                _do("ip", "-n", switch, "link", "set", f"to-{name}", "master", "between", "up")
                _do("ip", "-n", own, "link", "set", "eth0", "up")
                _do("ip", "-n", own, "address", "add", f"{self.addresses[name]}/24", "dev", "eth0")
        except BaseException:
            self._removed()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, where: TracebackType | None
    ) -> None:
        self._removed()

    def _removed(self) -> None:
        for name in (*self._names, SWITCH):
            _told("ip", "netns", "del", self._namespace(name))  # ignores those that were never made

    def _namespace(self, name: str) -> str:
        return f"fedrl-{os.getpid()}-{name}"

    def command(self, name: str, *command: str) -> list[str]:
        """Return the command that runs another one on a host, in the same process."""
        return ["ip", "netns", "exec", self._namespace(name), *command]

    def cut(self, name: str) -> None:
        """Cut the link of a host: nothing passes, and nobody is told."""
        _do("ip", "-n", self._namespace(SWITCH), "link", "set", f"to-{name}", "down")

    def restore(self, name: str) -> None:
        """Repair the link of a host."""
        _do("ip", "-n", self._namespace(SWITCH), "link", "set", f"to-{name}", "up")

    def slow(self, name: str, kbit_per_s: int) -> None:
        """Give the link of a host so much bandwidth in each direction."""
        for where, device in ((name, "eth0"), (SWITCH, f"to-{name}")):
            rate = ("rate", f"{kbit_per_s}kbit", "burst", BURST, "latency", LATENCY)
            _do("tc", "-n", self._namespace(where), "qdisc", "replace", "dev", device, "root", "tbf", *rate)

    def lose(self, name: str) -> None:
        """Let what goes to a host take 20 ms, more or less, and lose one packet in a hundred. It takes `netem`."""
        weather = ("netem", "delay", "20ms", "5ms", "loss", "1%")
        _do("tc", "-n", self._namespace(SWITCH), "qdisc", "replace", "dev", f"to-{name}", "root", *weather)

    def move(self, name: str, address: str) -> None:
        """Give a host another address; connections from the one before end without a word."""
        own = self._namespace(name)
        _do("ip", "-n", own, "address", "flush", "dev", "eth0")
        _do("ip", "-n", own, "address", "add", f"{address}/24", "dev", "eth0")
        self.addresses[name] = address

    def deafen(self, name: str, to: str) -> None:
        """Let nothing from `to` reach a host, which is still heard: its packets go to a card that is nowhere."""
        nowhere = ("lladdr", "02:00:00:00:00:01", "dev", "eth0", "nud", "permanent")
        _do("ip", "-n", self._namespace(to), "neighbour", "replace", self.addresses[name], *nowhere)

    def hear(self, name: str, to: str) -> None:
        """Take `deafen` back."""
        _do("ip", "-n", self._namespace(to), "neighbour", "del", self.addresses[name], "dev", "eth0")
