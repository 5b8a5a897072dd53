"""What does an expert add to its base: one exact update a parameter, and how well was it read?"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch

from diffgraph.experts.coverage import CoverageReport
from diffgraph.experts.updates import Update, moved, tensors_of
from diffgraph.experts.weights_file import WeightsFile, shown

EXAMPLES = 5  # unknown keys that a report names


@dataclass(frozen=True)
class Coverage:
    """How much of a file was understood, and what it touches."""

    matched: tuple[str, ...] = ()  # keys that became part of an update
    skipped: tuple[str, ...] = ()  # keys known to carry nothing for a merge (EMA, position ids, …)
    absent: Mapping[str, int] = field(default_factory=dict)  # encoder the base lacks -> its keys
    unknown: tuple[str, ...] = ()  # keys nobody understood
    parameters: int = 0  # parameters of the model that are touched
    bytes: int = 0
    non_finite: int = 0  # NaN and infinite numbers in matched keys
    norms: Mapping[str, float] = field(default_factory=dict)  # block -> Frobenius norm of the delta
    evidence: tuple[str, ...] = ()  # why the file is believed to belong to the family

    @property
    def share(self) -> float:
        """The share of the meaningful keys that were understood, 0 to 1."""
        known = len(self.matched)
        return known / (known + len(self.unknown)) if known + len(self.unknown) else 0.0

    def report(self) -> CoverageReport:
        return CoverageReport(
            matched=len(self.matched),
            skipped=len(self.skipped),
            absent=dict(self.absent),
            unknown=len(self.unknown),
            examples=tuple(shown(key) for key in self.unknown[:EXAMPLES]),
            parameters=self.parameters,
            bytes=self.bytes,
            non_finite=self.non_finite,
            norms={block: float(f"{size:.6g}") for block, size in self.norms.items()},
            evidence=self.evidence,
        )


@dataclass(frozen=True)
class Origin:
    """The file that a delta was read from, and which of its keys make each update."""

    file: WeightsFile
    keys: Mapping[str, tuple[str, ...]]  # parameter -> keys


@dataclass(frozen=True)
class Delta:
    """Parameter name -> update, exact, for the base it was read against; a view of its file."""

    updates: Mapping[str, Update]
    format: str
    coverage: Coverage
    origin: Origin | None = None

    def to(self, device: torch.device | str) -> "Delta":
        updates = {name: moved(update, device) for name, update in self.updates.items()}
        return replace(self, updates=updates)

    @property
    def bytes(self) -> int:
        """What the updates hold, in memory or in their mapped file; without the base's weights."""
        held = (tensor for update in self.updates.values() for tensor in tensors_of(update))
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    @property
    def file_name(self) -> str:
        return self.origin.file.path.name if self.origin else ""

    def check(self, name: str) -> None:
        """Raise `DamagedFile`, with the key, if what touches a parameter is not all finite."""
        for file, key in self._keys(name):
            file.check(key)

    def release(self, name: str) -> None:
        """Let the system take back the memory that holds a parameter's part of the file."""
        for file, key in self._keys(name):
            file.release(key)

    def _keys(self, name: str) -> Iterator[tuple[WeightsFile, str]]:
        if self.origin is not None:
            for key in self.origin.keys.get(name, ()):
                yield self.origin.file, key
