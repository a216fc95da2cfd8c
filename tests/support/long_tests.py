"""Which tests are long: those of tests/long.txt, which `make test` leaves to `make test-long`.

One line per test function whose cases and fixtures took more than three seconds together in a run of everything on two
cores: `python -m tests.support.long_tests DURATIONS > tests/long.txt`, of the output of `pytest --durations=0`. So what
`make test` takes grows with the number of functions, not with their cases. A file stands there as a whole where all of
its tests wait for one long fixture.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import pytest

LIST, SECONDS = Path(__file__).parents[1] / "long.txt", 3.0


def listed() -> set[str]:
    """The test functions that are long, by file and name."""
    return set(LIST.read_text().split())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them."""
    long = listed()
    for item in items:
        name = without_parameters(item.nodeid)
        if name in long or name.split("::", maxsplit=1)[0] in long:
            item.add_marker(pytest.mark.long)


def without_parameters(nodeid: str) -> str:
    """The test function of a test."""
    return nodeid.split("[", maxsplit=1)[0]


def measured(durations: str) -> list[str]:
    """The test functions that took so long, all cases and fixtures together, of what pytest printed."""
    taken: Counter[str] = Counter()
    for seconds, name in re.findall(r"^([\d.]+)s (?:call|setup|teardown) +(tests/\S+?\.py::[\w:]+)", durations, re.M):
        taken[name] += float(seconds)
    return sorted(name for name, seconds in taken.items() if seconds > SECONDS)


if __name__ == "__main__":
    print("\n".join(measured(Path(sys.argv[1]).read_text())))
