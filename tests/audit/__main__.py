"""Count the alarms of an audit over right and wrong mechanisms: `python -m tests.audit [--seeds 20] [--runs 8000]`.

Every line is printed as it is measured. With `--document FILE`, the table in that file is replaced.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from fedrl.audit.driver import Driver
from fedrl.audit.mechanism import REFUTED, MechanismAudit, audit_mechanism
from fedrl.launch import configure_jax
from fedrl.privacy.extra import accounting
from fedrl.privacy.pricing import Price, calibrated

DELTA, RATE = 1e-3, 0.5
BEGIN, END = "<!-- make audit -->", "<!-- end of make audit -->"


class Setting(NamedTuple):
    """A claim, and the mechanism that makes it."""

    epsilon: float
    multiplier: float
    rounds: int
    rate: float
    faults: tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--runs", type=int, default=8000)
    parser.add_argument("--document", type=Path)
    given = parser.parse_args()
    configure_jax()
    from tests.audit import faults

    began, cpu, rows, wrong = time.perf_counter(), time.process_time(), [], []
    for setting in settings():
        for fault in setting.faults:
            row, alarms = measured(setting, fault, given.runs, given.seeds)
            print(row, flush=True)
            rows.append(row)
            if alarms > given.seeds // 20 if fault == faults.CORRECT else alarms < given.seeds:
                wrong.append(row)
    minutes, minutes_cpu = (time.perf_counter() - began) / 60, (time.process_time() - cpu) / 60
    whole = f"{minutes:.1f} minutes, {minutes_cpu:.1f} minutes of processor time"
    print(whole)
    if given.document is not None:
        document(given.document, rows, given.runs, given.seeds, whole)
    sys.exit(f"Not as expected: {len(wrong)} of {len(rows)} rows." if wrong else 0)


def settings() -> list[Setting]:
    from tests.audit import faults

    plain = (faults.CORRECT, "half noise", "noise x 0.8", "no clip", "clip of each layer", "no noise")
    plain = (*plain, "noise divided by K")
    found = [
        Setting(3.14, 1.0, 1, 1.0, plain),
        Setting(8.0, 1.518, 10, 1.0, (*plain, faults.ONE_KEY, faults.SHARED)),
    ]
    for epsilon, rounds in ((3.14, 2), (8.0, 2)):
        multiplier = calibrated(epsilon, DELTA, rounds, sampled_price)
        found.append(Setting(epsilon, multiplier, rounds, RATE, (faults.CORRECT, faults.ALWAYS_SAMPLED)))
    return found


def sampled_price(multiplier: float) -> Price:
    kinds = accounting()
    return Price((kinds.PoissonSampledDpEvent(RATE, kinds.GaussianDpEvent(multiplier)),), "add-remove", "agent")


def measured(setting: Setting, fault: str, runs: int, seeds: int) -> tuple[str, int]:
    """A row of the table: the alarms of all seeds, none left out."""
    from tests.audit import faults

    began = time.perf_counter()
    mechanism = faults.mechanism(fault, setting.multiplier, setting.rate)
    driver = Driver(mechanism)
    with faults.one_key_for_all_rounds() if fault == faults.ONE_KEY else contextlib.nullcontext():
        found = [
            audit_mechanism(mechanism, setting.rounds, DELTA, runs=runs, seed=seed, driver=driver)
            for seed in range(seeds)
        ]
    alarms = sum(each.verdict == REFUTED for each in found)
    bounds = [each.measured for each in found]
    cells = (
        f"{found[0].claimed:.2f}",
        f"z = {setting.multiplier:.3f}, T = {setting.rounds}, q = {setting.rate:g}",
        fault,
        f"{alarms} of {seeds}",
        by_check(found),
        f"{min(bounds):.2f} to {max(bounds):.2f}",
        f"{(time.perf_counter() - began) / seeds:.1f}",
    )
    return f"| {' | '.join(cells)} |", alarms


def by_check(found: list[MechanismAudit]) -> str:
    names = [check.name for check in found[0].checks]
    counts = [sum(each.checks[i].refuted for each in found) for i in range(len(names))]
    return ", ".join(f"{name} {count}" for name, count in zip(names, counts, strict=True))


def document(path: Path, rows: list[str], runs: int, seeds: int, whole: str) -> None:
    """Replace the table between the two marks in a file."""
    head = "| claimed epsilon | mechanism | fault | refuted | by | measured epsilon | seconds each |"
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    said = (
        f"Measured on {datetime.date.today().isoformat()} at commit {commit}, {runs:,} runs a side, seeds 0 to "
        f"{seeds - 1}, in {whole}."
    )
    table = "\n".join([head, "|---|---|---|---|---|---|---|", *rows])
    before, rest = path.read_text().split(BEGIN)
    after = rest.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n{said}\n\n{table}\n{END}{after}")


if __name__ == "__main__":
    main()
