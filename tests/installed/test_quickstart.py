"""The README and the quickstart do what they say: their blocks, in order, from a fresh clone: `make test-quickstart`.

Nothing else is typed. A block with a title is saved under it, Python and commands are run as they are, in one shell.
The clone is of this repository's last commit in place of the public one, and the home of the user is empty.
"""

import re
import resource
import subprocess
import time
from pathlib import Path

from tests.installed.environments import empty
from tests.support.blocks import Block, blocks_of

ROOT = Path(__file__).parents[2]
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "quickstart.md")
PUBLIC = "https://github.com/fedrl/fedrl"
LONGEST_S = 600
MARK = "==> "


def typed(block: Block) -> str:
    """What a reader types for a block."""
    said = f"echo '{MARK}{block.name}' $SECONDS\n"
    if block.title:
        return f"{said}cat > {block.title} <<'THE END'\n{block.code}THE END\n"
    if block.language == "python":
        return f"{said}python - <<'THE END'\n{block.code}THE END\n"
    return said + block.code if block.language == "bash" else ""


def test_the_readme_and_the_quickstart_lead_to_a_policy_in_use(tmp_path: Path) -> None:
    blocks = [block for path in DOCUMENTS for block in blocks_of(path) if not block.reason]
    script = "set -euo pipefail\n" + "".join(typed(block) for block in blocks) + f"echo '{MARK}the end' $SECONDS\n"
    here = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.file://{ROOT}.insteadOf", "GIT_CONFIG_VALUE_0": PUBLIC}
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text("[safe]\n\tdirectory = *\n")  # the repository may be another user's
    start = time.monotonic()
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=empty(home, **here),
        capture_output=True,
        text=True,
        check=False,
        timeout=4 * LONGEST_S,
    )
    seconds = time.monotonic() - start
    marks = re.findall(rf"^{MARK}(.+) (\d+)$", done.stdout, re.MULTILINE)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{seconds:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of computing",
        *(f"{second:>4} s  {name}" for name, second in marks),
        sep="\n",
    )
    assert done.returncode == 0, f"after {marks}:\n{done.stdout}\n{done.stderr}"
    returned = re.findall(r"^return (\d+)$", done.stdout, re.MULTILINE)
    assert [int(value) >= 400 for value in returned] == [True], returned
    for name in ("pole", "clipped", "gravity", "gravity-in-python"):
        assert (tmp_path / "fedrl" / "runs" / name / "report.html").is_file()
    assert (tmp_path / "fedrl" / "policy.py").is_file()
    assert seconds <= LONGEST_S
