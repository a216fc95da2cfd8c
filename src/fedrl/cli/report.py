"""`fedrl report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer


def report_command(folders: Sequence[Path], out: Path | None, public: bool = False) -> None:
    """Write the report page and print its path."""
    from fedrl.core.errors import ConfigError
    from fedrl.records import folder
    from fedrl.report import write_report
    from fedrl.studies.folder import is_study
    from fedrl.studies.scaling.scale_result import ScaleResult, is_scale

    if public and len(folders) == 1 and (is_study(folders[0]) or is_scale(folders[0])):
        raise ConfigError(f"{folders[0]} is no run. --public is for the report of a single run with a privacy budget.")
    if len(folders) == 1 and is_study(folders[0]):
        from fedrl.studies.page import write_study_report

        typer.echo(write_study_report(folders[0], out))
        return
    if len(folders) == 1 and is_scale(folders[0]):
        from fedrl.studies.scaling.page import write_scale_report

        target = out or folders[0] / folder.REPORT
        typer.echo(write_scale_report(ScaleResult.read(folders[0]).scale, target))
        return
    # Check every folder before rendering: a wrong path then fails at once.
    for path in folders:
        folder.open_folder(path)
    if public and out is None:
        raise ConfigError(
            "--public needs --out FILE: a public report is a file of its own, beside the report of the run."
        )
    target = out or (folders[0] / folder.REPORT if len(folders) == 1 else Path("comparison.html"))
    typer.echo(write_report(list(folders), target, public=public))
