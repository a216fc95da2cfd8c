"""Memory that the C library keeps after use."""

import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, threading
from fedrl.core.arenas import use_one_arena
if {one}:
    use_one_arena()
def work():
    held = [bytearray(100_000) for _ in range(10)]
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
ctypes.CDLL(None).malloc_stats()
"""


@pytest.mark.parametrize("one", [True, False])
def test_all_threads_share_an_arena(one):
    told = subprocess.run([sys.executable, "-c", SCRIPT.format(one=one)], capture_output=True, text=True, check=True)
    assert (told.stderr.count("Arena ") == 1) == one
