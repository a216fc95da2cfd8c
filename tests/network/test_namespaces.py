"""A coordinator and its agents on hosts of their own, as processes with mutual TLS: slow, cut, half-open and moving.

Whatever happens to the links, the run ends, and a replay of its log computes its parameters to the last bit.
"""

import json
import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import tomli_w

import fedrl
from fedrl.clocks.events import DROPPED
from fedrl.core.errors import RunError
from fedrl.network.log import Happened, entries_of
from fedrl.records.folder import EVENTS
from fedrl.runs.control import asked
from fedrl.transport.certificates import init, issue
from tests.network.test_coordinate import TABLES, replayed
from tests.support.namespaces import Hosts, missing, netem

ROOT, SEED, PORT = Path(__file__).parents[2], TABLES["seeds"][0], 7500
SITES = ("site-0", "site-1", "site-2")
NOTICED_S = 20.0
"""Seconds in which both ends have noticed a dead connection on a busy machine; pings take 1 to 2."""
WIDE = "\n".join(["S" + "." * 47] * 47 + ["." * 47 + "G"])
"""A map whose table of values has 36 kB."""


@pytest.fixture(autouse=True)
def _namespaces():
    if missing():
        pytest.skip(missing())


class Federation:
    """A coordinator and three agents, each a process on a host of its own."""

    def __init__(self, hosts, folder, tables, *options):
        self.hosts, self.folder, self.tables, self.options = hosts, folder, tables, options
        self.processes, self.files = {}, []
        init(folder / "certs")
        issue(folder / "certs", "hub", "coordinator", hosts=[hosts.addresses["hub"]])
        (folder / "experiment.toml").write_text(tomli_w.dumps(tables))
        for name in SITES:
            issue(folder / "certs", name)
            (folder / f"{name}.toml").write_text(
                f'coordinator = "{hosts.addresses["hub"]}:{PORT}"\ncertificates = "certs/issued/{name}"\n'
                f'folder = "kept-{name}"\nexperiment = "experiment.toml"\nseed = {SEED}\n'
            )

    def __enter__(self):
        place = ("--state", str(self.folder / "run"), "--certificates", str(self.folder / "certs/issued/hub"))
        experiment = str(self.folder / "experiment.toml")
        self.begin(
            "hub", "coordinator", experiment, *place, "--listen", f"0.0.0.0:{PORT}", "--replayable", *self.options
        )
        for name in SITES:
            self.agent(name)
        return self

    def __exit__(self, *error):
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait(30)
        for file in self.files:
            file.close()
        if error[0] is not None:
            for name in self.processes:
                print(f"--- {name}\n{self.said(name)[-4000:]}")

    def agent(self, name):
        self.begin(name, "agent", str(self.folder / f"{name}.toml"), "--json")

    def begin(self, name, *command):
        self.files.append((self.folder / f"{name}.log").open("a"))
        self.processes[name] = subprocess.Popen(
            self.hosts.command(name, sys.executable, "-m", "fedrl", *command),
            stdout=self.files[-1],
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=os.environ | {"XLA_FLAGS": "--xla_cpu_prefer_vector_width=256"},
        )

    def said(self, name):
        return (self.folder / f"{name}.log").read_text()

    def events(self, name):
        """What an agent has said, by event, from its first connection on: it may begin before the coordinator does."""
        lines = [line for line in self.said(name).splitlines() if line.startswith("{")]
        found = [json.loads(line)["event"] for line in lines if line.endswith("}")]
        return found[found.index("connected") :] if "connected" in found else []

    def until(self, what, found, within_s=120.0):
        """Wait until the state of the coordinator is as it should be."""
        end, status = time.monotonic() + within_s, None
        while time.monotonic() < end:
            try:
                status = asked(self.folder / "run", "status")
                if found(status):
                    return status
            except RunError:
                assert self.processes["hub"].poll() is None, self.said("hub")
            time.sleep(0.02)
        raise AssertionError(f"{what} did not happen within {within_s:g} s: {status}")

    def until_round(self, number):
        return self.until(f"round {number}", lambda status: status["round"] >= number)

    def until_state(self, name, *states):
        def found(status):
            return {agent["name"]: agent["state"] for agent in status["agents"]}.get(name) in states

        return self.until(f"{name} {' or '.join(states)}", found)

    def ended(self):
        """Wait for the end of all, and compare the parameters with a replay of the log. Return the log."""
        assert self.processes["hub"].wait(240) == 0, self.said("hub")
        for name in SITES:
            assert self.processes[name].wait(120) == 0, self.said(name)
        found, run = self.bits(), self.folder / "run"
        assert "Traceback" not in "".join(self.said(name) for name in self.processes)
        again = replayed(self.tables, run, self.tables["rounds"])
        for one, other in zip(found, again, strict=True):
            np.testing.assert_array_equal(one, other)
        return [entry for entry in entries_of((run / EVENTS).read_text().splitlines()) if isinstance(entry, Happened)]

    def bits(self):
        found = safetensors.numpy.load((self.folder / "run" / "params.safetensors").read_bytes())
        return [found[name] for name in sorted(found)]

    def dropped(self, log):
        return sum(entry.kind.count(DROPPED) for entry in log)


