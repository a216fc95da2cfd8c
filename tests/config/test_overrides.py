from typing import Any

import pytest

from fedrl.config.overrides import assign, override
from fedrl.core.errors import ConfigError


def data() -> dict[str, Any]:
    return {
        "rounds": 3,
        "federation": {"stages": [{"name": "clip", "norm": 1.0}, "quantize", {"name": "error_feedback"}, "quantize"]},
        "learner": {"optimizer": [{"name": "adam"}]},
    }


@pytest.mark.parametrize("key", ["federation.stages.0.norm", "federation.stages.clip.norm"])
def test_an_entry_of_a_list_is_called_by_its_place_or_its_name(key: str) -> None:
    changed = data()
    override(changed, f"{key}=2.5")
    assert changed["federation"]["stages"][0] == {"name": "clip", "norm": 2.5}


def test_an_entry_given_by_its_name_alone_becomes_a_table() -> None:
    changed = data()
    override(changed, "federation.stages.1.bits=4")
    assert changed["federation"]["stages"][1] == {"name": "quantize", "bits": 4}


def test_a_whole_entry_can_be_replaced_and_tables_on_the_way_are_made() -> None:
    changed = data()
    override(changed, "learner.optimizer.adam=sgd")
    override(changed, "federation.stages.error_feedback.stage.bits=2")
    assert changed["learner"]["optimizer"] == ["sgd"]
    assert changed["federation"]["stages"][2] == {"name": "error_feedback", "stage": {"bits": 2}}


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (
            "federation.stages.4.bits",
            "federation.stages has no entry 4; its entries are clip, quantize, error_feedback",
        ),
        ("federation.stages.quantise.bits", "Did you mean 'quantize'?"),
        ("federation.stages.quantize.bits", "Say which: federation.stages.1 or 3."),
        ("federation.stages.0.norm.x", "norm is 1.0, not a table"),
        ("rounds.x", "rounds is 3, not a table"),
    ],
)
def test_a_path_that_leads_nowhere_says_where_it_ended(key: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        assign(data(), key, 1, "--grid")
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"--grid {key}: ")


def test_an_empty_list_has_no_entries() -> None:
    with pytest.raises(ConfigError, match=r"federation.stages has no entry 0; it is empty"):
        assign({"federation": {"stages": []}}, "federation.stages.0.bits", 1)
