"""How does an expert travel to a device in one go?

A file has hundreds of tensors, some of them views of one another. Packed, they lie one after the
other in one buffer, in memory that the device can fetch by itself (pinned), each where a kernel can
read it in wide loads. What arrives is the same delta.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from diffgraph.experts.delta import Delta
from diffgraph.experts.updates import CheckpointUpdate, Update, mapped

GLANCE = 4096  # entries
ALIGNMENT = 256  # bytes: what a device's own allocator gives

HALVES = (torch.float8_e4m3fn, torch.float8_e5m2)
"""Kept in half precision, which holds each of their numbers: arithmetic knows it, not them."""


@dataclass(frozen=True)
class Packed:
    """A delta whose tensors, but for the base's, are views of one buffer."""

    delta: Delta
    buffer: Tensor  # uint8
    arrival: Any = None  # on a device: the event by which the last of it is there

    @property
    def bytes(self) -> int:
        return self.buffer.numel()

    def to(self, device: torch.device) -> "Packed":
        """Return a copy on a device, made by one transfer; it may go on after the return."""
        buffer = self.buffer.to(device, non_blocking=True)
        start = self.buffer.data_ptr()

        def there(value: Tensor) -> Tensor:
            return _view(buffer, value.data_ptr() - start, value)

        return Packed(_changed(self.delta, there), buffer)


def pack(delta: Delta, pin: bool = False) -> Packed:
    """Return a delta in one buffer; files that are mapped into memory are read by this.

    Args:
        delta: on the CPU.
        pin: lock the buffer in memory, so that a GPU fetches it without the processor's help.
    """
    places: dict[tuple[Any, ...], int] = {}
    size = 0
    originals: list[Tensor] = []

    def measured(value: Tensor) -> Tensor:
        nonlocal size
        if _key(value) not in places:
            originals.append(value)  # keeps its address its own while the places are used
            places[_key(value)] = size
            size += -(-value.numel() * _kept(value.dtype).itemsize // ALIGNMENT) * ALIGNMENT
        return value

    _changed(delta, measured)
    buffer = torch.empty(size, dtype=torch.uint8, pin_memory=pin)
    copied: set[int] = set()

    def copy(value: Tensor) -> Tensor:
        place = places[_key(value)]
        like = torch.empty(value.shape, dtype=_kept(value.dtype), device="meta")
        target = _view(buffer, place, like)
        if place not in copied:
            copied.add(place)
            target.copy_(value)
        return target

    return Packed(_changed(delta, copy), buffer)


def without_copies(delta: Delta) -> Delta:
    """Return a delta without parameters that equal the base's: most checkpoints leave some be."""
    updates = {name: it for name, it in delta.updates.items() if not _is_copy(it)}
    return delta if len(updates) == len(delta.updates) else replace(delta, updates=updates)


def _is_copy(update: Update) -> bool:
    if not isinstance(update, CheckpointUpdate):
        return False
    value, base = update.value.reshape(-1), update.base.reshape(-1)
    first = slice(0, GLANCE)  # most differ there already
    return all(
        torch.equal(value[part].float(), base[part].float()) for part in (first, slice(None))
    )


def _kept(dtype: torch.dtype) -> torch.dtype:
    return torch.float16 if dtype in HALVES else dtype


def _key(value: Tensor) -> tuple[Any, ...]:
    return value.data_ptr(), value.dtype, value.shape, value.stride()


def _view(buffer: Tensor, place: int, like: Tensor) -> Tensor:
    """Return the numbers at a place of a buffer, shaped like another tensor."""
    part = buffer[place : place + like.numel() * like.dtype.itemsize]
    return part.view(like.dtype).view(like.shape)


def _changed(delta: Delta, change: Callable[[Tensor], Tensor]) -> Delta:
    updates = {name: mapped(update, change, False) for name, update in delta.updates.items()}
    return replace(delta, updates=updates, origin=None)  # the file is needed no more
