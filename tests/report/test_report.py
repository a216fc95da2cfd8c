"""The page about runs: it shows what the records say, fetches nothing, and copes with whatever it is given."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plotly.offline import get_plotlyjs

from fedrl.core.errors import ConfigError
from fedrl.records.statistics import interquartile_mean, interval
from fedrl.report import write_report
from fedrl.report.curves import LONGEST, curve
from fedrl.report.highlight import highlighted
from fedrl.report.run import read_run
from tests.support.made_runs import CITATIONS, make_run

EVIL = '<script>alert("1")</script> & </style><img src=x onerror=alert(2)>'


class Page(HTMLParser):
    """What a browser would make of the page: its elements, its visible text, its tables, its data."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "input", "br"):
            self.inside.append(tag)
        if tag == "script":
            self.scripts.append("")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.inside.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if "script" in self.inside:
            self.scripts[-1] += data
        elif "style" not in self.inside:
            self.texts.append(data)
            if "td" in self.inside or "th" in self.inside:
                self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def charts(self) -> dict[str, Any]:
        return json.loads(self.scripts[0])

    def line(self, chart: str, name: str) -> dict[str, Any]:
        """The curve of that name."""
        found = [t for t in self.charts[chart]["data"] if t["name"] == name and t.get("showlegend", True)]
        assert len(found) == 1
        return found[0]


def shown(folders: list[Path], target: Path) -> Page:
    return Page(write_report(folders, target))


def table_of(folder: Path, method: str, key: str) -> tuple[np.ndarray, np.ndarray]:
    """`[seeds, rounds]` of a record's number, straight from the file, and the steps of the rounds."""
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["method"] == method]
    seeds = sorted({line["seed"] for line in lines})
    rows = [[np.nan if r[key] is None else r[key] for r in lines if r["seed"] == seed] for seed in seeds]
    steps = [r["environment_steps"] for r in lines if r["seed"] == seeds[0]]
    return np.array(rows, float), np.array(steps)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return shown([folder], tmp_path_factory.mktemp("page") / "deep" / "report.html")


def test_page_refers_to_nothing_on_a_network_but_its_citations(page: Page) -> None:
    addresses = [(tag, v) for tag, attrs in page.elements for k, v in attrs.items() if k in ("src", "href", "srcset")]
    assert {tag for tag, _ in addresses} == {"a"}
    assert all(any(str(address) in line for line in CITATIONS) for _, address in addresses)
    assert not {tag for tag, _ in page.elements} & {"link", "img", "iframe", "object", "base"}
    policy = next(attrs["content"] for _, attrs in page.elements if attrs.get("http-equiv"))
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_charts_offer_no_upload(page: Page) -> None:
    assert re.search(r"showSendToCloud: false", page.scripts[-1])
    assert re.search(r'plotlyServerURL: ""', page.scripts[-1])


def test_plotting_library_is_inlined_once_and_is_nearly_all_of_the_page(folder: Path, tmp_path: Path) -> None:
    text = write_report([folder], tmp_path / "report.html").read_text("utf-8")
    assert text.count(get_plotlyjs()) == 1
    assert len(text) - len(get_plotlyjs()) < 300_000


@pytest.mark.parametrize("method", ["federated", "independent", "centralised"])
def test_curve_is_the_interquartile_mean_of_the_records(page: Page, folder: Path, method: str) -> None:
    returns, steps = table_of(folder, method, "return")
    drawn = page.line("learning", method)
    np.testing.assert_array_equal(drawn["x"], steps)
    np.testing.assert_allclose(drawn["y"], interquartile_mean(returns, axis=0))
    assert np.isnan(returns[0, 1])
    ends = np.array(drawn["customdata"])
    np.testing.assert_allclose(ends[:, 1:].T, interval(returns, resamples=2_000)[1:])
    np.testing.assert_array_equal(ends[:, 0], 1 + np.arange(returns.shape[1]))


