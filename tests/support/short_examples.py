"""Run every shipped example, shortened, in one process: `python short_examples.py FOLDER`, a run folder for each.

What goes wrong is written to `NAME.error`, so that one example does not hide another.
"""

import runpy
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fedrl
from fedrl.shipped import examples

ROUNDS = 4  # the least in which the root of hierarchy.toml merges
SHORT = [f"rounds={ROUNDS}", "seeds=1", "evaluation.episodes=2", "evaluation.every=0"]
run = fedrl.run


def shortened(out: Path) -> Callable[[Any], Any]:
    return lambda source: run(source, out, overrides=SHORT)


def main(folder: Path) -> None:
    for path in examples().values():
        name = path.name.replace(".", "-")
        fedrl.run = shortened(folder / name)
        try:
            if path.suffix == ".py":
                runpy.run_path(str(path))
            else:
                fedrl.run(path)
        except BaseException:
            (folder / f"{name}.error").write_text(traceback.format_exc())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
