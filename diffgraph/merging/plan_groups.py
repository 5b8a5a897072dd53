"""Which of many plans are drawn together, and how?

Plans share a pass when they are sums of experts that can differ between images. How depends on what
the experts cost each image: low-rank factors almost nothing, whole weights a weight of its own. On
a GPU where a batch of denoisers fits, every image gets its own and the pass is one recorded launch
a step. Where not even the weights of the whole experts fit, plans are sorted by those experts'
coefficients: what a group has in common is merged, and only factors differ.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

from diffgraph.experts.delta import Delta
from diffgraph.experts.updates import LowRankUpdate
from diffgraph.families.family import ResidentModel
from diffgraph.merging.apply import Merger, final_coefficients, is_sum
from diffgraph.merging.batched import is_batchable, rollouts
from diffgraph.merging.fused import is_available
from diffgraph.merging.graphed import DENOISER, GraphedRollouts
from diffgraph.merging.plan import MergePlan

TOGETHER: Mapping[str, int] = {"cpu": 16, "cuda": 64}
"""Plans that share a forward pass at most, by the kind of device."""

OWN_BYTES: Mapping[str, int] = {"cpu": 2 << 30, "cuda": 8 << 30}
"""What weights of each image's own may take in all, likewise."""

RECORDED = (8, 16, 32, 64)  # sizes of batches that are recorded: smaller ones are filled up


class PlanGroups:
    """Draws many plans with one resident model."""

    def __init__(self, merger: Merger) -> None:
        self.merger = merger
        self._recorded: dict[int, GraphedRollouts] = {}

    def groups(
        self, plans: Sequence[MergePlan], deltas: Mapping[str, Delta]
    ) -> Iterator[list[int]]:
        """Yield the places of plans that are drawn together; each place once."""
        sums = [place for place, plan in enumerate(plans) if is_sum(plan)]
        if not is_batchable(self.merger.model, deltas):
            sums = []
        alone: dict[str, list[int]] = {}
        for place in sorted(set(range(len(plans))) - set(sums)):
            alone.setdefault(plans[place].id, []).append(place)
        yield from alone.values()
        whole = {ref for ref, delta in deltas.items() if not _is_low_rank(delta)}
        most = self._room(TOGETHER)
        size = min(most, getattr(self.merger.model, "images_at_once", most))
        names = {name for ref in whole for name in deltas[ref].updates}
        bytes_each = sum(self.merger.base[name].nbytes for name in names)
        if bytes_each * min(size, len(sums)) <= self._room(OWN_BYTES):
            whole = set()  # every image can have weights of its own
        alike: dict[tuple[tuple[str, float], ...], list[int]] = {}
        for place in sums:
            found = final_coefficients(plans[place])
            key = tuple(sorted(item for item in found.items() if item[0] in whole))
            alike.setdefault(key, []).append(place)
        for group in alike.values():
            for start in range(0, len(group), size):
                yield group[start : start + size]

    def rollouts(
        self, plans: Sequence[MergePlan], deltas: Mapping[str, Delta]
    ) -> AbstractContextManager[ResidentModel]:
        used = {ref: deltas[ref] for plan in plans for ref in final_coefficients(plan)}
        count = next((size for size in RECORDED if size >= len(plans)), None)
        if count is not None and self._is_recordable(used, count):
            if count not in self._recorded:
                self._recorded[count] = GraphedRollouts(self.merger, count)
            return self._recorded[count].rollouts(plans, used)
        return rollouts(self.merger, plans, used)

    def _is_recordable(self, deltas: Mapping[str, Delta], count: int) -> bool:
        return (
            is_available(self.merger.model.device)
            and 0 < GraphedRollouts.needed(self.merger, count) <= self._room(OWN_BYTES)
            and all(name.startswith(DENOISER) for it in deltas.values() for name in it.updates)
        )

    def _room(self, table: Mapping[str, int]) -> int:
        return table.get(self.merger.model.device.type, 1)


def _is_low_rank(delta: Delta) -> bool:
    return all(isinstance(update, LowRankUpdate) for update in delta.updates.values())
