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


def test_a_test_is_long_by_its_slowest_case_and_by_its_fixtures():
    printed = """
5.01s call     tests/a/test_x.py::test_one[a-b]
0.10s call     tests/a/test_x.py::test_two
3.50s setup    tests/a/test_x.py::TestKind::test_three
9.00s call     src/fedrl/x.py::fedrl.x.y
"""
    assert measured(printed) == ["tests/a/test_x.py::TestKind::test_three", "tests/a/test_x.py::test_one"]
    assert without_parameters("tests/a/test_x.py::test_one[a-b]") == "tests/a/test_x.py::test_one"
