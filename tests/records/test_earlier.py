"""Run folders of earlier versions: their keys are read as those of today."""

import json

from fedrl.records.files import read_json, read_records


def test_records_and_summaries_of_earlier_versions_have_the_keys_of_today(tmp_path):
    round_of = {
        "method": "federated",
        "seed": 0,
        "round": 1,
        "refused": 1,
        "refusals": {"lost": [2]},
        "lost": 3,
        "late": 0,
    }
    (tmp_path / "records.jsonl").write_text(json.dumps(round_of | {"admitted": [1], "measures": {"late": 0.5}}) + "\n")
    (record,) = read_records(tmp_path / "records.jsonl").records
    assert record["rejected"] == 1
    assert (record["dropped"], record["cancelled"], record["selected"]) == (3, 0, [1])
    assert record["measures"] == {"late": 0.5}  # a name that a user chose
    (tmp_path / "summary.json").write_text(
        json.dumps({"alarms": [{"kind": "federation_hurts", "cures": ["personal"]}]})
    )
    summary = read_json(tmp_path / "summary.json", "")
    assert summary == {"warnings": [{"kind": "federation_hurts", "remedies": ["personal"]}]}
