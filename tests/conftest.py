"""Before anything starts JAX: two host devices, a cache of compiled programs that goes with the tests, run-time types
for every function of fedrl, repeatable examples. And Ctrl-C is heard, also by tests that run in the background."""

import os
import signal
import tempfile

FLAGS = {"--xla_force_host_platform_device_count": 2, "--xla_cpu_prefer_vector_width": 256}
for flag, value in FLAGS.items():  # all that fedrl.configure_jax() would set, so that it has nothing to warn of
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}={value}".strip()
CACHE = tempfile.TemporaryDirectory(prefix="fedrl-tests-")
os.environ["XDG_CACHE_HOME"] = CACHE.name
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it starts with & ignore it

# These have environments or targets of their own: make test-gymnax, test-suites, test-torch, test-traffic,
# test-jax2onnx, test-docs, test-wheel, test-quickstart
collect_ignore = [
    *("support", "with_gymnax", "with_suites", "with_torch", "with_traffic", "with_jax2onnx", "with_site", "installed"),
]

from hypothesis import HealthCheck, settings  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

from tests.support import run_time_types  # noqa: E402, F401  (the hook below looks it up)
from tests.support.forgetting import pytest_runtest_teardown  # noqa: E402
from tests.support.long_tests import pytest_collection_modifyitems  # noqa: E402
from tests.support.namespaces import is_root, pytest_terminal_summary  # noqa: E402
from tests.support.no_skips import pytest_addoption, pytest_configure  # noqa: E402

__all__ = [
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_runtest_teardown",
    "pytest_terminal_summary",
]

if not is_root():
    collect_ignore.append("network/test_namespaces.py")

install_import_hook("fedrl", "tests.support.run_time_types.checked")

settings.register_profile(
    "repeatable",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("repeatable")
