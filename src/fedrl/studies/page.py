"""The page about a study: return against bytes, costs to the target, and the cost model beside measured bytes."""

from __future__ import annotations

import math
from pathlib import Path
from urllib.parse import quote

from fedrl.records.files import OTHER_FILE, write_atomically
from fedrl.records.folder import REPORT
from fedrl.records.formatting import NOTHING, duration, ends, number, short, size, with_unit
from fedrl.records.measured import RETURN, readable
from fedrl.report.figures import Figure
from fedrl.report.highlight import highlighted
from fedrl.report.markup import Markup, element, linked
from fedrl.report.shell import card, chart, document, header
from fedrl.report.tables import table
from fedrl.studies.figures import (
    across,
    cost_figure,
    front,
    heat_figure,
    pareto_figure,
    speed_figure,
    target_figure,
)
from fedrl.studies.folder import PLAN, StudyFolder, open_folder
from fedrl.studies.grid import in_words, short_names
from fedrl.studies.quantity import compared, outcome_of, rounds_to, shown, title_of
from fedrl.studies.records import Median, Result, Study
from fedrl.studies.result import study_in, study_notices

MODEL = (
    "A round costs C = K S bytes if each of K agents sends a model of S bytes, uncompressed; T rounds cost T K S. "
    "Measured bytes are all bytes that the agents sent in one seed, the mean over seeds: more where messages contain "
    "more than the model, fewer where they are compressed, or where not all agents send in each round."
)
TRAINING_BLOCK = "block"


def write_study_report(path: Path, target: Path | None = None) -> Path:
    """Write one self-contained HTML page about a study.

    Args:
        path: The study folder, complete or not.
        target: Path of the page; by default `report.html` in the folder, with relative links to the reports of runs.

    Returns:
        The path of the page.

    Raises:
        RunError: The folder contains no study, a file in it is damaged, or the page can't be written.
    """
    place = open_folder(path)
    page = place.report if target is None else target
    text = document(*_study(place, study_in(place), place.path.resolve() if target else None))
    write_atomically(page, text.encode(errors="replace"), OTHER_FILE)
    return page


def _study(place: StudyFolder, study: Study, base: Path | None) -> tuple[str, list[object], dict[str, Figure]]:
    begun = [result for result in study["settings"] if "final_return" in result]
    keys = ", ".join(f"{key} ({len(values)})" for key, values in study["grid"].items())
    charts = {"pareto": pareto_figure(study), "cost": cost_figure(study), "speed": speed_figure(study)}
    sections: list[object] = [
        header("Study", study["name"], f"{len(study['settings'])} settings · {keys}"),
        _notes(study),
        _card_pareto(study),
        *_way_to_target(study, charts),
    ]
    heat = heat_figure(study)
    if heat is not None:
        charts["heat"] = heat
        what = title_of(compared(study)).capitalize()
        body = chart("heat", f"{what} by the values of both keys")
        sections.append(card("Both keys together", body, f"{_described(study)}, with its 95 % interval below."))
    sections += [
        card("Settings", _settings_table(study, base), "Each number links to the report of its run."),
        card("Cost model", [chart("cost", "Measured bytes against the cost model"), _cost_table(begun)], MODEL),
        card(
            "Speed",
            chart("speed", "Environment steps per second"),
            f"Environment steps of all agents per second of training, without compilation. {_compiled(study)}",
        ),
        card("Plan", _plan(place)),
        card("Sources", _sources(place)),
    ]
    return f"{study['name']}, a study", sections, charts


def _card_pareto(study: Study) -> Markup:
    along = short_names(list(study["grid"]))[across(study)].replace("_", " ")
    about = (
        f"{_described(study)}, the interquartile mean over seeds with its 95 % bootstrap interval, against the bytes "
        f"that all agents sent. {_ringed(study)}Each mark is labelled with its value of: {along}."
    )
    what = compared(study)
    place = chart("pareto", f"{title_of(what).capitalize()} against bytes up")
    return card(f"{readable(what['name']).capitalize()} against bytes", place, about)


def _described(study: Study) -> str:
    """Return the compared measure as the beginning of a sentence."""
    what = compared(study)
    if what["name"] == RETURN:
        return "Final greedy return"
    when = "of the last greedy episodes" if what["source"] == "greedy" else "of the last tenth of training"
    return f"{readable(what['name']).capitalize()} {when}"