def test_bands_have_the_ends_of_the_intervals(page: Page) -> None:
    for method in ("federated", "independent", "centralised"):
        bands = [t for t in page.charts["learning"]["data"] if t["name"] == method and t.get("showlegend") is False]
        upper, lower = (np.array(t["y"]) for t in bands)
        ends = np.array(page.line("learning", method)["customdata"])
        np.testing.assert_allclose(np.stack([lower, upper], 1), ends[:, 1:])
        assert bands[1]["fill"] == "tonexty"


def test_bytes_add_up_over_rounds_and_both_ways(page: Page, folder: Path) -> None:
    up, down = (table_of(folder, "federated", name)[0] for name in ("bytes_up", "bytes_down"))
    drawn = page.line("traffic", "federated")
    np.testing.assert_allclose(drawn["x"], (up + down).cumsum(1)[0])
    np.testing.assert_allclose(drawn["y"], page.line("learning", "federated")["y"])
    silent = page.line("traffic", "independent")
    assert silent["x"] == [0, drawn["x"][-1]]
    assert silent["y"] == [page.line("learning", "independent")["y"][-1]] * 2


def test_a_run_on_a_virtual_clock_shows_returns_against_its_time(folder: Path, tmp_path: Path) -> None:
    timed = with_time(make_run(tmp_path / "timed"))
    page = shown([timed], tmp_path / "timed.html")
    times, _ = table_of(timed, "federated", "time_s")
    drawn = page.line("time", "federated")
    np.testing.assert_allclose(drawn["x"], times.mean(0))
    np.testing.assert_allclose(drawn["y"], page.line("learning", "federated")["y"])
    band = [t for t in page.charts["time"]["data"] if t["name"] == "federated" and t.get("showlegend") is False]
    np.testing.assert_allclose(band[0]["x"], times.mean(0))
    waits_for_nobody = page.line("time", "independent")
    assert waits_for_nobody["x"] == [0, drawn["x"][-1]]
    assert waits_for_nobody["y"] == [page.line("learning", "independent")["y"][-1]] * 2
    assert ["updates that arrived", "600"] in page.rows
    assert ["time on the clock at the end", "2 min 06 s"] in page.rows
    both = shown([timed, folder], tmp_path / "both.html")
    assert both.line("time", f"CartPole, ten poles ({timed.name})")["x"] == drawn["x"]
    assert "Some runs have no clock" in both.text
    assert "time" not in shown([folder], tmp_path / "plain.html").charts


def with_time(folder: Path) -> Path:
    """The run as if it had been on a clock on which a round takes two seconds and, with each seed, 0.05 more."""
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    for line in lines:
        if line["method"] == "federated":
            line |= {"time_s": (2.0 + 0.05 * line["seed"]) * line["round"], "arrived": 10, "dropped": 1, "cancelled": 0}
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = json.loads((folder / "summary.json").read_text())
    summary["virtual_time"] = {"time_s": 126.0, "arrived": 600.0, "dropped": 60.0, "cancelled": 0.0, "staleness": 2.5}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_every_agent_has_a_thin_line_and_many_agents_a_band(page: Page, folder: Path, tmp_path: Path) -> None:
    thin = [t for t in page.charts["learning"]["data"] if t.get("meta") == "agents"]
    assert len(thin) == 10
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    third = [r["agents"][3] for r in lines if r["method"] == "federated" and r["round"] == 30]
    assert thin[3]["y"][29] == pytest.approx(np.mean(third))
    crowd = shown([make_run(tmp_path / "crowd", agents=40, rounds=5)], tmp_path / "crowd.html")
    band = [t for t in crowd.charts["learning"]["data"] if t.get("meta") == "agents"]
    assert [t["name"] for t in band] == ["agents, 10 to 90 %"] * 2


def test_axes_are_named_and_lines_differ_in_colour_and_dash(page: Page) -> None:
    for chart in page.charts.values():
        assert all(chart["layout"][axis]["title"]["text"] for axis in ("xaxis", "yaxis"))
    lines = [page.line("learning", method)["line"] for method in ("federated", "independent", "centralised")]
    assert len({line["color"] for line in lines}) == len({line["dash"] for line in lines}) == 3


