"""Run folders: nobody gets another's, files are whole or as they were, and what is damaged is told in a sentence."""

import os
import resource
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from fedrl.core import durable
from fedrl.core.errors import FedrlError, RunError
from fedrl.records import checkpoint, folder
from fedrl.records.files import read_records, write_atomically
from fedrl.records.folder import EVENTS, RECORDS, RunFolder
from fedrl.studies import folder as studies

PROCESSES, TRIES = 4, 10
LINE = '{"method": "federated", "seed": 0, "round": %d, "bytes_up": %d}\n'


def _at_once(make: object) -> list[str]:
    """What each of several callers gets in the same moment."""
    barrier = threading.Barrier(PROCESSES, timeout=60)

    def one(i: int) -> str:
        barrier.wait()
        try:
            with folder.create(*make(), f"who = {i}") as place:  # type: ignore[operator]
                got = place.path
                barrier.wait()
                assert (got / "config.toml").read_text() == f"who = {i}"
                return str(got)
        except RunError as fault:
            barrier.wait()
            return f"refused: {fault}"

    with ThreadPoolExecutor(PROCESSES) as pool:
        return list(pool.map(one, range(PROCESSES)))


def test_runs_of_the_same_moment_get_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(TRIES):
        got = _at_once(lambda: (None, "same"))
        assert len(set(got)) == PROCESSES
        assert all(path.startswith("runs/same-") for path in got)


def test_a_folder_that_several_ask_for_goes_to_one(tmp_path: Path) -> None:
    for i in range(TRIES):
        got = _at_once(lambda i=i: (tmp_path / str(i), "same"))
        assert got.count(str(tmp_path / str(i))) == 1
        assert sum("is in use by process" in said for said in got) == PROCESSES - 1


