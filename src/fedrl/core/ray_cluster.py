"""Connect to Ray, which starts worker processes on this machine or on the machines of a cluster.

    connect(None)            a cluster of this machine alone, for this process, on the loopback interface
    connect("auto")          the cluster that runs on this machine (`ray start`)
    connect("10.0.0.1:6379") the cluster with this head node

Whoever may use a Ray cluster may run any code on it, so all its machines have to be trusted, and closed to others.
Ray is an extra and is imported here alone.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import secrets
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

from fedrl.core.errors import ConfigError
from fedrl.core.processors import cores

MISSING = "The executor is 'ray', and Ray is not installed. Install it with: pip install 'fedrl[ray]'"
START_S = 60.0
"""Seconds in which a worker process has to start."""
ANSWER_S = 5.0
"""Seconds in which the head node of a cluster has to accept a connection."""
PASSED_ON = ("JAX_", "XLA_", "FEDRL_", "XDG_CACHE_HOME", "PJRT_NPROC")
"""Beginnings of the names of environment variables that workers get from this process."""
DETAIL = re.compile(r"Worker exit detail:\s*(.+?)(?:\.\s|\.$|$)", re.DOTALL)
HELD_BY_RAY = (signal.SIGTERM, signal.SIGINT)


def check_installed() -> None:
    """Refuse Ray where it is not installed, without importing it.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        found = importlib.util.find_spec("ray")
    except ValueError:  # an entry of sys.modules without a specification
        found = None
    if found is None:
        raise ConfigError(MISSING)


def imported_ray() -> ModuleType:
    """Return the module `ray`.

    Raises:
        ConfigError: It is not installed.
    """
    # Read when Ray is imported: it would report its use to its authors, and write of dead workers to standard output.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed")
    try:
        import ray
    except ModuleNotFoundError as fault:
        if fault.name != "ray":
            raise
        raise ConfigError(MISSING) from None
    module: ModuleType = ray
    return module


def connect(address: str | None = None, workers: int | None = None) -> int:
    """Connect this process to a cluster, unless it is connected, and return the number of workers to start there.

    Args:
        address: "auto", or the host and port of the head node; by default a cluster of this machine alone is started,
            which ends with this process.
        workers: Number of worker processes; by default one for each core of the cluster.

    Raises:
        ConfigError: Ray is not installed, there is no such cluster, it has too few cores, or this process is
            connected to another one.
    """
    _choose_token(alone=address is None)
    ray = imported_ray()
    _check_address(address)
    if not ray.is_initialized():
        _start(ray, address, workers)
    elif address not in (None, "auto", "local"):
        _check_connected(str(address), ray.get_runtime_context().gcs_address)
    there = int(ray.cluster_resources().get("CPU", 0))
    wanted = there if workers is None else workers
    if not 1 <= wanted <= there:
        raise ConfigError(
            f"The number of workers is {wanted}, and the Ray cluster has {there} CPU{'' if there == 1 else 's'}, one "
            f"for each worker. Choose 1 to {there}, add machines, or end the process that has started Ray with fewer."
        )
    return wanted


def _start(ray: ModuleType, address: str | None, workers: int | None) -> None:
    """Call `ray.init`, which takes over signals of this process; they are given back."""
    own = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in HELD_BY_RAY} if own else {}
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    try:
        if address is None:
            with _on_loopback():
                # By default workers give way to all other processes, though this one waits for them.
                willing = {"worker_niceness": 0}
                most = max(cores(), workers or 1)
                ray.init("local", num_cpus=most, include_dashboard=False, _system_config=willing, **quiet)
        else:
            ray.init(address, **quiet)
    except SystemExit as left:
        # The handler of Ray ends the process with the number of the signal alone.
        raise SystemExit(128 + left.code if left.code == signal.SIGTERM else left.code) from None
    except (ConnectionError, RuntimeError, ValueError) as fault:
        where = "on this machine" if address in (None, "auto", "local") else f"at {address}"
        first = (str(fault) or type(fault).__name__).strip().splitlines()[0].rstrip(".")
        raise ConfigError(
            f"There is no Ray cluster {where} that this process can use ({first}). Start one with: ray start --head. "
            "If there is one with a token, this process needs its file ~/.ray/auth_token and RAY_AUTH_MODE=token. Or "
            "leave the address out, to start one of this machine alone."
        ) from fault
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _choose_token(alone: bool) -> None:
    """Let only who has the token use the cluster; of one of this machine alone, nobody but this process has it."""
    if "ray" in sys.modules:
        return  # it reads these variables when it is imported
    home = Path.home() / ".ray" / "auth_token"
    if alone and not any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        # Ray itself would write one to a file that others may read.
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    if alone or home.exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Let a cluster of this machine alone listen on the loopback interface.

    Ray replaces 127.0.0.1 by the address of the machine, for clusters of several, but on systems that ask the user
    about programs that listen. Its constant for that is the only way to have it here.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        with warnings.catch_warnings():
            # It forks before it replaces the process; JAX's threads are not used in between.
            warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning)
            yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _check_address(address: str | None) -> None:
    """Refuse an address where nothing listens; Ray itself would try for minutes.

    Raises:
        ConfigError: It is no address, or nothing listens there.
    """
    if address in (None, "auto", "local"):
        return
    host, colon, port = str(address).rpartition(":")
    if not colon or not port.isdecimal() or not host or "/" in host:
        raise ConfigError(
            f"The address of the Ray cluster is {address!r}. It needs to be 'auto', or the host and port of its head "
            "node, such as 10.0.0.1:6379."
        )
    try:
        socket.create_connection((host, int(port)), ANSWER_S).close()
    except (OSError, OverflowError) as fault:
        raise ConfigError(
            f"The address of the Ray cluster is {address!r}, and nothing answers there ({fault}). Start its head node "
            "with: ray start --head, and check host, port and firewall."
        ) from None


