"""The checker catches each violation, in a run that is fine before one is planted in what it left."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy

from tests.chaos import checker, world
from tests.chaos.plan import plan_of

SEED, FAULTS = 5, 6


class Left:
    """What a run left, in a copy that a test may change."""

    def __init__(self, outcome, place):
        shutil.copytree(outcome.folder.parent, place)
        self.folder = place / outcome.folder.name
        self.sites = [place / site.name for site in outcome.sites]
        self.entries = [json.loads(line) for line in (place / "transcript.jsonl").read_text().splitlines()]
        self.tables, self.seed = outcome.tables, outcome.seed

    def check(self):
        return checker.check(self.folder, self.sites, self.entries, self.tables, self.seed)

    def events(self, change):
        """Change the list of what the scheduler was told, round by round."""
        path = self.folder / "events.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(f"{json.dumps(line)}\n" for line in change(lines)))

    def index(self, what, place=0, **fields):
        """Place in the transcript of an entry."""
        found = [
            i
            for i, entry in enumerate(self.entries)
            if entry["what"] == what and all(entry.get(name) == value for name, value in fields.items())
        ]
        return found[place]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    plan = plan_of(SEED, FAULTS)
    found = world.run(plan, tmp_path_factory.mktemp("chaos") / "run")
    assert found.faults.total() >= FAULTS - 1  # the last one may wait for a frame that never comes
    return found


@pytest.fixture
def left(outcome, tmp_path):
    return Left(outcome, tmp_path / "left")


def lost_on_restart(left):
    """A coordinator that continues from an older version than it had stored."""
    stored = left.index("disk", version=5)
    left.entries.insert(stored + 1, {"what": "disk", "version": 3, "hash": "", "life": 9})


def lost_and_computed_again(left):
    """The same, and the later versions are stored once more, so that none is missing after it."""
    stored = left.index("disk", version=5)
    left.entries[stored + 1 : stored + 1] = [
        {"what": "disk", "version": version, "hash": "", "life": 9} for version in (3, 4, 5)
    ]


def lost_in_the_log(left):
    left.events(lambda lines: lines[:3] + lines[4:])


def lost_in_the_records(left):
    path = left.folder / "records.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def lost_and_computed_otherwise(left):
    left.entries[left.index("sent task", -1, version=4)]["hash"] = "another"
    left.entries.append({**left.entries[left.index("sent task", version=4)], "hash": "yet another"})


def merged_twice(left):
    def change(lines):
        told = next(e["happened"] for e in lines[2]["told"] if "happened" in e and 1 in e["happened"][0])
        first = told[0].index(1)  # an arrival; an agent that is back may come before it
        lines[4]["told"].append({"happened": [column[first : first + 1] for column in told]})
        return lines

    left.events(change)


def merged_without_having_come(left):
    found = checker.arrivals(checker.events_of(left.folder)[2][1])[0]
    left.entries[:] = [
        entry
        for entry in left.entries
        if entry["what"] != "came update" or (entry["agent"], entry["job"]) != (f"site-{found[0]}", found[1])
    ]


def announced_before_it_was_stored(left):
    stored = left.entries.pop(left.index("disk", version=4))
    left.entries.insert(left.index("sent task", version=4) + 1, stored)


def other_bytes(left):
    sent = left.entries[left.index("left update", 3)]
    left.entries.append({**sent, "hash": "another"})


def left_without_a_line(left):
    path = left.sites[1] / "sent.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-4]))


def a_changed_line(left):
    path = left.sites[1] / "sent.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[2].replace(b'"bytes": ', b'"bytes": 1'), *lines[3:]]))


def one_bit_of_a_parameter(left):
    path = left.folder / "params.safetensors"
    arrays = {name: np.array(array) for name, array in safetensors.numpy.load(path.read_bytes()).items()}
    first = arrays[min(arrays)].reshape(-1).view(np.uint32)
    first[0] ^= 1
    path.write_bytes(safetensors.numpy.save(arrays))


def another_arrival(left):
    """The log leaves out an agent whose update was merged."""

    def change(lines):
        for entry in lines[6]["told"]:
            if "happened" in entry and len(entry["happened"][0]) > 1:
                entry["happened"] = [column[:-1] for column in entry["happened"]]
        return lines

    left.events(change)


def stuck(left):
    left.entries.append({"what": "stuck", "version": 5})


PLANTED = {
    lost_on_restart: checker.LOST,
    lost_and_computed_again: checker.LOST,
    lost_in_the_log: checker.LOST,
    lost_in_the_records: checker.LOST,
    lost_and_computed_otherwise: checker.LOST,
    merged_twice: checker.TWICE,
    merged_without_having_come: checker.UNSEEN,
    announced_before_it_was_stored: checker.EARLY,
    other_bytes: checker.BYTES,
    left_without_a_line: checker.UNLOGGED,
    a_changed_line: checker.UNLOGGED,
    one_bit_of_a_parameter: checker.PARAMETERS,
    another_arrival: checker.PARAMETERS,
    stuck: checker.STUCK,
}


def test_a_run_that_is_fine_has_no_violation(left):
    assert left.check() == []
    counted = {what: sum(entry["what"] == what for entry in left.entries) for what in ("disk", "sent task", "fault")}
    assert counted["disk"] >= left.tables["rounds"]
    assert counted["sent task"] >= 2 * left.tables["rounds"]
    assert counted["fault"] == FAULTS


def test_every_invariant_is_violated_once():
    assert set(PLANTED.values()) == set(checker.INVARIANTS)


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_violation_is_caught(plant, left):
    plant(left)
    found = left.check()
    assert any(each.startswith(PLANTED[plant]) for each in found), found


def test_by_the_log_of_a_site_a_job_has_one_update_in_one_life_of_the_coordinator(tmp_path):
    lines = [{"kind": "Sent", "job": 3, "hash": update, "time": second} for update, second in (("a", 1.0), ("b", 5.0))]
    (tmp_path / "sent.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    begun = [{"what": "started", "time": second} for second in (0.0, 4.0)]
    assert checker.bytes_logged([tmp_path], begun) == []
    (found,) = checker.bytes_logged([tmp_path], begun[:1])
    assert found.startswith(checker.BYTES)
