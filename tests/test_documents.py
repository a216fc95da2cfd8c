"""Every code block of the README and of the documents runs: Python, TOML and commands.

Commands run with few rounds. Those of the README and the quickstart run as they are, in `make test-quickstart`.
"""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import fedrl
from fedrl.aggregators import mean
from fedrl.cli import app
from fedrl.config import load
from fedrl.config.build import build
from fedrl.config.catalogue import fill
from fedrl.core.component import CATALOGUE
from fedrl.environments import cartpole
from fedrl.learners import ppo
from fedrl.shipped import examples
from fedrl.stages import clip, uniform_quantize
from tests.support.blocks import ROOT, Block, blocks, blocks_in
from tests.support.made_policies import made_policy

BLOCKS = blocks()
NOT_RUN = 23
"""How many blocks say why they can't run."""
INSTALLED = ("README.md", "docs/quickstart.md")
"""Documents whose commands `make test-quickstart` runs, in order."""
STORIES = ("docs/own-environment.md", "docs/own-parts.md")
"""Documents whose Python and commands run in order, in one folder."""
MADE = {"cartpole": "softmax", "pole": "softmax", "pendulum": "normalised", "personal": "personal"}
"""Run folders that blocks take for granted, and what is made for each."""
SHORT = ["--set", "rounds=1", "--set", "seeds=1", "--set", "evaluation.episodes=1", "--set", "baselines={}"]
COMMAND = f"""#!{sys.executable}
import sys
from fedrl.cli import main
short = {SHORT!r} if sys.argv[1] in ("run", "sweep") else []
sys.argv[1:] = [*sys.argv[1:], *short]
main()
"""
"""`fedrl`, with few rounds."""


def of(language: str) -> list[Any]:
    return [pytest.param(b, id=b.name) for b in BLOCKS if b.language == language and not b.reason]


@pytest.fixture
def own_catalogue():
    """What the shown code adds to the catalogue is gone afterwards."""
    fill()
    before = dict(CATALOGUE)
    yield
    CATALOGUE.clear()
    CATALOGUE.update(before)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory, from which Python imports."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:  # modules that a document shows
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def prepare(folder: Path, block: Block) -> None:
    """Save the files that the document shows, and make the run folders that a block reads."""
    for other in BLOCKS:
        if other.title and other.document == block.document:
            (folder / other.title).write_text(other.code)
    for name in set(re.findall(r"runs/(\w+)", block.code)) & set(MADE):
        made_policy(folder / "runs" / name, MADE[name])


@pytest.mark.parametrize("block", [b for b in of("python") if not b.id.startswith(STORIES)])
@pytest.mark.filterwarnings("ignore:JAX's backend already runs:RuntimeWarning")
def test_shown_python_runs(block, capsys, folder, own_catalogue):
    prepare(folder, block)
    names = {"federate": fedrl.federate, "mean": mean, "clip": clip, "ppo": ppo, "cartpole": cartpole}
    exec(block.code.replace("range(60)", "range(1)"), names)
    if "simulation.round(" in block.code and "print(" in block.code:
        assert 10 < float(capsys.readouterr().out) < 60  # what an untrained policy holds out


@pytest.mark.parametrize("block", of("toml"))
def test_shown_settings_build(block, folder, own_catalogue):
    """A fragment is meant for the first example: the sections it has go over those that are there."""
    prepare(folder, block)
    data: Any = folder / block.title
    if not block.title:
        data = tomllib.loads(examples()["cartpole"].read_text())
        for section, keys in tomllib.loads(block.code).items():
            data[section] = data[section] | keys if section == "federation" else keys
    assert build(load(data)).methods[0].communicates


@pytest.mark.parametrize("block", [b for b in of("bash") if not b.id.startswith(INSTALLED + STORIES)])
def test_shown_commands_run(block, folder):
    prepare(folder, block)
    carry_out(["bash", "-euo", "pipefail", "-c", block.code], folder)


@pytest.mark.parametrize("document", STORIES)
def test_a_document_runs_from_its_first_block_to_its_last(document, folder):
    told = [block for block in BLOCKS if block.document == document and not block.reason]
    assert len(told) >= 5
    for block in told:
        prepare(folder, block)
        if block.language == "python":
            carry_out([sys.executable, "-c", block.code.replace('"rounds": 30', '"rounds": 1, "seeds": 1')], folder)
        if block.language == "bash":
            carry_out(["bash", "-euo", "pipefail", "-c", block.code], folder)


