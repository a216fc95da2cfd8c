"""A sink that writes TensorBoard events (extra `tensorboard`)."""

from __future__ import annotations

from pathlib import Path

from fedrl.config.checking import check_installed
from fedrl.records import Event, Sink
from fedrl.records.measured import OWN_KEYS, value_in


def tensorboard(folder: Path) -> Sink:
    """Return a sink that writes all measures of every seed and method, against environment steps.

    Raises:
        ConfigError: The extra is not installed.
    """
    check_installed()
    from tensorboardX import SummaryWriter

    writers: dict[str, SummaryWriter] = {}

    def write(event: Event) -> None:
        if event.get("event") == "end":
            for writer in writers.values():
                writer.close()
        if "event" in event:
            return
        name = f"{event['method']}/seed{event['seed']}"
        # A folder per method and seed: TensorBoard then shows them as separate curves.
        if name not in writers:
            writers[name] = SummaryWriter(str(folder / name))
        steps = event["environment_steps"]
        greedy = event.get("greedy") or []
        known = [value for value in greedy if value is not None]
        values = {
            **{name: value_in(event, name) for name in OWN_KEYS},
            "greedy": sum(known) / len(known) if known else None,
            **event.get("measures", {}),
            **{f"greedy_{name}": value for name, value in event.get("greedy_measures", {}).items()},
        }
        for label, value in values.items():
            if value is not None:
                writers[name].add_scalar(label, value, steps)

    return write
