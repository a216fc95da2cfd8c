"""Files that are replaced as a whole."""

import os
import stat
from pathlib import Path

import pytest

from fedrl.core import durable


def test_the_content_is_replaced_and_no_draft_stays(tmp_path: Path) -> None:
    path = tmp_path / "state"
    durable.replace(path, b"one")
    durable.replace(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_mode_does_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        durable.replace(tmp_path / "key", b"", 0o600)
        durable.replace(tmp_path / "public", b"", 0o644)
        durable.replace(tmp_path / "other", b"")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("key", "public", "other")]
    assert modes == [0o600, 0o644, 0o666 & ~umask]


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_the_old_content_stays_if_the_new_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "state"
    durable.replace(path, b"old")

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    if step == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        durable.replace(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_on_the_disk_before_its_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        steps.append("name")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    durable.replace(tmp_path / "state", b"new")
    assert steps == ["file", "name", "folder"]


def test_drafts_of_a_killed_process_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".state.12ab.draft", "state", ".other"):
        (tmp_path / name).touch()
    durable.tidy(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other", "state"]


def test_what_has_to_be_done_before_is_done_when_the_content_is_on_the_disk_and_not_in_place(tmp_path: Path) -> None:
    path, seen = tmp_path / "state", list[bytes]()
    durable.replace(path, b"old")

    def before() -> None:
        (draft,) = tmp_path.glob(".*.draft")
        seen.extend((path.read_bytes(), draft.read_bytes()))

    durable.replace(path, b"new", before=before)
    assert seen == [b"old", b"new"]
    assert path.read_bytes() == b"new"
