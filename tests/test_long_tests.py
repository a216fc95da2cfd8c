"""The list of long tests names tests that there are."""

import re
from pathlib import Path

from tests.support.long_tests import listed, measured, without_parameters

HERE = Path(__file__).parent


def test_every_long_test_is_there():
    for name in listed():
        path, *rest = name.split("::")
        assert (HERE.parent / path).is_file(), name
        function = rest[-1] if rest else "test_"
        assert re.search(rf"def {function}", (HERE.parent / path).read_text()), name


def test_a_test_is_long_by_all_its_cases_and_fixtures_together():
    printed = """
5.01s call     tests/a/test_x.py::test_one[a-b]
0.10s call     tests/a/test_x.py::test_two
1.60s call     tests/a/test_x.py::test_four[1]
1.60s call     tests/a/test_x.py::test_four[2]
3.50s setup    tests/a/test_x.py::TestKind::test_three
9.00s call     src/fedrl/x.py::fedrl.x.y
"""
    named = ["TestKind::test_three", "test_four", "test_one"]
    assert measured(printed) == [f"tests/a/test_x.py::{name}" for name in named]
    assert without_parameters("tests/a/test_x.py::test_one[a-b]") == "tests/a/test_x.py::test_one"