def _ringed(study: Study) -> str:
    what = compared(study)
    if what["name"] == RETURN:
        return "No setting has a higher return than a ringed one for as few bytes. "
    return f"No setting is {what['better']} than a ringed one for as few bytes. " if what["better"] else ""


def _way_to_target(study: Study, charts: dict[str, Figure]) -> list[Markup]:
    """Return the card of rounds, bytes and seconds to the target, and virtual seconds if there is a clock."""
    if study["target"] is None:
        return []
    measures = {r["target"]["measure"] for r in study["settings"] if "target" in r}
    charts |= {
        "to-rounds": target_figure(study, "rounds", "rounds"),
        "to-bytes": target_figure(study, "bytes_up", "bytes up, all agents"),
        "to-seconds": target_figure(study, "seconds", "seconds of training", "s"),
    }
    if has_virtual_time(study):
        charts["to-time"] = target_figure(study, "time_s", "seconds on the virtual clock", "s")
    trio = [chart(name, f"{what} to the target") for name, what in _TO_TARGET.items() if name in charts]
    about = (
        f"Until the {' or '.join(sorted(measures)) or 'greedy'} {_timed(study)}: the median over seeds and their "
        "range. A cross is a setting in which most seeds missed the target, at its whole cost. Seconds are rounds "
        "times the median time of a round."
    )
    return [card(f"Costs to reach {short(study['target'])}", element("div", trio, class_="trio"), about)]


_TO_TARGET = {"to-rounds": "Rounds", "to-bytes": "Bytes", "to-seconds": "Seconds", "to-time": "Virtual time"}


def _timed(study: Study) -> str:
    """Return the timed measure and the condition of the target, in words."""
    # A target of a measure of which less is better is an upper bound.
    what, most = compared(study), "most" if compared(study)["better"] == "lower" else "least"
    over = "the mean over agents" if what["name"] == RETURN else "over all agents"
    return f"{readable(what['name'])}, {over}, is first at {most} {shown(what, study['target'])}"


def has_virtual_time(study: Study) -> bool:
    """Return whether a setting was timed on a virtual clock."""
    return any("time_s" in r["target"] for r in study["settings"] if "target" in r)


def _notes(study: Study) -> list[Markup]:
    left = [r for r in study["settings"] if r["state"] != "finished"]
    states = ", ".join(f"{sum(r['state'] == s for r in left)} {s}" for s in ("interrupted", "waiting", "failed"))
    note = f"This study was interrupted, failed, or is still running: of {len(study['settings'])} settings, {states}."
    why = [f"Setting {i} failed: {r['reason']}" for i, r in enumerate(study["settings"], 1) if "reason" in r]
    said = [element("li", line) for line in study_notices(study)]
    return [
        *(element("p", text, class_="warning", role="status") for text in ((note, *why) if left else ())),
        *([element("div", element("ul", said), class_="warning", role="alert")] if said else []),
    ]


def _settings_table(study: Study, base: Path | None) -> Markup:
    """Return the table of all settings with their results; those on the Pareto front are marked."""
    names = short_names(list(study["grid"]))
    best = {r["folder"] for r in front(study)}
    columns = [title_of(compared(study)), "95 % interval", "seeds", "bytes up", "bytes down", "wall time"]
    if study["target"] is not None:
        costs = ("rounds", "bytes up", "seconds", *(["virtual time"] if has_virtual_time(study) else []))
        columns += [f"{what} to {short(study['target'])}" for what in costs]
    head = [element("th", "setting", scope="col")]
    head += [element("th", name.replace("_", " "), scope="col", class_="number") for name in names.values()]
    head += [element("th", name, scope="col", class_="number") for name in columns]
    rows = []
    for i, result in enumerate(study["settings"], 1):
        cells = [element("td", in_words(value), class_="number") for value in result["values"].values()]
        # Without a target or a clock there are fewer columns, and the cells for them are cut off.
        told = [*_outcome(study, result), *_reached(result)][: len(columns)]
        marked = "number best" if result["folder"] in best else "number"
        cells += [element("td", cell, class_=marked if j == 0 else "number") for j, cell in enumerate(told)]
        mark = element("b", " !", title=" ".join(result["notices"])) if result.get("notices") else None
        rows.append(element("tr", element("th", _link(result, i, base), mark, scope="row"), cells))
    what = compared(study)
    note = element("p", f"Marked: on the Pareto front of {readable(what['name'])} and bytes.", class_="note")
    return Markup(table(head, rows) + (note if what["better"] is not None else ""))


