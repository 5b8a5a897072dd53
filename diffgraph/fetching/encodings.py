"""Decompresses answers within limits.

A few kilobytes can stand for gigabytes, and encodings can be nested. At most one layer of gzip is
asked for, nothing else is taken, and it is inflated in steps, so that a limit is met before memory.
"""

import zlib
from collections.abc import Iterator, Mapping

from diffgraph.errors import ServiceRefused
from diffgraph.fetching.waiting import TransientFailure

STEP = 1 << 16  # bytes
GZIP = zlib.MAX_WBITS | 16


class UnexpectedEncoding(ServiceRefused):
    """An answer in an encoding that was not asked for."""


class ContentDecoder:
    """Decodes the body of an answer.

    Args:
        headers: Of the answer.
        accepted: The encoding that was asked for: `gzip`, or `identity` for none.

    Raises:
        UnexpectedEncoding: It comes in another one.
    """

    def __init__(self, headers: Mapping[str, str], accepted: str) -> None:
        stated = headers.get("content-encoding", "").lower().split(",")
        encodings = [name for part in stated if (name := part.strip()) not in {"", "identity"}]
        if encodings and encodings != [accepted]:
            told = ", ".join(encodings)[:60]
            raise UnexpectedEncoding(f"it comes encoded as {told!r}, which was not asked for")
        self._inflating = zlib.decompressobj(GZIP) if encodings else None

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Yield what some bytes stand for, at most 64 KiB at a time; raises `TransientFailure`."""
        if self._inflating is None:
            yield data
            return
        while True:
            if self._inflating.eof:  # another member follows
                self._inflating = zlib.decompressobj(GZIP)
            try:
                piece = self._inflating.decompress(data, STEP)
            except zlib.error:
                raise TransientFailure("it is not the gzip that it says it is") from None
            yield piece
            is_over = self._inflating.eof
            data = self._inflating.unused_data if is_over else self._inflating.unconsumed_tail
            if not data and (is_over or len(piece) < STEP):
                return

    def end(self) -> None:
        """Raise `TransientFailure` if the answer ended before what it stands for did."""
        if self._inflating is not None and not self._inflating.eof:
            raise TransientFailure("its gzip was cut off")
