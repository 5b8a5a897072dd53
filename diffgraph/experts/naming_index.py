"""Which of our parameters does a stranger's key mean?

All vocabularies of one model, put together once: a key is looked up, never taken apart. A key that
could mean two things means none.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

from torch import Tensor

from diffgraph.experts import naming_flux
from diffgraph.experts.naming import (
    Naming,
    bare,
    comfyui,
    diffusers,
    kohya,
    old_diffusers,
    peft,
)
from diffgraph.experts.naming_ldm import kohya_ldm, ldm
from diffgraph.families.layout import Placement, Placements

__all__ = ["KeyIndex", "Placement", "Placements", "key_index"]


@dataclass(frozen=True)
class KeyIndex:
    """What strangers call one model's parameters and modules."""

    parameters: Mapping[str, Placements]
    """A key of a whole model -> the parameters that it holds."""
    modules: Mapping[str, Placements]
    """A key of an adapter, less the suffix that its format adds -> the modules that it changes."""


def key_index(parameters: Mapping[str, Tensor]) -> KeyIndex:
    """Return what strangers call these parameters; made once a model.

    Args:
        parameters: the base's weights by our names; only their shapes are looked at.
    """
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
            naming_flux.parameters(known),
        ),
        modules=_index(
            modules,
            (diffusers, peft, comfyui, old_diffusers, kohya, ldm(names), kohya_ldm(names)),
            naming_flux.modules(known),
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
