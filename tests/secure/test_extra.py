import subprocess
import sys

import pytest

from fedrl.core.errors import ConfigError
from fedrl.secure import AdditivePlan, EncryptedSumPlan, extra, ring_sum
from fedrl.secure.identity import new_identities


def test_without_cryptography_a_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(extra.importlib.util, "find_spec", lambda name: None)
    for begin in (lambda: new_identities((0, 1)), lambda: AdditivePlan(b"", (0, 1), 1, 2)):
        with pytest.raises(ConfigError, match=r"pip install 'fedrl\[secure\]'"):
            begin()


def test_without_tenseal_a_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(extra.importlib.util, "find_spec", lambda name: None)
    for begin in (lambda: EncryptedSumPlan((0, 1), 1, 2), lambda: ring_sum(3, 1.0, protocol="ckks")):
        with pytest.raises(ConfigError, match=r"pip install 'fedrl\[he\]'"):
            begin()
    assert ring_sum(3, 1.0).opens == "sum"


def test_a_package_is_imported_by_the_first_sum_and_not_before():
    program = "import sys, fedrl.secure; sys.exit(bool({'cryptography', 'tenseal'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
