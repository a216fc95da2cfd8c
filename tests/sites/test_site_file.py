"""site.toml: what it may have, what is refused, and what is built of it."""

import dataclasses
import json
import re
import subprocess
import sys

import jax
import pytest

from fedrl.core.environment import HostEnvironment
from fedrl.core.errors import ConfigError
from fedrl.environments import gridworld
from fedrl.federation.wire_digest import wire_digest
from fedrl.secure.ckks import make_key_file
from fedrl.sites.policy import MayLeave
from fedrl.sites.site_file import SiteConfig, build_site, load_site, parse_site
from tests.support.blocks import ROOT, blocks

SITE = """
coordinator = "fed.example.org:7500"
certificates = "site-1"
experiment = "experiment.toml"
"""
EXPERIMENT = """
name = "corridor"
rounds = 3
{init}
[environment]
name = "gridworld"
layout = "S.G"
max_steps = 10

[fleet]
step_cost = [0.01, 0.02, 0.03]

[learner]
name = "q_table"
num_envs = 2
num_steps = 8

[baselines]
independent = true

[federation]
{federation}
"""
OWN = """
import gymnasium
from fedrl.environments import gridworld

def make_world(layout="S..G"):
    return gridworld(layout=layout, max_steps=10)

class Room(gymnasium.Env):
    observation_space = gymnasium.spaces.Discrete(3)
    action_space = gymnasium.spaces.Discrete(4)
    def __init__(self, heat=1.0):
        self.heat = heat
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}
    def step(self, action):
        return 1, self.heat, False, False, {}
"""


def written(folder, more="", federation="", init="", before=""):
    (folder / "site.toml").write_text(before + SITE + more)
    (folder / "experiment.toml").write_text(EXPERIMENT.format(federation=federation, init=init))
    return folder / "site.toml"


def built(*given, **options):
    return build_site(load_site(written(*given, **options)))


def test_a_site_is_built_of_its_own_copy_of_the_experiment(tmp_path):
    site = built(tmp_path)
    assert site.config.folder == str(tmp_path / "agent")
    assert site.config.certificates == str(tmp_path / "site-1")
    assert [float(site.setting_of(k).step_cost) for k in range(3)] == pytest.approx([0.01, 0.02, 0.03])
    assert site.options == {}
    with pytest.raises(LookupError, match="the experiment has 3 agents"):
        site.setting_of(3)


