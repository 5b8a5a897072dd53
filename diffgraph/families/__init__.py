"""Which base model is it, and how is it sampled?"""

from collections.abc import Mapping

from diffgraph.errors import UnknownFamily
from diffgraph.families.emoji64 import EMOJI64
from diffgraph.families.family import Family, ResidentModel, SamplerConfig
from diffgraph.families.flux import FLUX
from diffgraph.families.sd15 import SD15

__all__ = ["FAMILIES", "Family", "ResidentModel", "SamplerConfig", "get_family"]

FAMILIES: Mapping[str, Family] = {family.name: family for family in (EMOJI64, SD15, FLUX)}


def get_family(name: str) -> Family:
    """Return the family of this name, or raise `UnknownFamily`."""
    if name not in FAMILIES:
        raise UnknownFamily(f"unknown family {name!r}; known: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[name]
