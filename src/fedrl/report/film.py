"""The card of the film of a run."""

from __future__ import annotations

import base64

from fedrl.records.folder import FILM, FILM_BYTES
from fedrl.records.formatting import short
from fedrl.report.markup import Markup, element
from fedrl.report.run import Run
from fedrl.report.shell import card

MAGIC = (b"GIF87a", b"GIF89a")


def film_card(run: Run) -> Markup | None:
    """Return the card of the film, or of the reason why there is none; None for a run that wanted none."""
    told = run.summary.get("film")
    if not isinstance(told, dict):
        return None
    if "skipped" in told:
        return card("Film", element("p", f"There is no film: {told['skipped']}", class_="note"))
    path = run.folder / FILM
    content = path.read_bytes() if path.is_file() and path.stat().st_size <= FILM_BYTES else b""
    if not content.startswith(MAGIC):
        return card("Film", element("p", f"{FILM} is missing or damaged.", class_="note"))
    about = (
        f"One greedy episode: the policy of seed {told.get('seed')} in the environment of agent {told.get('agent')}. "
        f"Its return is {short(told.get('return'))} in {told.get('steps')} steps."
    )
    source = f"data:image/gif;base64,{base64.b64encode(content).decode()}"
    return card("Film", element("img", src=source, alt="The agent acts in its environment.", class_="film"), about)