def _check_connected(address: str, known: str) -> None:
    """Refuse another cluster than the one to which this process is connected.

    Raises:
        ConfigError: It is another one.
    """
    (host, _, port), (own, _, own_port) = address.rpartition(":"), known.rpartition(":")
    hosts = {str(entry[4][0]) for entry in socket.getaddrinfo(host, int(port))}
    # The machine itself has several addresses, of which Ray names one.
    local = own in {str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), int(port))}
    same = own in hosts or (local and any(each.startswith("127.") or each == "::1" for each in hosts))
    if port != own_port or not same:
        raise ConfigError(
            f"The address of the Ray cluster is {address!r}, and this process is connected to another one, {known}. "
            "Call ray.shutdown() before, or use a process for each cluster."
        )


def environment_of_workers(extra: Sequence[str] = (), **fixed: str) -> dict[str, str]:
    """Return the environment variables with which workers start: settings of JAX, folders of modules, `extra`.

    Args:
        extra: Names of further variables, whose values are those of this process.
        **fixed: Further variables with their values.

    Raises:
        ConfigError: One of `extra` is not set here.

    >>> sorted(environment_of_workers(XLA_FLAGS="--xla_x=1"))[-1]
    'XLA_FLAGS'
    """
    missing = [name for name in extra if name not in os.environ]
    if missing:
        raise ConfigError(
            f"executor.env_vars names {missing[0]!r}, and this process has no such environment variable. Set it, or "
            "leave it out."
        )
    known = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON) or name in extra}
    return known | {"PYTHONPATH": os.pathsep.join(own_folders())} | fixed


def own_folders(path: Sequence[str] | None = None) -> list[str]:
    """Return the folders in which this process looks for modules, but for those of Python and its installed packages.

    Workers look in them, too. Without the folder of Ray itself, where it is none of Python's, no worker would start.
    """
    inside = (Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve())
    found = []
    for entry in sys.path if path is None else path:
        folder = Path(entry or os.getcwd()).resolve()
        if folder.is_dir() and not any(folder.is_relative_to(place) for place in inside):
            found.append(str(folder))
    return list(dict.fromkeys(found))


def nodes(ray: ModuleType) -> list[Mapping[str, object]]:
    """Return the machines of the cluster that are alive."""
    return [node for node in ray.nodes() if node["Alive"]]


def not_started(ray: ModuleType, workers: int, seconds: float) -> str:
    """Return the sentences about workers that did not start within so many seconds."""
    there = ray.cluster_resources().get("CPU", 0.0)
    free = ray.available_resources().get("CPU", 0.0)
    return (
        f"{workers} worker{' has' if workers == 1 else 's have'} not started within {seconds:g} s. The Ray cluster has "
        f"{there:g} CPUs, of which {free:g} are free, and each worker needs one. End what else runs there, add "
        "machines, or use fewer workers. If enough are free, Ray itself can't be imported by the workers: see the logs "
        "of the session in /tmp/ray."
    )


def cause_of(fault: Exception) -> str:
    """Return the cause of the end of a worker process, as far as Ray knows it.

    >>> cause_of(Exception("... Worker exit detail: Worker unexpectedly exits with a connection error code 2. End of"))
    'killed, as for lack of memory or by kill -9, or crashed; Ray does not know the signal'
    >>> cause_of(Exception("The actor died because its node has died. Node Id: ab"))
    'its machine has left the cluster'
    """
    said = " ".join(str(fault).split())
    if "low on memory" in said or type(fault).__name__ == "OutOfMemoryError":
        return "Ray ended it because its machine was low on memory"
    if re.search("node (has died|has crashed|was terminated)", said):
        return "its machine has left the cluster"
    if "connection error code" in said:
        return "killed, as for lack of memory or by kill -9, or crashed; Ray does not know the signal"
    found = DETAIL.search(said)
    if found:
        return found[1]
    lines = [line for line in str(fault).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(fault).__name__
