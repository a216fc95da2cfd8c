"""What is sent to workers: objects as constructor calls, arrays, and the modules of one's own that they need."""

import importlib
import os
import pickle
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

import fedrl
from fedrl.config import load
from fedrl.config.build import build
from fedrl.core.errors import ConfigError
from fedrl.engines.distributed import modules
from fedrl.engines.distributed.portable import dumps, loads
from fedrl.environments.adapters.settings import settings_record
from fedrl.shipped import examples
from tests.support.own_parts import modules_in


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A package of one's own on the path, `ownpkg`, with a part in each of two modules."""
    package = tmp_path / "ownpkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "numbers.py").write_text("SCALE = 3\n")
    (package / "parts.py").write_text("from ownpkg.numbers import SCALE\n\n\ndef scaled(x):\n    return SCALE * x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] in ("ownpkg", "loose", "alone")]:
        del sys.modules[name]


def bits(value):
    key = jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(value) if key else value).tobytes()


class TestObjects:
    @pytest.mark.parametrize("path", [p for p in examples().values() if p.suffix == ".toml"], ids=lambda p: p.stem)
    def test_what_shipped_examples_are_made_of_is_the_same_again(self, path):
        for method in build(load(path)).methods:
            again = loads(dumps(method.federation))
            assert again == method.federation
            assert repr(again) == repr(method.federation)
            assert loads(dumps(method.fleet)) is not None

    def test_keys_and_arrays_keep_their_types_and_bits(self):
        for value in (
            jax.random.key(3),
            jax.random.split(jax.random.key(3), 2),
            jax.numpy.arange(3, dtype=jax.numpy.bfloat16),
            jax.numpy.float32(np.nan),
            jax.numpy.zeros((0, 2), bool),
        ):
            again = loads(dumps({"a": (value,)}))["a"][0]
            assert (again.dtype, again.shape) == (value.dtype, value.shape)
            data = [
                jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
                for x in (value, again)
            ]
            assert np.asarray(data[0]).tobytes() == np.asarray(data[1]).tobytes()

    def test_keys_keep_their_algorithm(self):
        for name in ("threefry2x32", "rbg"):
            key = jax.random.key(3, impl=name)
            again = loads(dumps(key))
            assert again.dtype == key.dtype
            assert jax.random.bits(again) == jax.random.bits(key)

    def test_functions_without_a_name_are_sent_with_their_code(self):
        factor = 3
        assert loads(dumps(lambda x: factor * x))(2) == 6

    def test_a_part_that_cannot_be_sent_is_one_sentence_and_its_cure(self):
        with pytest.raises(ConfigError, match=r"^A part of the federation can't be sent.*lock.*built by a component"):
            dumps({"part": threading.Lock()})

    def test_a_missing_module_is_named_with_its_cure(self):
        content = pickle.dumps(len).replace(b"builtins", b"nonsense")
        with pytest.raises(ConfigError, match=r"^A worker can't import the module 'nonsense'.*Install it"):
            loads(content)


def test_settings_of_adapted_environments_are_the_same_pytree_in_another_process(tmp_path):
    """Of Gymnasium's the class is made at run time; a copy of it would be another pytree."""
    (tmp_path / "sent").write_bytes(dumps(settings_record({"gain": 2.0})))
    script = (
        "import pathlib, sys, jax\n"
        "from fedrl.engines.distributed.portable import loads\n"
        "from fedrl.environments.adapters.settings import settings_record\n"
        "sent, own = loads(pathlib.Path(sys.argv[1]).read_bytes()), settings_record({'gain': 1.0})\n"
        "print(jax.tree.map(lambda x, y: float(x + y), sent, own))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "sent")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "Settings(gain=3.0)\n"


class TestModules:
    def test_the_whole_package_of_a_function_is_sent_and_nothing_that_is_installed(self, own):
        parts = importlib.import_module("ownpkg.parts")
        found = modules.sources(dumps([parts.scaled, np.sum, fedrl.run, jax.numpy.sum]))
        assert sorted(found) == ["ownpkg/__init__.py", "ownpkg/numbers.py", "ownpkg/parts.py"]
        assert found["ownpkg/numbers.py"] == "SCALE = 3\n"

    def test_a_module_alone_and_a_folder_without_init_are_sent(self, own):
        (own / "alone.py").write_text("def one(x):\n    return x\n")
        (own / "loose").mkdir()
        (own / "loose" / "parts.py").write_text("def two(x):\n    return x\n")
        importlib.invalidate_caches()
        one, two = importlib.import_module("alone").one, importlib.import_module("loose.parts").two
        assert sorted(modules.sources(dumps([one, two]))) == ["alone.py", "loose/parts.py"]

    def test_a_reference_in_a_text_is_a_use_of_its_module(self, tmp_path):
        with modules_in(tmp_path, "portable"):
            sys.path.insert(0, str(tmp_path))
            importlib.invalidate_caches()
            importlib.import_module("mysiteportable")
            assert list(modules.sources(dumps("mysiteportable:Building"))) == ["mysiteportable.py"]

    def test_a_fresh_interpreter_can_import_what_was_sent(self, own):
        parts = importlib.import_module("ownpkg.parts")
        content = dumps(parts.scaled)
        (own.parent / "sent").write_bytes(pickle.dumps((modules.sources(content), content)))
        script = (
            "import pathlib, pickle, sys\n"
            "from fedrl.engines.distributed import modules, portable\n"
            "files, content = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())\n"
            "modules.installed(files)\n"
            "print(portable.loads(content)(14))\n"
        )
        known = [folder for folder in sys.path if folder != str(own)]
        ran = subprocess.run(
            [sys.executable, "-c", script, str(own.parent / "sent")],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(known)},
            capture_output=True,
            text=True,
            check=True,
            cwd="/",
        )
        assert ran.stdout == "42\n"

    def test_too_much_is_refused_with_the_name_of_the_package(self, own, monkeypatch):
        monkeypatch.setattr(modules, "MOST_BYTES", 10)
        parts = importlib.import_module("ownpkg.parts")
        with pytest.raises(ConfigError, match=r"^The package ownpkg has more than .*Install it on their machines"):
            modules.sources(dumps(parts.scaled))
