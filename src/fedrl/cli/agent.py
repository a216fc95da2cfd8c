"""`fedrl agent`."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from fedrl.cli.only_json import only_json
from fedrl.cli.resuming import FAILED, INTERRUPTED, TERMINATED
from fedrl.core.errors import ConfigError, RunError
from fedrl.core.pipes import Lasting

if TYPE_CHECKING:
    from fedrl.sites.agent import SiteAgent
    from fedrl.sites.job_loop import SiteEnd
    from fedrl.sites.site_file import Site, SiteConfig
    from fedrl.transport.notices import NetworkNotice
    from fedrl.transport.seam import Transport
    from fedrl.wire.protocol import Welcome

COMPLETED = ("done", "stopped", "opted_out")
BROKEN = ("gone", "bad_message", "restarting")
"""Ends with exit code 1. Others need a change of the site or at the coordinator: exit code 2."""


def agent(
    site: Annotated[Path, typer.Argument(metavar="SITE.toml", help="The coordinator, the experiment, what may leave.")],
    check: Annotated[
        bool, typer.Option("--check", help="Connect, compare both ends, print what would leave, and exit.")
    ] = False,
    log: Annotated[bool, typer.Option("--log", help="Print every message that has left this site, and exit.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print lines of JSON, and nothing else.")] = False,
) -> None:
    """Take part in a federation over the network, as the agent of this site.

    It runs until the coordinator ends the run; Ctrl-C stops it, and the next start goes on from where it was.
    """
    from fedrl.sites.site_file import load_site

    if check and log:
        raise ConfigError("--check and --log are both given, and each prints something else. Give one of them.")
    config = load_site(site)
    if log:
        print_log(Path(config.folder), as_json)
        return
    from fedrl.launch import use_devices

    use_devices(1)  # an agent computes on one; each further one would be threads and memory for nothing
    from fedrl.sites.site_file import build_site

    with printing(as_json) as out:
        (check_site if check else serve)(build_site(config), out, as_json)


@contextlib.contextmanager
def printing(as_json: bool) -> Iterator[TextIO]:
    """Open standard output for the command alone: with `as_json`, whatever else prints does so on standard error.

    Raises:
        RunError: The output could not be written, and its reader is still there.
    """
    if not as_json:
        yield sys.stdout
        return
    raw = Lasting(os.dup(sys.stdout.fileno()), "w")  # a reader that leaves does not end the agent
    with io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", line_buffering=True) as out, only_json(as_json):
        yield out
    if raw.fault is not None:
        raise RunError(f"The output can't be written ({raw.fault.strerror}), so a part of it is missing.")


def transport_of(config: SiteConfig) -> Transport:
    """Return the transport of a site: gRPC with mutual TLS.

    Raises:
        ConfigError: The extra is not installed, or a certificate is wrong.
    """
    from fedrl.transport.extra import check_installed

    check_installed()
    from fedrl.transport.credentials import load
    from fedrl.transport.grpc_transport import GrpcTransport

    return GrpcTransport(load(Path(config.certificates), "agent"), proxy=config.proxy)


def serve(site: Site, out: TextIO, as_json: bool) -> None:
    """Run the agent until the end, and leave with its exit code."""
    from fedrl.sites.agent import SiteAgent

    def notice(what: NetworkNotice) -> None:
        out.write(f"{what.as_json() if as_json else what.as_line()}\n")
        out.flush()

    config = site.config
    agent = SiteAgent(
        site.federation,
        site.setting_of,
        transport_of(config),
        config.coordinator,
        Path(config.folder),
        config.may_leave,
        seed=config.seed,
        give_up_s=math.inf if config.give_up_s is None else config.give_up_s,
        notice=notice,
        options=site.options,
        bids=site.bids,
        encryption_key=site.encryption_key,
    )
    end, number = asyncio.run(until_signalled(agent))
    leave(end, number)


async def until_signalled(agent: SiteAgent) -> tuple[SiteEnd, int | None]:
    """Run an agent that the first Ctrl-C or SIGTERM stops; return why it ended, and the signal."""
    loop, heard = asyncio.get_running_loop(), []

    def stopped(number: int) -> Callable[[], None]:
        def stop() -> None:
            heard.append(number)
            for each in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(each)  # a second signal ends the process at once
            agent.stop("The agent was stopped.")

        return stop

    with contextlib.suppress(NotImplementedError):  # on Windows, where Ctrl-C cancels the loop
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(each, stopped(each))
    try:
        return await agent.run(), heard[0] if heard else None
    finally:
        with contextlib.suppress(NotImplementedError):
            for each in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(each)


def leave(end: SiteEnd, number: int | None) -> None:
    """End the command with the exit code of an end."""
    if end.code == "interrupted":
        raise typer.Exit(TERMINATED if number == signal.SIGTERM else INTERRUPTED)
    if end.code not in COMPLETED:
        typer.echo(f"error: {end.why}", err=True)
        raise typer.Exit(FAILED if end.code in BROKEN else 2)


def check_site(site: Site, out: TextIO, as_json: bool) -> None:
    """Print what would leave, and what the coordinator says; end with exit code 2 if it would not take this site."""
    from fedrl.sites.check import check_coordinator, would_leave
    from fedrl.sites.jobs import check_seed, setting_for

    config = site.config
    leaving = would_leave(site.federation, config.may_leave, site.bids)
    where = (transport_of(config), config.coordinator, Path(config.folder))

    def takes_part(welcome: Welcome) -> None:
        check_seed(welcome, config.seed)
        setting_for(welcome, site.setting_of)

    checking = check_coordinator(site.federation, *where, site.bids, takes_part)
    found = asyncio.run(checking)
    if as_json:
        fields = {"agrees": found.agrees, "text": found.text, "would_leave": [each._asdict() for each in leaving]}
        out.write(json.dumps(fields, indent=2) + "\n")
    else:
        out.write("What would leave this site:\n")
        for each in leaving:
            size = "varies" if each.size_bytes is None else f"{each.size_bytes:,} bytes"
            note = f" ({each.note})" if each.note else ""
            out.write(f"  {each.message:6}  {each.name:20}  {size:>12}  protected by {each.protection}{note}\n")
        limits = [
            f"{name} = {value}"
            for name, value in (
                ("largest_bytes", config.may_leave.largest_bytes),
                ("rounds_a_day", config.may_leave.rounds_a_day),
            )
            if value is not None
        ]
        out.write(f"Limits: {', '.join(limits) or 'none'}\n{found.text}\n")
    if not found.agrees:
        raise typer.Exit(2)


def print_log(folder: Path, as_json: bool) -> None:
    """Print every message that left, and whether the log is as it was written.

    Raises:
        RunError: The log was changed, or can't be read.
    """
    from fedrl.sites.sent_log import NAME, read_log
    from fedrl.transport.notices import as_text

    found = read_log(folder / NAME)
    if as_json:
        records = [each._asdict() for each in found.records]
        typer.echo(json.dumps({"whole": not found.fault, "last": found.last, "records": records}, indent=2))
    else:
        for each in found.records:
            job = f"job {each.job}" if each.job else ""
            fields = ", ".join(each.fields)
            typer.echo(f"{as_text(each.time)}  {each.kind:6}  {job:9}  {each.size_bytes:>10,} bytes  {fields}")
        total = sum(each.size_bytes for each in found.records)
        typer.echo(f"{len(found.records)} messages, {total:,} bytes. The last line has the hash {found.last}.")
    if found.fault:
        raise RunError(found.fault)
