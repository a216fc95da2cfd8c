"""What an environment prints does not spoil the output of `--json`."""

import json
import subprocess
import sys

SCRIPT = """
import ctypes, json, os, sys
from fedrl.cli.only_json import only_json
with only_json(True):
    print("from Python")
    ctypes.CDLL(None).puts(b"from C")
    os.system("echo from a child")
print(json.dumps({"return": 1.0}))
"""


def test_only_json_reaches_standard_output() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(done.stdout) == {"return": 1.0}
    for words in ("from Python", "from C", "from a child"):
        assert words in done.stderr