def test_its_own_settings_and_environment_take_the_place_of_the_experiments(tmp_path, monkeypatch):
    (tmp_path / "ownsite.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    one = built(tmp_path, "settings = {step_cost = 0.25}\n")
    assert {float(one.setting_of(k).step_cost) for k in range(3)} == {0.25}
    other = built(tmp_path, 'environment = "ownsite:make_world"\n')
    assert float(other.setting_of(2).step_cost) == float(gridworld().params.step_cost)
    assert other.federation.learner.environment.spaces.observation.n == 4
    table = built(tmp_path, 'settings = {step_cost = 0.75}\n[environment]\nname = "ownsite:make_world"\n')
    assert float(table.setting_of(0).step_cost) == 0.75
    room = built(tmp_path, 'environment = {name = "ownsite:Room", max_steps = 5}\nsettings = {heat = 2.0}\n')
    assert isinstance(room.federation.learner.environment, HostEnvironment)
    assert room.options == {"restarts": 0}


def hiding(protocol):
    aggregator = 'aggregator = {name = "mean", weighting = "uniform"}'
    return f'{aggregator}\nsummation = {{name = "ring_sum", largest = 8.0, {protocol}}}'


def test_encrypted_sums_need_the_key_that_all_agents_share_and_other_sums_none(tmp_path):
    make_key_file(tmp_path / "shared.key")
    named, ckks = 'encryption_key = "shared.key"\n', hiding('protocol = "ckks"')
    assert built(tmp_path, named, federation=ckks).encryption_key.content == (tmp_path / "shared.key").read_bytes()
    with pytest.raises(ConfigError, match="encrypts updates with a key that all agents share, and this site has none"):
        built(tmp_path, federation=ckks)
    for federation in ("", hiding('protocol = "masks"')):
        with pytest.raises(ConfigError, match="encryption_key is given, and no update of this federation is encrypted"):
            built(tmp_path, named, federation=federation)
    (tmp_path / "shared.key").chmod(0o644)
    with pytest.raises(ConfigError, match="has mode 0644, so others than its owner may use the key"):
        built(tmp_path, named, federation=ckks)


def test_the_digest_is_that_of_the_experiment_whatever_the_settings(tmp_path):
    def digest(site):
        return wire_digest(site.federation, site.setting_of(0)).digest

    assert digest(built(tmp_path)) == digest(built(tmp_path, "settings = {step_cost = 0.25}\n"))
    assert digest(built(tmp_path)) != digest(built(tmp_path, federation='stages = ["quantize"]'))


def test_what_may_leave_is_a_table(tmp_path):
    more = '[may_leave]\nreports = ["loss"]\npayload = ["gradient", "delta"]\nrounds_a_day = 5\ncapacity = true\n'
    found = load_site(written(tmp_path, more)).may_leave
    assert found == MayLeave(reports=("loss",), payload=("gradient", "delta"), rounds_a_day=5, capacity=True)
    with pytest.raises(ConfigError, match="lets out report/loss"):
        built(tmp_path, federation='selection = {name = "power_of_choice", candidates = 2, cohort = 1}')


WRONG = {
    "sed = 3": "sed is 3, but it is not a key of a site. Did you mean 'seed'?",
    "[may_leaf]\nx = 1": "may_leaf is not a key of a site. Did you mean 'may_leave'?",
    "[may_leave]\nreport = []": "may_leave.report is [], but may_leave has no key 'report'. Did you mean 'reports'?",
    "[may_leave]\ncapacity = 1": "may_leave.capacity is 1. It needs to be true or false.",
    "[may_leave]\nrounds_a_day = 0": "may_leave.rounds_a_day is 0",
    '[may_leave]\nprivacy = "much"': "may_leave.privacy is 'much'",
    '[may_leave]\npayload = ["all"]': "may_leave.payload[0] is 'all'",
    'seed = "a"': "seed is 'a', a string. It needs to be a whole number.",
    "seed = -1": "seed is -1",
    "give_up_s = -1.0": "give_up_s is -1",
    "settings = {step_cost = [1.0, 2.0]}": "settings.step_cost is [1.0, 2.0]. A site has one value of each setting.",
    "settings = {step_cst = 1.0}": "step_cst",
    "environment = 'griddworld'": "Did you mean 'gridworld'?",
    "coordinator": "is not valid TOML",
    'reports = ["loss"]': "reports is ['loss'], but it is not a key of a site. It belongs into the section [may_leave]",
    "round_a_day = 3": "It belongs into the section [may_leave], as 'rounds_a_day'.",
    'proxy = "ftp://proxy:1"': "proxy is 'ftp://proxy:1', which is no address. Write, for example, 'http://proxy.",
    'proxy = "http://proxy"': "proxy is 'http://proxy', which is no address.",
}


@pytest.mark.parametrize("more", WRONG)
def test_what_is_wrong_is_named(more, tmp_path):
    with pytest.raises(ConfigError) as refused:
        built(tmp_path, f"{more}\n")
    assert WRONG[more] in str(refused.value)


@pytest.mark.parametrize("key", ["coordinator", "certificates", "experiment"])
def test_what_is_missing_is_named(key):
    given = {"coordinator": "a:1", "certificates": "c", "experiment": "e"}
    del given[key]
    with pytest.raises(ConfigError, match=f"{key} is missing"):
        parse_site(given)


def test_an_experiment_without_one_server_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"has federation\.topology, and an agent on a network has one server"):
        built(tmp_path, federation='topology = "ring"')


def test_a_coordinator_without_a_port_is_refused_before_anything_is_built():
    with pytest.raises(ConfigError, match=r"^coordinator is 'hub', which is no address. Write, for example, 'fed"):
        parse_site({"coordinator": "hub", "certificates": "c", "experiment": "e"})


def test_a_file_in_utf_16_and_a_folder_are_named(tmp_path):
    path = written(tmp_path)
    path.write_text(path.read_text(), encoding="utf-16")
    with pytest.raises(ConfigError, match=r"site\.toml is UTF-16, and TOML is UTF-8"):
        load_site(path)
    with pytest.raises(ConfigError, match=r"is a folder, and a file is needed\. Name the file: .*site\.toml"):
        load_site(tmp_path)


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"sitte.toml does not exist. Did you mean 'site.toml'"):
        load_site(written(tmp_path).with_name("sitte.toml"))
    path = written(tmp_path)
    (tmp_path / "experiment.toml").unlink()
    with pytest.raises(ConfigError, match=r"experiment.toml does not exist"):
        build_site(load_site(path))


def test_a_config_is_its_defaults():
    found = parse_site({"coordinator": "a:1", "certificates": "c", "experiment": "e"})
    assert found == SiteConfig(coordinator="a:1", certificates="c", experiment="e")
    assert found.give_up_s is None
    assert jax.tree.leaves(found.settings) == []


def test_the_document_shows_what_there_is(tmp_path):
    (block,) = [each for each in blocks() if each.document == "docs/sites.md" and each.title]
    (tmp_path / "site.toml").write_text(block.code)
    found = load_site(tmp_path / "site.toml")
    assert (found.coordinator, found.may_leave.reports) == ("fed.example.org:7500", ("loss",))
    text = (ROOT / "docs" / "sites.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", text, re.MULTILINE))
    fields = {field.name: field.default for field in dataclasses.fields(MayLeave)}
    assert set(rows) == set(fields)
    shown = {name: "no limit" if x is None else f"`{json.dumps(x)}`" for name, x in fields.items()}
    assert rows == shown


def test_an_agent_imports_no_library_for_graphs_statistics_or_plots():
    script = (
        "import sys\nimport fedrl.sites.agent, fedrl.sites.site_file\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'scipy', 'networkx', 'plotly', 'rich'}))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