def tables(rounds, **environment):
    more = {"environment": {**TABLES["environment"], **environment}, "rounds": rounds, "evaluation": {"every": 0}}
    return {**TABLES, **more, "federation": {"agents": len(SITES), "clock": {}}}


def undisturbed(tables, folder):
    """The parameters of the run in one process, in blocks of one agent."""
    federation = {**tables["federation"], "block": 1}
    result = fedrl.run({**tables, "federation": federation}, folder / "alone", verbose=0)
    found = safetensors.numpy.load((result.folder / "params.safetensors").read_bytes())
    return [found[name] for name in sorted(found)]


def assert_same(one, other):
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_on_a_link_of_half_a_megabit_a_run_takes_its_time_and_loses_no_connection(tmp_path):
    slow = tables(6, layout=WIDE)
    with Hosts("hub", *SITES) as hosts:
        hosts.slow("site-0", 500)
        if netem():
            hosts.lose("site-1")
        with Federation(hosts, tmp_path, slow) as federation:
            log = federation.ended()
            lines = [json.loads(line) for line in federation.said("site-0").splitlines() if '"training"' in line]
            times = [datetime.fromisoformat(line["time"]) for line in lines]
            # 36 kB back and 36 kB to the agent, five times, at 62.5 kB a second
            assert (times[-1] - times[0]).total_seconds() > 4.0
            assert federation.dropped(log) == 0
            assert "disconnected" not in federation.events("site-0")
            assert_same(federation.bits(), undisturbed(slow, tmp_path))


def test_after_a_cut_that_both_ends_notice_the_agent_is_back_and_no_bit_is_another(tmp_path):
    plain = tables(100)
    with Hosts("hub", *SITES) as hosts, Federation(hosts, tmp_path, plain, "--patience", "600") as federation:
        federation.until_round(5)
        hosts.cut("site-1")
        # The others are at hand; the round waits for the one that is behind the cut.
        federation.until_state("site-1", "away")
        assert federation.until_state("site-0", "ready", "at work")["round"] < 100
        time.sleep(4.0)
        hosts.restore("site-1")
        log = federation.ended()
        assert federation.events("site-1").count("connected") >= 2
        assert federation.events("site-0").count("connected") == 1
        assert federation.dropped(log) == 0
        assert_same(federation.bits(), undisturbed(plain, tmp_path))


def test_a_cut_beyond_the_patience_costs_a_job_and_the_log_says_so(tmp_path):
    plain = tables(60)
    with Hosts("hub", *SITES) as hosts, Federation(hosts, tmp_path, plain, "--patience", "0.5") as federation:
        reached = federation.until_round(2)["round"]
        hosts.cut("site-1")
        federation.until_state("site-1", "away")
        federation.until("a round without it", lambda status: status["round"] > reached)
        asked(tmp_path / "run", "pause")
        hosts.restore("site-1")
        federation.until_state("site-1", "ready", "at work")
        asked(tmp_path / "run", "resume")
        log = federation.ended()
        assert federation.dropped(log) == 1
        assert federation.events("site-1").count("ready") == 2


