"""Where do experts wait between merges?

Decoded once and kept by the content of their files, the least recently used forgotten first: on a
GPU while there is room there, behind it in the host's memory. What is needed next is read and sent
by a thread of its own while the device draws.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import torch

from diffgraph.experts.delta import Delta
from diffgraph.merging.packing import Packed, pack

HOST_BYTES = 4 << 30
DEVICE_BYTES = 16 << 30


class _Memory(OrderedDict[str, Packed]):
    """Packed deltas in so many bytes, the least recently used first."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def fits(self, size: int, used: set[str]) -> bool:
        """Whether so many bytes have room beside what is in use."""
        return sum(item.bytes for key, item in self.items() if key in used) + size <= self.room

    def shrink(self, keep: set[str]) -> None:
        """Drop what was used least recently, and need not be kept, while there is too much."""
        size = sum(item.bytes for item in self.values())
        for key in [key for key in self if key not in keep]:
            if size <= self.room:
                return
            size -= self.pop(key).bytes


class DeltaStore:
    """Deltas by the hashes of their files, decoded at most once while they are kept.

    Args:
        read: decodes a file: sha256 -> delta on the CPU. It may be called from another thread.
        device: where merges happen.
        host_bytes: for deltas in the host's memory.
        device_bytes: for deltas in a GPU's memory; one that does not fit is merged from the host's.
    """

    def __init__(
        self,
        read: Callable[[str], Delta],
        device: torch.device,
        host_bytes: int = HOST_BYTES,
        device_bytes: int = DEVICE_BYTES,
    ) -> None:
        self._read, self._device = read, device
        self._host, self._there = _Memory(host_bytes), _Memory(device_bytes)
        self._in_use: set[str] = set()  # what the last call asked for
        self._coming: dict[str, Future[None]] = {}
        self._lock = threading.RLock()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="experts")
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @property
    def bytes(self) -> dict[str, int]:
        with self._lock:
            held = {"host": self._host, "device": self._there}
            return {name: sum(item.bytes for item in it.values()) for name, it in held.items()}

    def get(self, hashes: Iterable[str]) -> dict[str, Delta]:
        """Return the deltas of some files, by hash, all of them usable until the next call.

        Raises:
            Exception: what `read` raised for one of them; the others stay.
        """
        wanted = list(dict.fromkeys(hashes))
        with self._lock:
            self._in_use = set(wanted)
        found = {sha256: self._take(sha256) for sha256 in wanted}
        self._forget()
        return found

    def prefetch(self, hashes: Iterable[str]) -> None:
        """Read and send some files in the background, as far as there is room; never raises."""
        with self._lock:
            for sha256 in dict.fromkeys(hashes):
                if sha256 not in self._coming and not self._is_here(sha256):
                    self._coming[sha256] = self._reader.submit(self._fetch_ahead, sha256)

    def close(self) -> None:
        self._reader.shutdown(wait=True, cancel_futures=True)
        self._host.clear()
        self._there.clear()

    def _is_here(self, sha256: str) -> bool:
        return sha256 in (self._there if self._stream else self._host)

    def _take(self, sha256: str) -> Delta:
        with self._lock:
            coming = self._coming.pop(sha256, None)
        if coming is not None and not coming.cancel():
            coming.exception()  # only waits: what failed in the background is tried again here
        with self._lock:
            if self._stream is None:
                return self._on_host(sha256).delta
            return self._on_device(sha256)

    def _on_host(self, sha256: str) -> Packed:
        if sha256 not in self._host:
            self._host[sha256] = pack(self._read(sha256), pin=self._stream is not None)
        self._host.move_to_end(sha256)
        return self._host[sha256]

    def _on_device(self, sha256: str) -> Delta:
        packed = self._there.get(sha256) or self._send(sha256)
        if packed is None:
            return self._on_host(sha256).delta
        self._there.move_to_end(sha256)
        here = torch.cuda.current_stream(self._device)
        here.wait_event(packed.arrival)
        packed.buffer.record_stream(here)
        return packed.delta

    def _send(self, sha256: str) -> Packed | None:
        """Send an expert to the device, unless it is larger than all the room there is."""
        packed = self._on_host(sha256)
        if packed.bytes > self._there.room:
            return None
        assert self._stream is not None
        with torch.cuda.stream(self._stream):
            sent = packed.to(self._device)
            self._there[sha256] = replace(sent, arrival=self._stream.record_event())
        return self._there[sha256]

    def _fetch_ahead(self, sha256: str) -> None:
        with self._lock:
            known = self._host.get(sha256)
        if known is None:
            known = pack(self._read(sha256), pin=self._stream is not None)
        with self._lock:
            if not self._host.fits(known.bytes, self._in_use):
                return  # what is in use would have to go
            self._host[sha256] = known
            self._host.move_to_end(sha256)
            if self._stream is not None and self._there.fits(known.bytes, self._in_use):
                self._send(sha256)
            self._forget(sha256)

    def _forget(self, *others: str) -> None:
        with self._lock:
            keep = self._in_use.union(others)
            self._host.shrink(keep)
            self._there.shrink(keep)
