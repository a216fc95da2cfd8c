"""A result in Python that is the mapping of a file of its folder, such as `summary.json`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any


class ResultMapping(Mapping[str, Any]):
    """The mapping of what a folder contains."""

    @property
    @abstractmethod
    def content(self) -> Mapping[str, Any]:
        """The content of the file."""

    def __getitem__(self, key: str) -> Any:
        return self.content[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.content)

    def __len__(self) -> int:
        return len(self.content)