def test_a_failure_before_the_first_round_leaves_nothing_and_one_after_it_everything(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep")
    for out in (tmp_path / "new", mine):
        with pytest.raises(KeyError), folder.create(out, "x", "a = 1"):
            raise KeyError
    assert not (tmp_path / "new").exists()
    assert [path.name for path in mine.iterdir()] == ["notes.txt"]
    place = folder.create(tmp_path / "new", "x", "a = 1")
    place.append({"round": 1})
    place.__exit__(KeyError)
    assert {path.name for path in place.path.iterdir()} == {"config.toml", "records.jsonl", "checkpoints"}
    with pytest.raises(RunError, match="already holds a run"):
        folder.create(tmp_path / "new", "x", "a = 1")


def test_what_is_left_of_another_run_is_not_mixed_with_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    folder.create(tmp_path, "x", "a = 1").__exit__(None)  # empty, so of a run that was killed before it began
    (tmp_path / "config.toml").unlink()
    (tmp_path / "checkpoints" / "federated-0.safetensors").touch()
    with pytest.raises(RunError, match="can't be written to"):
        folder.create(tmp_path, "x", "a = 1")
    (tmp_path / "records.jsonl").write_text(LINE % (1, 5))
    with pytest.raises(RunError, match=r"records\.jsonl of a run whose config\.toml is gone"):
        folder.create(tmp_path, "x", "a = 1")
    assert (tmp_path / "checkpoints" / "federated-0.safetensors").exists()
    assert (tmp_path / "records.jsonl").read_text() == LINE % (1, 5)


@contextmanager
def disk_of(size_bytes: int) -> Iterator[None]:
    """No file gets longer than this, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_on_a_full_disk_a_file_stays_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    with (
        disk_of(1000),
        pytest.raises(RunError, match=r"report.html can't be written to \(File too large\)\. Free space"),
    ):
        write_atomically(path, b"x" * 2000)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_on_a_full_disk_a_record_is_written_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    place = RunFolder(tmp_path)
    place.append({"round": 1})
    with disk_of(30), pytest.raises(RunError, match=r"records\.jsonl can't be written to \(File too large\)"):
        place.append({"round": 2, "method": "federated"})
    assert (tmp_path / "records.jsonl").read_text() == '{"round": 1}\n'


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("old")
    run = tmp_path / "run"
    run.mkdir()
    for name in ("summary.json", "records.jsonl"):
        (run / name).symlink_to(tmp_path / "outside")
    write_atomically(run / "summary.json", b"new")
    assert (run / "summary.json").read_text() == "new"
    with pytest.raises(RunError, match="is a link to"):
        RunFolder(run).append({"round": 1})
    assert (tmp_path / "outside").read_text() == "old"


def test_links_stay_links_and_what_is_no_file_is_written_to_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(tmp_path / "pipe", b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)


def test_records_tell_what_is_wrong_with_them(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    assert read_records(path).records == []
    torn = LINE[:30]
    path.write_text(
        LINE % (1, 5)
        + LINE % (2, 5)
        + "garbage\n3\n"
        + '{"method": "federated", "seed": 0, "round": "1"}\n'
        + LINE % (1, 7)
        + torn
    )
    found = read_records(path)
    assert [(r["round"], r["bytes_up"]) for r in found.records] == [(2, 5), (1, 7)]
    assert (found.doubled, found.unreadable, found.torn) == (1, 3, True)
    assert [note.split(" could")[0].split(" left")[0] for note in found.notes()] == [
        "3 lines of records.jsonl",
        "1 line of records.jsonl",
    ]
    path.write_text(LINE % (1, 5) + torn)
    assert read_records(path).notes() == []
    assert read_records(path).notes(torn=True) == ["1 line of records.jsonl could not be read; left out."]


def _checkpoint_of(path: Path, cut: int | None = None) -> None:
    checkpoint.save(path, {"w": np.ones(64)}, 3)
    path.write_bytes(path.read_bytes()[:cut])


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[1, 2", b"3"])
def test_damaged_files_are_one_sentence_with_a_cure(tmp_path: Path, content: bytes) -> None:
    place = RunFolder(tmp_path)
    for name in ("summary.json", "params.safetensors", "study.json", "checkpoint"):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "study.toml").write_text('name = "x"\n[study.grid]\nrounds = [1]\n')
    for name, read in {
        "summary.json": place.summary,
        "params.safetensors": place.params,
        "study.json": studies.open_folder(tmp_path).read,
        "checkpoint": lambda: checkpoint.round_of(tmp_path / "checkpoint"),
    }.items():
        with pytest.raises(
            FedrlError, match=rf"{name} is damaged \(.*\), as after a full disk.*(Copy it again|Delete it)"
        ):
            read()


def test_a_checkpoint_cut_short_is_damaged_and_not_of_another_experiment(tmp_path: Path) -> None:
    _checkpoint_of(tmp_path / "whole")
    assert checkpoint.round_of(tmp_path / "whole") == 3
    assert checkpoint.round_of(tmp_path / "none") == 0
    _checkpoint_of(tmp_path / "cut", 400)
    for read in (checkpoint.round_of, lambda path: checkpoint.load(path, {"w": np.ones(64)})):
        with pytest.raises(RunError, match=r"cut is damaged .* Delete it; this seed of the method then starts anew\."):
            read(tmp_path / "cut")


def test_a_checkpoint_replaces_the_one_before_when_records_and_events_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, path, happened = RunFolder(tmp_path), tmp_path / "checkpoint", list[str]()
    for name in (RECORDS, EVENTS):
        (tmp_path / name).write_text("a line\n")
    rename = Path.replace

    def slow(file: Path) -> None:
        time.sleep(0.2)
        happened.append(file.name)

    def replace(draft: Path, target: Path) -> Path:
        happened.append(target.name)
        return rename(draft, target)

    monkeypatch.setattr(durable, "sync", slow)
    monkeypatch.setattr(Path, "replace", replace)
    checkpoint.save(path, {"w": np.ones(2)}, 1, place.syncing())
    assert (sorted(happened[:2]), happened[2:]) == ([EVENTS, RECORDS], ["checkpoint"])

    def full(file: Path) -> None:
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr(durable, "sync", full)
    with pytest.raises(RunError, match="No space left on device"):
        checkpoint.save(path, {"w": np.ones(2)}, 2, place.syncing())
    assert checkpoint.round_of(path) == 1
    assert not list(tmp_path.glob(".*.draft"))
