"""A sink that writes TensorBoard events (extra `tensorboard`)."""

from __future__ import annotations

from pathlib import Path

from fedrl.config.checking import check_installed
from fedrl.records import Event, Sink
from fedrl.records.measured import values_of


def tensorboard(folder: Path | str) -> Sink:
    """Return a sink that writes all measures of every seed and method, against environment steps.

    Args:
        folder: Folder of the events, with a folder in it for each method and seed; in a study, for each setting first.

    Raises:
        ConfigError: The extra is not installed.
    """
    check_installed()
    from tensorboardX import SummaryWriter

    home = Path(folder)
    writers: dict[Path, SummaryWriter] = {}

    def write(event: Event) -> None:
        # Settings of a study may run at the same time.
        number = event.get("setting")
        place = home if number is None else home / str(number)
        if event.get("event") == "end":
            for path in [path for path in writers if path.is_relative_to(place)]:
                writers.pop(path).close()
        if "event" in event:
            return
        # A folder per method and seed: TensorBoard then shows them as separate curves.
        path = place / event["method"] / f"seed{event['seed']}"
        if path not in writers:
            writers[path] = SummaryWriter(str(path))
        for label, value in values_of(event).items():
            if value is not None:
                writers[path].add_scalar(label, value, event["environment_steps"])

    return write
