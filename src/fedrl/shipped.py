"""The examples that come with fedrl: experiments in TOML, and one in Python. No JAX is imported here.

fedrl run cartpole --taken--> the file `cartpole`, if there is one; else examples/cartpole.toml of the package
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

FOLDER = Path(__file__).parent / "examples"
TEMPLATES = FOLDER / "templates"
"""What `fedrl init` writes."""


def examples() -> dict[str, Path]:
    """Return the path of each shipped example, keyed by name: experiments first, then Python programs.

    >>> examples()["cartpole"].name, examples()["cartpole.py"].name
    ('cartpole.toml', 'cartpole.py')
    """
    experiments, programs = sorted(FOLDER.glob("*.toml")), sorted(FOLDER.glob("*.py"))
    return {path.stem: path for path in experiments} | {path.name: path for path in programs}


def taken(source: Path) -> Path:
    """Return the file that a command means: the file of this path, or else the shipped experiment of this name.

    >>> taken(Path("cartpole")).name
    'cartpole.toml'
    """
    if source.is_file():
        return source
    shipped = examples().get(str(source))
    return shipped if shipped is not None and shipped.suffix == ".toml" else source


def purpose(path: Path) -> str:
    """Return the first sentence of an example's opening comment or docstring.

    >>> purpose(examples()["cartpole.py"])
    'Run the experiment of cartpole.toml from Python.'
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        opening = ast.get_docstring(ast.parse(text)) or ""
    else:
        opening = re.split(r"^(?!# \S)", text, maxsplit=1, flags=re.MULTILINE)[0].replace("# ", "")
    return re.split(r"(?<=\.) ", " ".join(opening.split()), maxsplit=1)[0]
