"""The page about a scale measurement: seconds, memory and bytes against the number of agents, and the cost model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedrl.records.files import OTHER_FILE, write_atomically
from fedrl.records.formatting import NOTHING, count, duration, short, size, with_unit
from fedrl.report.markup import Markup, element
from fedrl.report.shell import card, chart, document, header
from fedrl.report.tables import table
from fedrl.studies.scaling.cost_model import formula
from fedrl.studies.scaling.figures import TITLES, scale_figure
from fedrl.studies.scaling.limits import QUANTITIES
from fedrl.studies.scaling.records import Probe, Scale
from fedrl.studies.scaling.sentences import failed_sentences, headline, kept_in, percent

MODEL = (
    "Each quantity is a fixed part plus a part for each agent, by least squares of relative errors without negative "
    "numbers. The error of the model stands beside each measured number: a large one says that the costs are no line."
)
FAR = (
    "Extrapolated from the measured numbers of agents, not measured: beyond them a machine may run out of memory, and "
    "costs that grow faster than the agents may appear."
)
MEASURED = (
    "Wall time is the median over rounds after those that compile, without evaluation. Memory is the peak of a process "
    "that trains so many agents, with its workers. Latency is that of the links or of the virtual clock of the "
    "configuration; a dash says that it describes none."
)


def write_scale_report(scale: Scale, path: Path) -> Path:
    """Write one self-contained HTML page about a scale measurement.

    Args:
        scale: The content of `scale.json`.
        path: Path of the page.

    Returns:
        The path.

    Raises:
        RunError: The page can't be written.
    """
    charts = {f"scale-{name}": scale_figure(scale, name) for name in TITLES}
    agents = sorted(probe["agents"] for probe in scale["probes"])
    span = f"{agents[0]:,} to {agents[-1]:,} agents" if agents else "nothing measured"
    cards = [
        card(
            f"{TITLES[name][0].upper()}{TITLES[name][1:]}",
            chart(f"scale-{name}", f"{TITLES[name]} against the number of agents"),
            _formula(scale, name),
        )
        for name in TITLES
    ]
    sections: list[object] = [
        header("How many agents fit", scale["name"], f"{span} · {_machine(scale['machine'])}"),
        _tiles(scale),
        _notes(scale),
        *cards,
        card("Measured", [_measured_table(scale["probes"])], MEASURED),
        card("Cost model beside the measurements", _model_table(scale), MODEL),
        card("Far beyond", _far_table(scale), FAR) if scale["extrapolated"] else None,
    ]
    text = document(f"{scale['name']}, how many agents fit", sections, charts)
    write_atomically(path, text.encode(errors="replace"), OTHER_FILE)
    return path


def _tiles(scale: Scale) -> Markup:
    agents, broken = (NOTHING if k is None else f"{k:,}" for k in (scale["agents"], scale["broken"]))
    tiles = [("Largest number of agents that keeps the limit", agents, headline(scale))] if scale["limit"] else []
    tiles += [("Smallest that breaks it", broken, scale["limit"]["text"])] if scale["limit"] else []
    tiles += [] if scale["limit"] else [("Measured numbers of agents", str(len(scale["probes"])), headline(scale))]
    terms = [
        element("div", element("dt", name), element("dd", value, class_="value"), element("dd", note))
        for name, value, note in tiles
    ]
    return element("dl", terms, class_="tiles")


def _formula(scale: Scale, name: str) -> str:
    return f"{formula(name, scale['model'][name])}, for K agents." if name in scale["model"] else ""


def _machine(machine: dict[str, Any]) -> str:
    parts = [f"{machine['cores']} cores"] if "cores" in machine else []
    parts += [f"{size(machine['memory_bytes'])} of memory"] if machine.get("memory_bytes") else []
    parts += [f"{machine['devices']} devices ({machine['platform']})"] if "platform" in machine else []
    return ", ".join(parts)


def _notes(scale: Scale) -> list[Markup]:
    lines = [*scale["notes"], *failed_sentences(scale["probes"])]
    return [element("div", element("ul", [element("li", x) for x in lines]), class_="warning")] if lines else []


def _measured_table(probes: Sequence[Probe]) -> Markup:
    names = ["keeps it", "a round", "shortest to longest", "training", "server", "steps/s", "bytes up", "bytes down"]
    names += ["messages", "latency", "memory"]
    rows = []
    for probe in probes:
        cells = [NOTHING] * len(names)
        cells[0] = kept_in(probe)
        if probe["state"] == "measured":
            cells[1:] = [
                with_unit(probe["round_s"], "s"),
                f"{with_unit(probe['round_low_s'], 's')} to {with_unit(probe['round_high_s'], 's')}",
                with_unit(probe["agents_compute_s"], "s"),
                with_unit(probe["server_compute_s"], "s"),
                count(probe["steps_per_second"]),
                size(probe["bytes_up"]),
                size(probe["bytes_down"]),
                short(probe["messages_up"] + probe["messages_down"]),
                NOTHING if probe["latency_s"] is None else duration(probe["latency_s"]),
                size(probe["memory_bytes"]),
            ]
        rows.append(_row(f"{probe['agents']:,}", cells))
    return table(_head(["K, agents", *names]), rows)


def _model_table(scale: Scale) -> Markup | list[Markup]:
    if not scale["model"]:
        return element("p", "A model needs two measured numbers of agents.", class_="note")
    lines = [element("li", formula(name, cost)) for name, cost in scale["model"].items()]
    rows = []
    for probe in scale["probes"]:
        said = probe.get("model")
        if said is None:
            continue
        cells: list[str] = []
        for name in scale["model"]:
            cells += [with_unit(said[name]["value"], QUANTITIES[name].unit), percent(said[name]["error"])]
        rows.append(_row(f"{probe['agents']:,}", cells))
    head = [each for name in scale["model"] for each in (f"{name}, model", "error")]
    return [element("ul", lines), table(_head(["K, agents", *head]), rows)]


def _far_table(scale: Scale) -> Markup:
    rows = []
    for far in scale["extrapolated"]:
        values = {"round": far["round"], "memory": far["memory"], "bytes": far["bytes"]}
        cells = [with_unit(value, QUANTITIES[name].unit) for name, value in values.items()]
        rows.append(_row(f"{far['agents']:,} (extrapolated)", cells))
    return table(_head(["K, agents", "round", "memory", "bytes"]), rows)


def _head(names: Sequence[str]) -> list[Markup]:
    first, *others = names
    return [
        element("th", first, scope="col"),
        *(element("th", name, scope="col", class_="number") for name in others),
    ]


def _row(agents: str, cells: Sequence[str]) -> Markup:
    numbers = [element("td", cell, class_="number") for cell in cells]
    return element("tr", element("th", agents, scope="row"), numbers)
