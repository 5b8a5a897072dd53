"""How do deltas become weights?

`W = base + sum of coefficient * delta`, summed in float32 from an untouched copy of the base, so a
merge never depends on the one before it, and no merge at all gives the base back bit for bit.
Task arithmetic, https://arxiv.org/abs/2212.04089.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from diffgraph.errors import PlanError
from diffgraph.experts.delta import Delta, LowRankUpdate, Update, against
from diffgraph.families.family import ResidentModel
from diffgraph.merging.plan import MergePlan

Coefficients = Mapping[str, float]
"""Expert reference -> what its delta is multiplied by."""


class Merger:
    """Writes merges into a resident model's weights, in place."""

    def __init__(self, model: ResidentModel):
        self.model = model
        self._live = dict(model.parameters())
        self.base: dict[str, Tensor] = {name: value.clone() for name, value in self._live.items()}
        """An untouched copy of the weights: what deltas are read against."""
        self._touched: frozenset[str] = frozenset()

    @torch.no_grad()
    def apply(self, plan: MergePlan | Coefficients, deltas: Mapping[str, Delta]) -> None:
        """Make the model base + the plan's experts, whatever it was before.

        Args:
            plan: what to merge, or the coefficients themselves by reference.
            deltas: at least those of the plan, by reference.
        """
        terms = terms_of(final_coefficients(plan), deltas)
        merged = {name: merge(self.base[name], updates) for name, updates in terms.items()}
        for name, value in merged.items():
            self._live[name].copy_(value)  # rounds once, from float32 to the model's type
        for name in self._touched - merged.keys():
            self._live[name].copy_(self.base[name])
        self._touched = frozenset(merged)

    def reset(self) -> None:
        """Make the model the base again, bit for bit."""
        self.apply({}, {})


def final_coefficients(plan: MergePlan | Coefficients) -> Coefficients:
    """Return the coefficients of a plan, or those given, without the experts left out by a 0."""
    given = plan.coefficients() if isinstance(plan, MergePlan) else plan
    return {ref: value for ref, value in given.items() if value != 0}


def demand(refs: Iterable[str], deltas: Mapping[str, Delta]) -> None:
    """Raise `PlanError` unless the deltas of all these experts are at hand."""
    missing = sorted(set(refs) - set(deltas))
    if missing:
        raise PlanError(f"no weights at hand for {', '.join(missing)}")


def terms_of(
    coefficients: Coefficients, deltas: Mapping[str, Delta]
) -> dict[str, list[tuple[float, Update]]]:
    """Return what is added to each parameter: (coefficient, update) pairs, ordered by reference."""
    demand(coefficients, deltas)
    terms: dict[str, list[tuple[float, Update]]] = {}
    for ref in sorted(coefficients):  # float sums depend on the order; a plan's order must not
        for name, update in deltas[ref].updates.items():
            terms.setdefault(name, []).append((coefficients[ref], update))
    return terms


def merge(base: Tensor, terms: Sequence[tuple[float, Update]]) -> Tensor:
    """Return one parameter's merged value in float32.

    Args:
        base: the untouched weight.
        terms: (coefficient, update) pairs.
    """
    merged = base.float()  # the same tensor when it is float32 already, so never added to in place
    low_rank = [(value, item) for value, item in terms if isinstance(item, LowRankUpdate)]
    if low_rank:
        merged = merged + concatenated(low_rank).dense().to(base.device)
    for value, update in terms:
        if not isinstance(update, LowRankUpdate):
            merged = merged + value * against(update, base).dense().to(base.device)
    return merged


def concatenated(terms: Sequence[tuple[float, LowRankUpdate]]) -> LowRankUpdate:
    """Return the weighted sum of low-rank updates as one of the ranks' sum: exact, one product."""
    ups = [value * update.scale * update.up.float() for value, update in terms]
    downs = [update.down.float() for _, update in terms]
    return LowRankUpdate(torch.cat(ups, dim=1), torch.cat(downs), 1.0, terms[0][1].shape)
