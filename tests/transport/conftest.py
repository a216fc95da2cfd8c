import pytest

from tests.support.certified import authority


@pytest.fixture(scope="session")
def certs(tmp_path_factory):
    """An authority with a coordinator and some agents, that no test changes."""
    return authority(tmp_path_factory.mktemp("certs") / "A", "site-1", "site-2", *(f"many-{i}" for i in range(20)))
