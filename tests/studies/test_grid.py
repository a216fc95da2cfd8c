import pytest

from fedrl.core.errors import ConfigError
from fedrl.studies.grid import checked, grid_of, in_words, label, product, short_names


def test_values_are_separated_by_commas_outside_of_brackets_and_quotes() -> None:
    grid = grid_of(["a=[1, 2],[3]", 'b={x = 1, y = "p,q"},median', "c='u, v',true,0.5", "d=16"])
    assert grid == {"a": [[1, 2], [3]], "b": [{"x": 1, "y": "p,q"}, "median"], "c": ["u, v", True, 0.5], "d": [16]}


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["rounds"], "--grid 'rounds' is not of the form key=value. Write, for example, --grid federation.agents"),
        (["=1,2"], "not of the form"),
        (["rounds="], "has an empty value"),
        (["rounds=1,,2"], "has an empty value"),
        (["rounds=1,2,"], "has an empty value"),
        (["rounds=1,2", "rounds=3"], "--grid rounds is given twice"),
        (["rounds=1,2,1"], "the value 1 twice"),
        (["learner.clip=0.1,0.2.3"], "--grid learner.clip: '0.2.3' is not a TOML value"),
        (["learner.clip=[0.1"], "'[0.1' is not a TOML value"),
    ],
)
def test_a_grid_that_cannot_be_read_says_why(texts: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        grid_of(texts)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("values", [[], 3, "many"])
def test_a_key_without_a_list_of_values_is_refused(values: object) -> None:
    with pytest.raises(ConfigError, match="at least one value"):
        checked({"rounds": values})


def test_the_last_key_changes_fastest() -> None:
    found = product({"a": [1, 2], "b": ["x", "y"], "c": [0]})
    assert [tuple(setting.values()) for setting in found] == [(1, "x", 0), (1, "y", 0), (2, "x", 0), (2, "y", 0)]


def test_names_are_as_short_as_they_can_be() -> None:
    keys = ["federation.stages.0.bits", "other.bits", "rounds", "federation.stages.1"]
    assert short_names(keys) == {
        "federation.stages.0.bits": "stages.0.bits",
        "other.bits": "other.bits",
        "rounds": "rounds",
        "federation.stages.1": "stages.1",
    }


def test_settings_are_told_in_words() -> None:
    assert label({"a.rounds": 3, "a.on": True}, {"a.rounds": "rounds", "a.on": "on"}) == "rounds 3, on true"
    assert in_words([{"name": "clip", "norm": 1.0}, "sign"]) == "clip(norm=1.0) + sign"
    assert in_words({"range": [0.1, 0.2]}) == "(range=[0.1, 0.2])"
