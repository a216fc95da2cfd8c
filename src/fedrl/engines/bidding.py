"""Bids as messages: what an agent says of its update before it is asked for it, and what is left to be sent then.

    Update --apart--> bid: the requested reports, and the size of the rest if that varies
                      rest: the update without these reports --whole, with the bid--> Update

An update can't contradict its bid, since it does not repeat what that has reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fedrl.core.errors import WireError
from fedrl.core.types import Update
from fedrl.wire.codec import codec, varies


class BidContent(NamedTuple):
    """The content of a bid.

    Attributes:
        report: The requested reports, by name.
        size_bytes: The size of the update that would follow.
    """

    report: Mapping[str, np.float32]
    size_bytes: int


class Bidding:
    """Encodes and decodes bids and the updates that follow them.

    Args:
        names: The reports that a bid has.
        like: An encoded update, of shapes.

    >>> import numpy as np
    >>> from fedrl.core.types import Update
    >>> update = Update(np.ones(3, np.float32), np.float32(1), np.int32(0), {}, {"norm": np.float32(2)})
    >>> bidding = Bidding(("norm",), update)
    >>> bid, rest = bidding.apart(update)
    >>> len(bid), bidding.bid(bid).size_bytes == len(rest), float(bidding.whole(bid, rest).report["norm"])
    (4, True, 2.0)
    """

    def __init__(self, names: tuple[str, ...], like: Update) -> None:
        self.names = names
        self._varies = varies(like)
        self._bid = codec(({name: np.float32(0) for name in names}, np.uint32(0) if self._varies else None))
        self._rest = codec(self._without(like))

    def _without(self, update: Update) -> Update:
        return update._replace(report={name: x for name, x in update.report.items() if name not in self.names})

    def apart(self, update: Update) -> tuple[bytes, bytes]:
        """Return the bid of an encoded update, and the rest of it, as bytes."""
        report = {name: np.asarray(update.report[name], np.float32) for name in self.names}
        rest = self._rest.encode(self._without(update))
        return self._bid.encode((report, np.uint32(len(rest)) if self._varies else None)), rest

    def bid(self, content: bytes) -> BidContent:
        """Read a bid.

        Raises:
            WireError: It can't be read.
        """
        report, size = self._bid.decode(content)
        known: Any = self._rest.size_bytes
        return BidContent(report, known if size is None else int(size))

    def whole(self, bid: bytes, rest: bytes) -> Update:
        """Return the update that follows a bid.

        Raises:
            WireError: It can't be read, or has not the size that the bid has said.
        """
        report, said = self.bid(bid)
        if len(rest) != said:
            raise WireError(f"it has {len(rest)} bytes, and its bid said {said}")
        update: Update = self._rest.decode(rest)
        both: dict[str, Any] = {**update.report, **report}
        return update._replace(report=both)
