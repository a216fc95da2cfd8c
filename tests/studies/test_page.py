"""The page about a study, from study folders made up for the test."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from fedrl.studies.figures import front, pareto_figure
from fedrl.studies.folder import create
from fedrl.studies.page import write_study_report
from fedrl.studies.plan import plan_of
from fedrl.studies.result import study_in
from tests.report.test_report import Page

BASE: dict[str, Any] = {
    "name": "made <up>",
    "rounds": 4,
    "seeds": 3,
    "environment": {"name": "gridworld", "layout": "S.G"},
    "learner": {"name": "q_table"},
    "federation": {"agents": 2, "stages": [{"name": "quantize"}]},
}
GRID = {"federation.agents": [2, 20, 200], "federation.stages.quantize.bits": [2, 8]}


def make_study(
    folder: Path, grid: dict[str, list[Any]] = GRID, target: float | None = 3.0, skip: int = 0, clock: bool = False
) -> Path:
    """All settings but the last `skip` have run; with two bits, no seed gets to a return of 3.

    With a clock a round takes two virtual seconds.
    """
    place = create(folder, plan_of(BASE, grid, target=target))
    settings = place.plan.settings
    for setting in settings[: len(settings) - skip]:
        run = place.path / setting.folder
        run.mkdir()
        agents = setting.values.get("federation.agents", 2)
        bits = setting.values.get("federation.stages.quantize.bits", 8)
        step = 1.0 if bits == 8 else 0.5
        records = [
            {
                "seed": seed,
                "method": "federated",
                "round": i,
                "environment_steps": 100 * agents * i,
                "return": step * i + 0.1 * seed,
                "bytes_up": 10 * bits * agents,
                "bytes_down": 320 * agents,
                "seconds": 0.25,
            }
            | ({"greedy": [step * i + 0.1 * seed] * 2} if i == 4 else {})
            | ({"time_s": 2.0 * i} if clock else {})
            for seed in range(3)
            for i in range(1, 5)
        ]
        final = {"mean": 4 * step + 0.1, "low": 4 * step, "high": 4 * step + 0.2}
        summary = {
            "final_return": final,
            "seeds": [0, 1, 2],
            "model_bytes": 320,
            "steps_per_second": 1000.0 * agents,
            "compile_s": 1.5,
            "wall_s": 3.0,
            "bytes_up": 40 * bits * agents,
            "citations": ["Somebody (2020), https://example.org/x"],
        } | ({"virtual_time": {"time_s": 8.0}} if clock else {})
        (run / "config.toml").write_text("")
        (run / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        (run / "summary.json").write_text(json.dumps(summary))
    return place.path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("studies") / "study")


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page(write_study_report(folder))


def test_all_charts_are_there(page: Page) -> None:
    assert set(page.charts) == {"pareto", "to-rounds", "to-bytes", "to-seconds", "heat", "cost", "speed"}
    places = {attrs.get("id") for tag, attrs in page.elements if tag == "div"}
    assert set(page.charts) <= places


def test_every_setting_is_a_row_that_leads_to_its_run(page: Page, folder: Path) -> None:
    links = [attrs["href"] for tag, attrs in page.elements if tag == "a" and "example.org" not in str(attrs["href"])]
    assert len(links) == 6
    for link in links:
        assert (folder / str(link)).parent.is_dir()
        assert str(link).endswith("/report.html")
    row = next(row for row in page.rows if row[:3] == ["2", "2", "8"])
    assert row[3:] == ["4.1", "4 to 4.2", "3", "640 B", "2.56 kB", "3.0 s", "3", "480 B", "750 ms"]


def test_a_setting_that_never_gets_there_is_shown_as_such(page: Page) -> None:
    row = next(row for row in page.rows if row[:3] == ["1", "2", "2"])
    assert row[-3] == "never"
    drawn = page.line("to-rounds", "not reached")
    assert (drawn["x"], drawn["y"]) == ([2, 20, 200], [4, 4, 4])
    assert page.line("to-seconds", "not reached")["y"] == [1.0, 1.0, 1.0]
    assert page.line("to-rounds", "bits 8")["y"] == [3, 3, 3]
    assert page.line("to-bytes", "bits 8")["y"] == [480, 4800, 48000]


def test_a_study_on_a_virtual_clock_shows_its_time_to_the_target(tmp_path: Path) -> None:
    page = Page(write_study_report(make_study(tmp_path / "timed", skip=1, clock=True)))
    assert page.line("to-time", "bits 8")["y"] == [6.0, 6.0]
    assert page.line("to-time", "not reached")["y"] == [8.0, 8.0, 8.0]
    assert next(row for row in page.rows if row[:3] == ["2", "2", "8"])[-2:] == ["750 ms", "6.0 s"]
    assert {len(row) for row in page.rows if row and row[0] in ("1", "2", "6")} == {13}


def test_the_front_holds_what_nothing_beats(page: Page, folder: Path) -> None:
    from fedrl.studies.folder import open_folder

    assert [result["label"] for result in front(study_in(open_folder(folder)))] == [
        "agents 2, bits 2",
        "agents 2, bits 8",
    ]
    line = page.line("pareto", "Pareto front")
    assert (line["x"], line["y"]) == ([160, 640], [2.1, 4.1])
    drawn = page.line("pareto", "bits 8")
    assert (drawn["x"], drawn["text"]) == ([640, 6400, 64000], ["2", "20", "200"])
    assert drawn["error_y"]["array"] == pytest.approx([0.1] * 3)


def test_the_cost_model_stands_beside_the_measurement(page: Page) -> None:
    row = next(row for row in page.rows if row[0] == "agents 20, bits 8")
    assert row[1:] == ["20", "320 B", "6.4 kB", "4", "25.6 kB", "6.4 kB", "0.25", "25.6 kB"]


def test_an_unfinished_study_has_a_page_that_says_so(tmp_path: Path) -> None:
    page = Page(write_study_report(make_study(tmp_path / "study", skip=2)))
    assert "of 6 settings, 0 interrupted, 2 waiting" in page.text
    assert next(row for row in page.rows if row[:3] == ["6", "200", "8"])[3] == "waiting"
    none = Page(write_study_report(make_study(tmp_path / "none", skip=6)))
    assert none.charts["pareto"]["data"] == []


def test_a_study_of_one_key_or_of_words_has_no_heat_map(tmp_path: Path) -> None:
    grid = {"federation.payload": ["delta", "gradient"]}
    page = Page(write_study_report(make_study(tmp_path / "words", grid, target=None)))
    assert set(page.charts) == {"pareto", "cost", "speed"}
    assert page.charts["speed"]["layout"]["xaxis"]["type"] == "category"
    assert page.line("speed", "made &lt;up&gt;")["x"] == ["delta", "gradient"]


def test_far_apart_values_have_logarithmic_axes(folder: Path) -> None:
    from fedrl.studies.folder import open_folder

    figure = pareto_figure(study_in(open_folder(folder)))
    assert figure["layout"]["xaxis"]["type"] == "log"
    assert all(math.isfinite(x) for trace in figure["data"] for x in trace["x"])


def test_an_axis_of_equal_values_has_room_beside_them_so_that_its_ticks_differ(tmp_path: Path) -> None:
    from fedrl.studies.folder import open_folder

    grid = {"learner.epsilon": [0.1, 0.2]}
    study = study_in(open_folder(make_study(tmp_path / "study", grid, target=None)))
    sent = {result["bytes_up"] for result in study["settings"]}
    assert len(sent) == 1
    (value,) = sent
    assert pareto_figure(study)["layout"]["xaxis"]["range"] == pytest.approx([0.9 * value, value / 0.9])
    study["settings"][1]["bytes_up"] = 1.5 * value
    assert "range" not in pareto_figure(study)["layout"]["xaxis"]
