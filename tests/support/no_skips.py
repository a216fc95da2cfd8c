"""A plugin of pytest: a test that is skipped has failed, unless `--allow-skips` says otherwise.

What a test needs is in the dependency group `test`, so nothing is missing where tests run as they should.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

import pytest

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--allow-skips", action="store_true", help="let tests be skipped; without it they fail")


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("allow_skips"):
        config.pluginmanager.register(NoSkips(), "no-skips")


class NoSkips:
    """Turns skipped tests, and skipped files, into failed ones. Tests that are expected to fail stay what they are."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, Any, pytest.TestReport]:
        return failed((yield))

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Generator[None, Any, pytest.CollectReport]:
        return failed((yield))


def failed(report: Report) -> Report:
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped ({reason}), which counts as a failure without --allow-skips."
    return report
