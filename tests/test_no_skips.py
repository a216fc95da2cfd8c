"""A suite in which tests are skipped does not pass."""

import os
import subprocess
import sys
from pathlib import Path

SKIPPED = {
    "test_call": "import pytest\ndef test_it(): pytest.skip('no reason')",
    "test_mark": "import pytest\n@pytest.mark.skip(reason='no reason')\ndef test_it(): pass",
    "test_file": "import pytest\npytest.importorskip('a_package_that_is_not_there')",
    "shown": "'''\n>>> import nothing  # doctest: +SKIP\n'''",
}
FINE = {"test_fine": "import pytest\ndef test_it(): pass\n@pytest.mark.xfail\ndef test_other(): assert False"}


def run(folder: Path, files: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    for name, source in files.items():
        (folder / f"{name}.py").write_text(source)
    (folder / "conftest.py").write_text("from tests.support.no_skips import pytest_addoption, pytest_configure")
    (folder / "pytest.ini").write_text(f"[pytest]\npythonpath = {Path(__file__).parents[1]}\n")
    command = [sys.executable, "-m", "pytest", "--doctest-modules", "--continue-on-collection-errors", *options, "."]
    alone = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, cwd=folder, env=alone, capture_output=True, text=True, check=False)


def test_every_skipped_test_fails_and_says_why(tmp_path: Path) -> None:
    done = run(tmp_path, SKIPPED)
    assert done.returncode == 1, done.stdout
    told = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    assert {name for name in SKIPPED for line in told if f"{name}.py" in line} == set(SKIPPED)
    assert done.stdout.count("counts as a failure without --allow-skips") >= len(SKIPPED)
    assert " skipped in " not in done.stdout


def test_skips_can_be_allowed(tmp_path: Path) -> None:
    done = run(tmp_path, SKIPPED, "--allow-skips")
    assert done.returncode in (0, 5), done.stdout  # 5: nothing was run
    assert " skipped in " in done.stdout


def test_what_passes_or_is_expected_to_fail_still_does(tmp_path: Path) -> None:
    done = run(tmp_path, FINE)
    assert done.returncode == 0, done.stdout
    assert "1 passed, 1 xfailed in" in done.stdout