def test_every_agent_is_in_the_table_with_its_parameters_and_the_best_marked(page: Page, folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    head = next(row for row in page.rows if row[0] == "agent")
    assert head == ["agent", "cart mass", "length", "federated", "independent", "centralised"]
    for agent in summary["agents"]:
        row = next(row for row in page.rows if row[0] == str(agent["id"]) and len(row) == len(head))
        assert float(row[2]) == pytest.approx(agent["env_params"]["length"], rel=1e-3)
        values = [agent["return"]] + [
            summary["baseline_agents"][method][agent["id"]]["return"] for method in ("independent", "centralised")
        ]
        marked = [cell.endswith("(best)") for cell in row[3:]]
        assert [float(cell.removesuffix(" (best)")) for cell in row[3:]] == pytest.approx(values, rel=1e-3)
        assert marked == [value == max(values) for value in values]
    assert "The same for all agents: gravity 9.8." in page.text


def test_headlines_configuration_citations_and_versions_are_there(page: Page, folder: Path) -> None:
    messages = json.loads((folder / "summary.json").read_text())["messages_down"]
    for line in CITATIONS:
        assert line in page.text
    assert (folder / "config.toml").read_text() in page.text
    for fact in ("868 k", "22.1 MB", "14.7 s", "4.3 s", "9.22 M", "0.10.2", "179c14d0a3b1", "95 % interval"):
        assert fact in page.text
    assert "interrupted" not in page.text
    assert f"federated agents sent {messages - 2} messages and were sent {messages}." in page.text


def test_names_from_configurations_are_text_and_nothing_else(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "evil", name=EVIL, rounds=4, methods=("federated", EVIL))
    summary = json.loads((folder / "summary.json").read_text())
    summary |= {"citations": [EVIL, "javascript:alert(3)"], "revision": EVIL, "versions": {EVIL: EVIL}}
    summary["agents"][0]["env_params"] = {EVIL: EVIL}
    (folder / "summary.json").write_text(json.dumps(summary))
    for folders in ([folder], [folder, folder]):
        page = shown(folders, tmp_path / "report.html")
        tags = [tag for tag, _ in page.elements]
        assert "img" not in tags
        assert tags.count("script") == 3
        assert not [v for _, attrs in page.elements for v in attrs.values() if str(v).startswith("javascript")]
        assert EVIL in page.text
        assert not [t["name"] for chart in page.charts.values() for t in chart["data"] if "<" in t["name"]]


def test_several_runs_are_compared_line_by_line(folder: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", clip=0.1, rounds=40, methods=("federated",), name="clipped harder")
    twin = make_run(tmp_path / "twin", rounds=10)
    page = shown([folder, other, twin], tmp_path / "report.html")
    labels = [f"CartPole, ten poles ({folder.name})", "clipped harder", "CartPole, ten poles (twin)"]
    for label, where in zip(labels, (folder, other, twin), strict=True):
        returns, steps = table_of(where, "federated", "return")
        np.testing.assert_array_equal(page.line("learning", label)["x"], steps)
        np.testing.assert_allclose(page.line("learning", label)["y"], interquartile_mean(returns, axis=0))
        assert sum(row[0] == label for row in page.rows) == 2
    assert ["learner.clip", "0.2", "0.1", "0.2"] in page.rows
    assert ["rounds", "60", "40", "10"] in page.rows
    assert not [row for row in page.rows if row[0] == "learner.gamma"]


def test_a_run_cut_off_in_the_middle_of_a_line_says_so(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "cut", methods=("federated",), seeds=2, rounds=10)
    lines = (folder / "records.jsonl").read_text().splitlines()
    (folder / "records.jsonl").write_text("\n".join(lines[:14]) + "\n" + lines[14][:40])
    page = shown([folder], tmp_path / "report.html")
    assert "This run was interrupted: federated stopped seed 1 after round 4 of 10." in page.text
    assert "1 line of records.jsonl could not be read" in page.text
    (folder / "summary.json").write_text('{"name": ')
    page = shown([folder], tmp_path / "report.html")
    assert "This run has no summary: it was interrupted, or is still running." in page.text
    assert "one seed, no interval" in page.text
    assert len(page.line("learning", "federated")["x"]) == 10


def test_baselines_that_never_began_are_named(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "cut", methods=("federated",), seeds=1, rounds=4)
    with (folder / "config.toml").open("a") as config:
        config.write("[baselines]\nindependent = true\ncentralised = false\naverage_once = true\n")
    assert read_run(folder).notes == ["This run was interrupted before independent, average once began."]


def test_averaging_once_is_in_the_tables_and_not_among_the_curves(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", methods=("federated", "average_once"), seeds=2, rounds=4)
    page = shown([folder], tmp_path / "report.html")
    assert {t["name"] for chart in page.charts.values() for t in chart["data"]} == {"federated", "each federated agent"}
    assert sum(row[0] == "average once" for row in page.rows) == 1
    assert next(row for row in page.rows if row[0] == "agent")[-1] == "average once"


def test_a_seed_that_never_began_is_named(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "cut", methods=("federated",), seeds=3, rounds=4)
    lines = (folder / "records.jsonl").read_text().splitlines()
    (folder / "records.jsonl").write_text("\n".join(lines[:6]))
    notes = read_run(folder).notes
    assert notes == ["This run was interrupted: federated stopped seed 1 after round 2 of 4 and before seed 2 began."]


def test_a_run_stopped_before_its_first_round_still_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text("")
    page = shown([tmp_path], tmp_path / "report.html")
    assert "interrupted before its first round ended" in page.text
    assert page.charts["learning"]["data"] == []
    assert shown([tmp_path, tmp_path], tmp_path / "report.html").charts["traffic"]["data"] == []


def test_records_that_hold_no_number_anywhere_still_have_a_page(tmp_path: Path) -> None:
    bare = {"seed": 0, "method": "federated", "return": None, "agents": [None, None], "greedy": [None, math.nan]}
    rows = [bare | {"round": 1, "bytes_up": None}, {"seed": 0, "method": "federated", "round": 2}]
    (tmp_path / "records.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "config.toml").write_text("this is = not TOML = at all")
    page = shown([tmp_path], tmp_path / "report.html")
    assert page.charts["learning"]["data"] == [] == page.charts["traffic"]["data"]
    assert "this is = not TOML" in page.text


def test_a_round_that_was_run_again_counts_once_as_it_was_last(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "resumed", methods=("federated",), seeds=1, rounds=6)
    lines = (folder / "records.jsonl").read_text().splitlines()
    again = json.loads(lines[3]) | {"return": 123.0}
    (folder / "records.jsonl").write_text("\n".join([*lines[:4], json.dumps(again), *lines[4:]]))
    found = curve(read_run(folder), "federated")
    assert found.rounds.tolist() == [1, 2, 3, 4, 5, 6]
    assert found.returns.mean[3] == 123.0
    assert found.sent[-1] == 6 * 10 * (36_876 + 36_880)


def test_a_long_run_is_thinned_but_keeps_its_last_round_and_all_its_bytes(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "long", methods=("federated",), seeds=1, rounds=2 * LONGEST + 7, agents=1)
    found = curve(read_run(folder), "federated")
    assert len(found.rounds) <= LONGEST
    assert found.rounds[-1] == 2 * LONGEST + 7
    assert found.sent[-1] == (2 * LONGEST + 7) * (36_876 + 36_880)


def test_configuration_is_coloured_without_a_change_of_its_text() -> None:
    text = 'a = 1 # b = 2\n[t.u]\n[[v]]\nx = "y # z"\nlist = [1.5e-3, true, [2, 3]]\nk = """<\n>"""\n'
    marked = str(highlighted(text))
    assert re.sub(r"</?span[^>]*>", "", marked) == text.replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
    kinds = re.findall(r'class="(\w+)">([^<]*)<', marked)
    assert ("comment", "# b = 2") in kinds
    assert ("table", "[t.u]") in kinds
    assert ("text", "&quot;y # z&quot;") in kinds
    assert [word for kind, word in kinds if kind == "value"] == ["1", "1.5e-3", "true", "2", "3"]


def test_folders_that_hold_no_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no records\.jsonl"):
        write_report([tmp_path], tmp_path / "report.html")
    with pytest.raises(ConfigError, match="folders is empty"):
        write_report([], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
