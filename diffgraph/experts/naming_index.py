"""Which of our parameters does a foreign key mean?

All vocabularies of one model, put together once: a key is looked up, never taken apart. A key that
could mean two things means none.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

from torch import Tensor

from diffgraph.experts.naming import (
    KOHYA_DENOISER,
    Naming,
    bare,
    comfyui,
    diffusers,
    kohya,
    old_diffusers,
    peft,
)
from diffgraph.experts.naming_ldm import kohya_ldm, ldm
from diffgraph.families import flux_layout
from diffgraph.families.layout import Placement, Placements

__all__ = ["KeyIndex", "Placement", "Placements", "key_index"]


FLUX_PREFIXES = ("", "model.diffusion_model.", "diffusion_model.", "model.")
"""What stands before the makers' names in a whole model."""

FLUX_ADAPTER_PREFIXES = (
    "",
    "diffusion_model.",
    "model.diffusion_model.",
    "base_model.model.",
    "transformer.",
)
"""The same in an adapter."""

XLABS_PREFIXES = ("", "diffusion_model.")


@dataclass(frozen=True)
class KeyIndex:
    """What other tools call one model's parameters and modules."""

    parameters: Mapping[str, Placements]  # a key of a whole model -> the parameters that it holds
    modules: Mapping[str, Placements]
    """A key of an adapter, less the suffix that its format adds -> the modules that it changes."""


def key_index(parameters: Mapping[str, Tensor]) -> KeyIndex:
    """Return what other tools call parameters of these names and shapes; made once a model."""
    return _names_of(tuple((name, tuple(value.shape)) for name, value in parameters.items()))


@lru_cache(maxsize=8)
def _names_of(shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> KeyIndex:
    known = dict(shapes)
    names = list(known)
    modules = [name.removesuffix(".weight") for name in names if name.endswith(".weight")]
    return KeyIndex(
        parameters=_index(
            names,
            (diffusers, bare, comfyui, ldm(names)),
            _flux_parameters(known),
        ),
        modules=_index(
            modules,
            (diffusers, peft, comfyui, old_diffusers, kohya, ldm(names), kohya_ldm(names)),
            _flux_modules(known),
        ),
    )


def _index(
    names: Iterable[str],
    vocabularies: tuple[Naming, ...],
    fused: Iterable[tuple[str, Placements]],
) -> dict[str, Placements]:
    ours = list(names)
    single = (
        (alias, (Placement(name),))
        for vocabulary in vocabularies
        for name in ours
        for alias in vocabulary(name)
    )
    found: dict[str, Placements] = {}
    ambiguous: set[str] = set()
    for alias, placements in chain(single, fused):
        if found.setdefault(alias, placements) != placements:
            ambiguous.add(alias)
    return {alias: placements for alias, placements in found.items() if alias not in ambiguous}


def _flux_parameters(shapes: flux_layout.Shapes) -> Iterator[tuple[str, Placements]]:
    # in its makers' layout, where one name holds several of ours
    for theirs, placements in flux_layout.parameters(shapes).items():
        for prefix in FLUX_PREFIXES:
            yield prefix + theirs, placements


def _flux_modules(shapes: flux_layout.Shapes) -> Iterator[tuple[str, Placements]]:
    for theirs, placements in flux_layout.modules(shapes).items():
        for prefix in FLUX_ADAPTER_PREFIXES:
            yield prefix + theirs, placements
        for prefix in KOHYA_DENOISER:
            yield prefix + theirs.replace(".", "_"), placements
    for theirs, placements in flux_layout.xlabs_modules(shapes).items():
        for prefix in XLABS_PREFIXES:
            yield prefix + theirs, placements
