"""`fedrl coordinator` before it listens: what it reads, and what it says when something is missing."""

from pathlib import Path

import pytest

from fedrl.cli import local_federation
from fedrl.cli.coordinator import enrolment_table
from fedrl.cli.local_federation import check_unchanged
from fedrl.config import dump, load, tables_of
from fedrl.core.errors import ConfigError
from tests.cli.test_cli import Call, call

__all__ = ["call"]


@pytest.mark.parametrize("place", ["issued/hub", "issued", "."])
def test_the_enrolment_table_is_found_where_certs_writes_it_and_where_it_is_copied_to(tmp_path, place):
    (tmp_path / "issued" / "hub").mkdir(parents=True)
    table = tmp_path / place / "enrolment.json"
    table.write_text("{}")
    assert enrolment_table(tmp_path / "issued" / "hub", None).samefile(table)


def test_the_table_of_fedrl_certs_is_that_of_the_coordinator(call: Call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in (("init",), ("issue", "hub", "--role", "coordinator", "--host", "localhost"), ("issue", "a")):
        assert call("certs", *arguments).code == 0
    assert enrolment_table(Path("certs/issued/hub"), None) == Path("certs/enrolment.json")


@pytest.mark.parametrize("given", [None, Path("nowhere.json")])
def test_without_an_enrolment_table_no_run_begins(given, tmp_path):
    with pytest.raises(ConfigError, match="every agent would be refused"):
        enrolment_table(tmp_path / "a" / "b" / "c", given)


def test_a_federation_on_this_machine_keeps_the_experiment_of_its_folder(tmp_path):
    (tmp_path / "experiment.toml").write_text(
        dump(load(tables_of(Path("cartpole")), ["federation.agents=2", "seeds=1"]))
    )
    check_unchanged(tmp_path, ["federation.agents=2", "seeds=3"])  # of several seeds it takes the first one, as before
    with pytest.raises(ConfigError, match=r"federation\.agents=3 would change it"):
        check_unchanged(tmp_path, ["federation.agents=3"])


def test_fedrl_up_sets_the_flags_of_jax_before_it_computes_anything(tmp_path, monkeypatch):
    """With other flags than its agents, the coordinator's first parameters are others than those of a simulation."""
    order = []
    monkeypatch.setattr(local_federation, "prepare_process", lambda: order.append("flags"))
    monkeypatch.setattr(local_federation, "laid_out", lambda *given: order.append("computes"))
    monkeypatch.setattr(local_federation, "transport_of", lambda *given: None)
    monkeypatch.setattr(local_federation, "conduct", lambda *given, **more: order.append("conducts"))
    local_federation.local_federation(
        Path("cartpole"), 2, tmp_path / "up", (), replayable=False, quiet=True, as_json=False
    )
    assert order == ["flags", "computes", "conducts"]
