"""Every table of the terminal, at every width from 40 to 200: whole names, whole numbers, whole words."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.text import Text

from fedrl.cli.doctor import write_facts
from fedrl.cli.evaluate import seeds_table
from fedrl.cli.explain import leaving_table
from fedrl.cli.list import _print_all, _print_one
from fedrl.config.catalogue import components
from fedrl.records import METHODS
from fedrl.records.formatting import NOTHING, short, with_unit
from fedrl.sinks.display import progress, view
from fedrl.sinks.final_summary import final_summary
from fedrl.sinks.fitting import Column, ColumnTable, FirstFitting, fewer_columns, in_parts
from fedrl.sinks.run_progress import RunProgress
from fedrl.studies.progress import study_progress, study_table

WIDTHS = range(40, 201)
LONG = ("federated_with_personal_heads", "clustered_then_fine_tuned")
HUGE, TINY = 1.234e18, -1.234e-7
MORE = "1 2 3 more column columns report.html"
Show = Callable[[Console], None]


def lines_at(width: int, show: RenderableType | Show, terminal: bool = True) -> list[str]:
    """What is shown on a console of this width, by line."""
    out = io.StringIO()
    environment = {"TERM": "xterm"}
    console = Console(
        file=out, width=width, force_terminal=terminal, color_system=None, highlight=False, _environ=environment
    )
    if callable(show):
        show(console)
    else:
        console.print(show)
    return out.getvalue().splitlines()


def words_of(lines: Iterable[str]) -> set[str]:
    """Their words, without what punctuation joins to them."""
    return {word.strip("(),:") for line in lines for word in line.split() if not set(word) <= set("─━╸╺ ▁▂▃▄▅▆▇█")}


def check_whole(
    show: RenderableType | Show, expected: Sequence[str], *, added: str = "", widths: Sequence[int] = WIDTHS
) -> dict[int, list[str]]:
    """Check that each expected text is on one line, that no word is broken, and no line too wide; return the lines.

    Args:
        show: What is shown.
        expected: Names and numbers.
        added: Words that a narrow form may have beside those of the wide one.
        widths: Widths of the console.
    """
    known = words_of(lines_at(2000, show)) | set(added.split())
    texts = {text: re.compile(rf"(?<!\S){re.escape(text)}[,:]?(?!\S)") for text in expected}
    found = {width: lines_at(width, show) for width in widths}
    for width, lines in found.items():
        assert [line for line in lines if cell_len(line) > width] == [], width
        assert [text for text, whole in texts.items() if not any(map(whole.search, lines))] == [], width
        # A word that is wider than the console is broken, wherever it stands.
        pieces = "" if max(map(len, known)) <= width - 4 else " ".join(known)
        assert {word for word in words_of(lines) - known if word not in pieces} == set(), width
        assert not any("…" in line for line in lines), width
    return found


def made_summary(methods: Sequence[str], agents: int = 3, measures: int = 4) -> dict[str, Any]:
    """A summary in which every number is unlike all others; some are huge, tiny or missing."""

    def value(i: int, k: int) -> float | None:
        special = {(0, 0): HUGE, (1, 0): TINY, (1, 1): None, (2, 2): -123_456_789_012.0}
        return special.get((i, k), 1000 * (i + 1) + k + 0.5)

    def returns(i: int) -> list[dict[str, Any]]:
        return [{"id": k, "return": value(i, k)} for k in range(agents)]

    def spread(i: int) -> dict[str, float]:
        return {"mean": 201.5 + i, "low": 301.5 + i, "high": 401.5 + i}

    settings = [
        {"gravity": 9.8, "cart_mass": 1 + k / 8, "heat_loss_of_the_building": k / 16, "layout": [k, 2.5, k]}
        for k in range(agents)
    ]
    units = ("s", "B", "", "kilowatt-hours per episode", "m/s", "%")
    return {
        "name": "CartPole, ten poles",
        "seeds": [0, 1],
        "final_return": spread(0),
        "agents": [{**each, "env_params": own} for each, own in zip(returns(0), settings, strict=True)],
        "baselines": {method: spread(i) for i, method in enumerate(methods[1:], 1)},
        "baseline_agents": {method: returns(i) for i, method in enumerate(methods[1:], 1)},
        "measures": {
            f"measure_{j}_of_comfort_in_the_rooms": {
                "per": "episode",
                "unit": units[j % len(units)],
                "better": ("lower", "higher", None)[j % 3],
                "source": "greedy",
                "methods": {method: {"mean": value(i, j), "low": 0.0, "high": 1.0} for i, method in enumerate(methods)},
            }
            for j in range(measures)
        },
        "environment_steps": 10**12,
        "compile_s": 4.31,
        "wall_s": 1234.5,
    }


def closing(summary: dict[str, Any]) -> RenderableType:
    event: Any = {"event": "end", "summary": summary, "folder": "runs/one", "report": "runs/one/report.html"}
    return final_summary(event)


def numbers_in(summary: dict[str, Any]) -> list[str]:
    """The numbers that the closing tables have to show; those with a unit without it."""
    ranges = [summary["final_return"], *summary["baselines"].values()]
    found = [short(end) for each in ranges for end in each.values()]
    found += [short(a["return"]) for each in (summary["agents"], *summary["baseline_agents"].values()) for a in each]
    measured = [(x["mean"], each["unit"]) for each in summary["measures"].values() for x in each["methods"].values()]
    return found + [with_unit(value, unit).split(" ")[0] for value, unit in measured]


@pytest.mark.parametrize("widths", [range(40, 60), range(60, 90), range(90, 140), range(140, 201)])
@pytest.mark.parametrize("count", [1, 3, 6, 8])
def test_closing_tables_have_every_method_and_number(count: int, widths: range) -> None:
    methods = (*METHODS, *LONG)[:count]
    summary = made_summary(methods)
    names = [method.replace("_", " ") for method in methods]
    found = check_whole(closing(summary), [*names, *numbers_in(summary)], added=MORE, widths=widths)
    for width, lines in found.items():
        text = " ".join(" ".join(lines).split())
        # One method is the best of nothing.
        assert ("* the best of the methods for this agent" in text) == (count > 1), width
        assert ("* the best of the methods in this measure" in text) == (count > 1), width
        assert ("*" in text) == (count > 1), width


@pytest.mark.parametrize("count", [2, 6])
def test_tables_of_one_agent_have_every_method_and_number(count: int) -> None:
    summary = made_summary(METHODS[:count], agents=1, measures=0)
    names = [method.replace("_", " ") for method in METHODS[:count]]
    check_whole(closing(summary), [*names, *numbers_in(summary)], added=MORE)


def test_the_columns_that_are_left_out_are_named() -> None:
    shown, counts = closing(made_summary(METHODS[:3], measures=0)), set()
    for width in WIDTHS:
        text = " ".join(" ".join(lines_at(width, shown)).split())
        left_out = re.search(r"(\d) more columns? \((.*?)\): report.html", text)
        titles = left_out[2].split(", ") if left_out else []
        counts.add(len(titles))
        assert not left_out or int(left_out[1]) == len(titles)
        table = text.replace(left_out[0], "") if left_out else text
        for title in ("cart mass", "heat loss of the building", "layout"):
            # Its last word, since titles are wrapped.
            assert (title in titles) != (title.split()[-1] in table), (width, title)
    assert counts == {0, 1, 2, 3}


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_table_of_settings_has_every_setting(count: int) -> None:
    stages = [{"name": "quantize", "bits": 4, "unbiased": True}, {"name": "weight_by_environment", "norm": 1.0}]
    grid = {"federation.stages": [], "learner.learning_rate": [], "federation.local_steps": [], "federation.agents": []}
    results = [
        {
            "values": {
                "federation.stages": stages[: 1 + i % 2],
                "learner.learning_rate": 0.0025 / (i + 1),
                "federation.local_steps": {"name": "proportional_to_speed", "most": i},
                "federation.agents": 1000 + i,
            },
            "state": "finished" if i % 3 else "interrupted",
            "final_return": {"mean": (HUGE, TINY, 487.123)[i % 3] + i, "low": 480.5, "high": 1e15},
            "seed_returns": [1.0, 2.0],
            "bytes_up": 36_876_000,
            "wall_s": 75.2 + i,
            "target": {"seeds": 5, "reached": 3, "rounds": {"median": 43_210.0 + i, "low": 1.0, "high": None}},
            "notices": ["something"] if i == 2 else [],
        }
        for i in range(count)
    ]
    study: Any = {"name": "study", "grid": grid, "target": 450.0, "complete": True, "settings": results}
    numbers = [short(each["final_return"]["mean"]) for each in results]
    numbers += [str(each["values"][name]) for each in results for name in list(grid)[1::2]]
    numbers += [short(each["target"]["rounds"]["median"]) for each in results]
    words = ["quantize(bits=4,", "unbiased=true)", "proportional_to_speed(most=0)", "480.5 to 1e+15"]
    check_whole(study_table(study), [*numbers, *words], added="setting 1 2 more column columns study.json (bytes wall")


@pytest.mark.parametrize(("seeds", "agents"), [(1, 10), (12, 2), (12, 6)])
def test_a_table_of_seeds_has_every_seed(seeds: int, agents: int) -> None:
    found: dict[str, list[float | None]] = {
        str(2**32 + s): [100.5 * s + k for k in range(agents)] for s in range(seeds)
    }
    found[str(2**32)][:2] = [HUGE, None]
    table = seeds_table("Greedy return, 5 episodes each", found)
    expected = [f"seed {s}" for s in found] + [short(value) for values in found.values() for value in values]
    check_whole(table, expected)


def test_what_leaves_an_agent_is_told_whole() -> None:
    note = "whether lag(hard_threshold(epsilon=0.1)) holds the update back, by the server"
    outgoing = [
        ("value", "agent", "servers of level 1", 36_876, "clip(1.0), then gaussian noise of 0.5 at the agent", ""),
        ("statistics/observations", "servers of level 1", "root", 123_456_789_012, "nothing", "exact sums"),
        ("report/duration_s", "agent", "server", None, "nothing", note),
        ("silence", "agent", "server", 0, "nothing", note),
    ]
    keys = ("name", "sender", "to", "size_bytes", "protection", "note")
    found = {"name": "corridor", "outgoing": [dict(zip(keys, each, strict=True)) for each in outgoing]}
    names = [each[0] for each in outgoing]
    expected = [
        *names,
        "36,876",
        "123,456,789,012",
        "varies",
        NOTHING,
        "servers of level 1",
        "lag(hard_threshold(epsilon=0.1))",
    ]
    check_whole(leaving_table(found), expected, added="what from to bytes protected by note")


def test_facts_of_the_installation_are_whole() -> None:
    facts = {
        "jax": "0.10.2",
        "XLA_FLAGS": "--xla_force_host_platform_devices=8 --xla_cpu_multi_thread_eigen=true",
        "program cache": "/home/somebody/.cache/fedrl/programs",
        "revision": "",
        "extra tensorboard": "not installed: pip install 'fedrl[tensorboard]'",
    }
    check_whole(lambda console: write_facts(console, facts), [*facts, *facts["XLA_FLAGS"].split(), "0.10.2"])


def test_components_are_listed_in_whole_words() -> None:
    entries = [entry for entry in components("learner") if entry.name in ("ppo", "q_table")]
    assert len(entries) == 2

    def every(console: Console) -> None:
        _print_all(console, entries)

    def one(console: Console) -> None:
        _print_one(console, entries[0])

    for show in (every, one):
        found = check_whole(show, [entries[0].name])
        letters = {"".join("".join(lines).split()) for lines in found.values()}
        assert letters == {"".join("".join(lines_at(2000, show)).split())}


def test_lists_have_whole_lines_in_a_pipe() -> None:
    entries = components("aggregator")
    facts = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8 " * 9, "jax": "0.10.2"}
    for show in (
        lambda console: _print_all(console, entries),
        lambda console: _print_one(console, entries[0]),
        lambda console: write_facts(console, facts),
    ):
        assert lines_at(40, show, terminal=False) == lines_at(2000, show)


@pytest.mark.parametrize("methods", [METHODS[:1], METHODS[:3], (*METHODS[:3], *LONG)])
def test_progress_while_training_is_whole(methods: Sequence[str]) -> None:
    plan = {"name": "a building with 12 heat pumps", "rounds": 10_000, "seeds": [2**32 - 1], "methods": list(methods)}
    start: Any = {"event": "start", "agents": 1000, "environment_steps_per_round": 10**9, **plan}
    progress = RunProgress(start, clock=lambda: 5.0)
    for i, method in enumerate(methods):
        for number in (1, 10_000 if i + 1 < len(methods) else 9_999):
            returned = 1000.5 + i if i else -123_456_789_012.0
            rest = {"return": returned, "bytes_up": 10**13, "bytes_down": 1}
            record: Any = {"method": method, "seed": 2**32 - 1, "round": number, **rest}
            progress.add(record)
    names = [method.replace("_", " ") for method in methods]
    numbers = [short(progress.curve(method)[-1]) for method in methods]
    check_whole(view(progress), [*names, *numbers, "seed 4294967295, round 9999/10000"])


def test_a_form_fits_if_its_last_column_does() -> None:
    table = ColumnTable([Column("agent", [Text("0")]), Column("a b", [Text("1 2")]), Column("c", [Text("33")])])
    narrow = Text("narrow")
    wide = len("agent  a b  33")
    assert lines_at(wide, FirstFitting([table, narrow]))[0].split() == ["agent", "a", "b", "c"]
    assert lines_at(wide - 1, FirstFitting([table, narrow])) == ["narrow"]
    assert lines_at(3, FirstFitting([table])) != [], "the last form is shown, whatever the width"


def test_forms_leave_out_the_last_optional_column_first_and_end_with_a_part_for_each_column() -> None:
    names = Column("agent", [Text("0"), Text("1")])
    optional = [Column(name, [Text("5"), Text("6")], optional=True) for name in ("mass", "length")]
    methods = [Column(name, [Text("7"), Text("8")]) for name in ("federated", "independent", "mixture")]
    columns = [names, *optional, *methods]
    heads = [lines_at(200, form)[0].split()[1:3] for form in fewer_columns(columns, None, "report.html")]
    assert heads == [["mass", "length"], ["mass", "federated"], ["federated", "independent"]]
    parts = [lines_at(200, form) for form in in_parts(columns, None, "report.html")]
    assert [sum("agent" in line for line in lines) for lines in parts] == [2, 3, 3]
    assert {lines[-1] for lines in parts} == {"2 more columns (mass, length): report.html"}


def test_a_path_is_never_broken_or_cut() -> None:
    path = "runs/a name with blanks-20261129-140014/and/more/of/it"
    event: Any = {
        "event": "end",
        "summary": made_summary(METHODS[:2], 1, 0),
        "folder": path,
        "report": f"{path}/report.html",
    }
    study: Any = {"event": "study", "folder": path, "report": None}
    study["study"] = {"name": "study", "grid": {}, "target": None, "complete": True, "settings": []}
    for width in WIDTHS[::20]:
        for terminal in (True, False):
            console = Console(file=io.StringIO(), width=width, force_terminal=terminal, _environ={"TERM": "xterm"})
            with progress(console=console) as sink:
                sink(event)
            with study_progress(console=console) as sink:
                sink(study)
            lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
            assert sum(path in line for line in lines) == 3, (width, terminal)
