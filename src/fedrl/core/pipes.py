"""Standard output and error that survive their reader: `fedrl run ... | head` ends the printing, not the training.

    print, rich, ... --> text --> buffer --> file descriptor --> pipe, closed by its reader
                                              |
                                              +--> from then on /dev/null

The descriptor itself is replaced, so that C libraries and processes started later find no closed pipe either.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any

GONE = {errno.EPIPE, errno.ECONNRESET, errno.EIO}
"""The reader has left: a pager or `head`, a connection, a terminal that was closed (EIO)."""
STREAMS = {"stdout": 1, "stderr": 2}


class Lasting(io.FileIO):
    """A file descriptor to which writing never fails.

    Attributes:
        fault: The error, not that of a reader who has left, after which nothing more was written; None if all was.
    """

    fault: OSError | None = None

    def write(self, data: Any) -> int:
        """Write bytes, or discard them once the reader has left."""
        try:
            return super().write(data)
        except OSError as fault:
            if fault.errno not in GONE:
                self.fault = fault
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return memoryview(data).nbytes


def keep_printing() -> None:
    """Let standard output and error last for the rest of this process; a missing one is opened on /dev/null.

    Streams that are no plain files of the operating system, as in a notebook or a test, are not changed.
    """
    for name, descriptor in STREAMS.items():
        stream = getattr(sys, name)
        if stream is None:
            # After `>&-` the next opened file would get the number of the stream, and then the messages of libraries.
            opened = os.open(os.devnull, os.O_WRONLY)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            setattr(sys, name, io.TextIOWrapper(io.FileIO(descriptor, "w", closefd=False), "utf-8"))
            continue
        buffer = getattr(stream, "buffer", None)
        raw = getattr(buffer, "raw", buffer)  # with python -u there is no buffer in between
        if type(raw) is not io.FileIO:
            continue
        stream.flush()
        lasting = Lasting(raw.fileno(), "w", closefd=False)
        below = lasting if buffer is raw else io.BufferedWriter(lasting)
        text = io.TextIOWrapper(
            below,
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        setattr(sys, name, text)


def unwritten() -> dict[str, OSError]:
    """Flush standard output and error, and return the errors after which a part of them is missing, by stream."""
    found = {}
    for name in STREAMS:
        stream = getattr(sys, name)
        stream.flush()
        buffer = getattr(stream, "buffer", None)
        fault = getattr(getattr(buffer, "raw", buffer), "fault", None)
        if fault is not None:
            found[name] = fault
    return found
