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
    writers: dict[str, SummaryWriter] = {}

    def write(event: Event) -> None:
        nonlocal home
        if event.get("event") == "setting":
            home = Path(folder) / str(event["number"])  # type: ignore[typeddict-item]
        if event.get("event") == "end":
            for writer in writers.values():
                writer.close()
            writers.clear()
        if "event" in event:
            return
        name = f"{event['method']}/seed{event['seed']}"
        # A folder per method and seed: TensorBoard then shows them as separate curves.
        if name not in writers:
            writers[name] = SummaryWriter(str(home / name))
        for label, value in values_of(event).items():
            if value is not None:
                writers[name].add_scalar(label, value, event["environment_steps"])

    return write