def test_a_site_that_loses_its_power_behind_a_cut_leaves_a_half_open_connection_that_is_noticed(tmp_path):
    plain = tables(100)
    with Hosts("hub", *SITES) as hosts, Federation(hosts, tmp_path, plain, "--patience", "600") as federation:
        federation.until_round(5)
        hosts.cut("site-2")
        federation.processes["site-2"].kill()  # no FIN and no RST of it reaches the coordinator
        federation.processes["site-2"].wait()
        federation.until_state("site-2", "away")
        hosts.restore("site-2")
        federation.agent("site-2")
        log = federation.ended()
        assert federation.dropped(log) == 0
        assert_same(federation.bits(), undisturbed(plain, tmp_path))


def test_an_agent_that_is_heard_and_hears_nothing_is_taken_for_gone_by_both_ends(tmp_path):
    plain = tables(100)
    with Hosts("hub", *SITES) as hosts, Federation(hosts, tmp_path, plain, "--patience", "600") as federation:
        federation.until_round(5)
        hosts.deafen("site-0", to="hub")
        federation.until_state("site-0", "away")
        end = time.monotonic() + NOTICED_S
        while "disconnected" not in federation.events("site-0"):
            assert time.monotonic() < end, federation.said("site-0")
            time.sleep(0.05)
        hosts.hear("site-0", to="hub")
        log = federation.ended()
        assert federation.dropped(log) == 0
        assert_same(federation.bits(), undisturbed(plain, tmp_path))


def test_an_agent_whose_address_changes_is_the_same_agent(tmp_path):
    plain = tables(100)
    with Hosts("hub", *SITES) as hosts, Federation(hosts, tmp_path, plain, "--patience", "600") as federation:
        federation.until_round(5)
        hosts.move("site-1", "10.77.0.99")
        log = federation.ended()
        assert federation.events("site-1").count("connected") >= 2
        assert federation.dropped(log) == 0
        assert_same(federation.bits(), undisturbed(plain, tmp_path))


SERVER = """
import socket, sys
with socket.create_server(("0.0.0.0", 7500)) as server:
    print("listening", flush=True)
    came, size = server.accept()[0], 0
    while part := came.recv(65536):
        size += len(part)
    came.sendall(b"%d" % size)
"""
CLIENT = """
import socket, sys, time
with socket.create_connection(("10.77.0.1", 7500), timeout=1) as line:
    line.settimeout(20)
    begun = time.monotonic()
    line.sendall(bytes(48 * 1024))
    line.shutdown(socket.SHUT_WR)
    size = line.recv(100)
    print(int(size), time.monotonic() - begun)
"""


def passed(hosts):
    """How many of 48 kB arrive at the hub, and after how many seconds."""
    server = subprocess.Popen(hosts.command("hub", sys.executable, "-c", SERVER), stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout.readline() == "listening\n"
        client = hosts.command("site-0", sys.executable, "-c", CLIENT)
        done = subprocess.run(client, capture_output=True, text=True, timeout=60, check=False)
        return [float(each) for each in done.stdout.split()], done.stderr
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def test_hosts_are_apart_slow_when_they_should_be_and_gone_when_they_are_cut():
    with Hosts("hub", "site-0") as hosts:
        (size, seconds), _ = passed(hosts)
        assert size == 48 * 1024
        hosts.slow("site-0", 500)
        (size, slowly), _ = passed(hosts)
        assert size == 48 * 1024
        assert slowly > 0.5 > seconds  # 48 kB less the 4 kB that pass at once, at 62.5 kB a second
        hosts.cut("site-0")
        nothing, why = passed(hosts)
        assert not nothing
        assert "timed out" in why or "No route to host" in why