def _link(result: Result, i: int, base: Path | None) -> object:
    if result["state"] == "waiting" or (result["state"] == "failed" and "final_return" not in result):
        return i
    # Relative links keep working if the study folder is moved; a page elsewhere needs absolute ones.
    folder = quote(result["folder"]) if base is None else (base / result["folder"]).as_uri()
    return element("a", i, href=f"{folder}/{REPORT}", title=result["label"])


def _outcome(study: Study, result: Result) -> list[str]:
    found, unit = outcome_of(study, result), compared(study)["unit"]
    if found is None:
        return [result["state"], *[NOTHING] * 5]
    several = len(found["seeds"]) > 1
    state = "" if result["state"] == "finished" else f" ({result['state']})"
    return [
        with_unit(found["mean"], unit) + state,
        ends(found["low"], found["high"], unit) if several else NOTHING,
        str(len(found["seeds"]) or NOTHING),  # none where an interrupted run was not evaluated before its end
        size(result["bytes_up"]),
        size(result["bytes_down"]),
        duration(result.get("wall_s")),
    ]


def _reached(result: Result) -> list[str]:
    found = result.get("target")
    if found is None:
        return [NOTHING] * 4
    timed = _middle(found["time_s"], duration) if "time_s" in found else NOTHING
    return [rounds_to(found), _middle(found["bytes_up"], size), _middle(found["seconds"], duration), timed]


def _middle(found: Median, readable: object) -> str:
    return NOTHING if found["median"] is None else str(readable(found["median"]))  # type: ignore[operator]


def _cost_table(results: list[Result]) -> Markup:
    """Return the table of the cost model beside measured bytes."""
    columns = ["K, agents", "S, model", "C = K S", "T, rounds", "T K S", "measured up", "measured / T K S", "down"]
    head = [element("th", "setting", scope="col")]
    head += [element("th", name, scope="col", class_="number") for name in columns]
    rows = []
    for result in results:
        model, whole = number(result.get("model_bytes")), number(result.get("cost_bytes"))
        ratio = result["bytes_up"] / whole if whole else math.nan
        cells = [
            f"{result['agents']:,}",
            size(model),
            size(result["agents"] * model),
            f"{result['rounds']:,}",
            size(whole),
            size(result["bytes_up"]),
            short(ratio),
            size(result["bytes_down"]),
        ]
        label = element("th", result["label"].replace("_", " "), scope="row")
        rows.append(element("tr", label, [element("td", cell, class_="number") for cell in cells]))
    return table(head, rows)


def _compiled(study: Study) -> str:
    """Return how many programs were compiled for all settings, as a sentence."""
    counts = [r["programs"] for r in study["settings"] if "programs" in r]
    if not counts:
        return ""
    # Only training programs: evaluation and initialisation would hide how many settings shared one.
    blocks = sum(programs.get(TRAINING_BLOCK, 0) for programs in counts)
    # Unfinished settings have no time of compilation.
    seconds = sum(number(r.get("compile_s")) for r in study["settings"] if math.isfinite(number(r.get("compile_s"))))
    if not blocks:
        return ""
    return (
        f"{len(counts)} settings took {blocks} compilations of a training program, one on each device for each "
        f"distinct program; their first rounds took {duration(seconds)} in all."
    )


def _plan(place: StudyFolder) -> Markup:
    text = (place.path / PLAN).read_text("utf-8")
    return element("details", element("summary", PLAN), element("pre", element("code", highlighted(text))))


def _sources(place: StudyFolder) -> Markup:
    lines: dict[str, None] = {}
    for setting in place.plan.settings:
        lines |= dict.fromkeys(place.run_folder(setting).summary().get("citations") or ())
    if not lines:
        return element("p", "No run has ended yet.", class_="note")
    return element("ol", [element("li", linked(line)) for line in lines], class_="sources")
