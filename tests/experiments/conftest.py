import os
from collections.abc import Iterator

import pytest

from fedrl import launch


@pytest.fixture(scope="session", autouse=True)
def _prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The backend may run already, so every flag counts as set; compiled programs go to a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        flags = os.environ.get("XLA_FLAGS", "")
        patch.setenv("XLA_FLAGS", f"{flags} {launch.VECTORS}=256" if launch.VECTORS not in flags else flags)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