def carry_out(command: list[str], folder: Path) -> None:
    """Run a command in a folder, in which `fedrl` has few rounds."""
    program = folder / "bin" / "fedrl"
    program.parent.mkdir(exist_ok=True)
    program.write_text(COMMAND)
    program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{program.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # there is much to compile and little to compute
    }
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_block_says_what_it_is():
    assert {b.name: b.language for b in BLOCKS if b.language not in ("python", "toml", "bash", "text")} == {}


def test_a_block_that_is_not_run_says_why():
    excused = [b for b in BLOCKS if b.reason]
    assert len(excused) == NOT_RUN, [b.name for b in excused]
    assert all(b.language in ("python", "toml", "bash") and len(b.reason) > 10 for b in excused)


def test_the_first_page_leads_to_every_other_one():
    first, pages = (ROOT / "docs" / "index.md").read_text(), (ROOT / "docs").rglob("*.md")
    named = {path.relative_to(ROOT / "docs").as_posix() for path in pages} - {"index.md"}
    assert [name for name in sorted(named) if f"]({name})" not in first] == []


def test_there_is_code_to_run():
    counts = Counter(b.language for b in BLOCKS if not b.reason)
    assert counts["python"] >= 15
    assert counts["toml"] >= 25
    assert counts["bash"] >= 12


def test_no_command_hides_in_an_indented_block():
    shown = r"^\n    (?:\$ )?(?:fedrl|python|make|pip|git) "
    found = [p for p in {*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")} if re.search(shown, p.read_text(), re.M)]
    assert found == []


def test_blocks_are_found_with_their_title_and_reason():
    text = (
        '<!-- not run: no GPU here -->\n```bash\na\n```\n\n```toml title="x.toml"\nb = 1\n```\n\n'
        "```\nc\n```\n\n<!-- not run: far above -->\n\n```text\nd\n```\n"
    )
    assert blocks_in(text, "p") == [
        Block("p-0", "bash", "a\n", "", "no GPU here"),
        Block("p-1", "toml", "b = 1\n", "x.toml"),
        Block("p-2", "", "c\n"),
        Block("p-3", "text", "d\n"),
    ]


def commands_in(text: str) -> list[tuple[str, list[str]]]:
    """The commands of fedrl that a text shows in a line of their own, with their long options."""
    found = re.findall(r"^fedrl ([a-z-]+) ?(.*)$", re.sub(r"\\\n", " ", text), re.MULTILINE)
    return [(command, re.findall(r"--[a-z-]+", rest.partition("#")[0])) for command, rest in found]


def wrong(commands: list[tuple[str, list[str]]]) -> list[str]:
    """Those that are no command, and options that it does not have."""
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    # A group such as `certs` has the options of its commands.
    parts = {name: [known[name], *getattr(known[name], "commands", {}).values()] for name in known}
    options = {name: {o for part in parts[name] for p in part.params for o in p.opts} for name in known}
    return [
        f"fedrl {name} {' '.join(given)}" for name, given in commands if not set(given) <= options.get(name, {"none"})
    ]


def test_every_command_and_option_that_is_shown_exists():
    commands = [each for b in BLOCKS for each in commands_in(b.code)]
    assert wrong(commands) == []
    assert len(commands) > 20
    assert wrong(commands_in("fedrl run x --sets a=1\nfedrl walk --far\nfedrl run x --set a=1")) == [
        "fedrl run --sets",
        "fedrl walk --far",
    ]


def test_commands_of_a_sentence_exist():
    text = "".join((ROOT / path).read_text() for path in INSTALLED)
    found = [shlex.split(code)[1] for code in re.findall(r"`(fedrl [^`\n]+)`", text)]
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert {name for name in found if not name.startswith("-")} <= set(known)
    assert len(found) > 10


def test_where_uniform_quantisation_saturates_is_said_where_it_is_listed():
    row = next(x for x in (ROOT / "docs" / "concepts.md").read_text().splitlines() if "`uniform_quantize(b)`" in x)
    assert "saturates at ±(1/2" in row
    assert "clip(round(2<sup>b</sup> Δ)" in row
    assert "C(x) = clip(round(2^b x), -s, s) / 2^b,     s = 2^(b - 1) - 1" in uniform_quantize.__doc__
