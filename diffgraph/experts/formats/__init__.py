"""Which formats can be read? One file each; a new one is a file here and a line in the table.

Another package adds one by the entry points `diffgraph.formats`.
"""

from typing import Any

from diffgraph.experts.formats import dora
from diffgraph.experts.formats.adapter import AdapterFormat
from diffgraph.experts.formats.full import FULL, FULL_BIAS, NORM, NORM_BIAS
from diffgraph.experts.formats.glora import GLORA
from diffgraph.experts.formats.ia3 import IA3, PEFT_IA3, PEFT_IA3_BIAS
from diffgraph.experts.formats.loha import LOHA
from diffgraph.experts.formats.lokr import LOKR
from diffgraph.experts.formats.lora import LORA, LORA_BIAS, LORA_EMBEDDING
from diffgraph.experts.formats.oft import OFT, PEFT_OFT
from diffgraph.extensions import Extensible, once

__all__ = ["ADAPTERS", "FORMATS", "AdapterFormat", "all_adapters"]

ADAPTERS: tuple[AdapterFormat, ...] = (
    *(LORA, LORA_BIAS, LORA_EMBEDDING, LOHA, LOKR, GLORA),
    *(IA3, PEFT_IA3, PEFT_IA3_BIAS, OFT, PEFT_OFT),
    *(FULL, FULL_BIAS, NORM, NORM_BIAS),
)
"""All but whole models (formats/checkpoint.py); DoRA goes on top of any (formats/dora.py)."""


def _refuse(name: str, value: Any) -> str:
    if not isinstance(value, AdapterFormat):
        return f"an AdapterFormat is wanted, not {type(value).__name__}"
    roles = set(value.suffixes.values())
    if not value.marks or not roles.issuperset(value.marks):
        return "its marks are not roles of its suffixes"
    ours = {".alpha", ".weight", ".bias", ".scale", "alpha"}
    for suffixes in (dora.SUFFIXES, *(form.suffixes for form in ADAPTERS)):
        ours |= {*suffixes, *suffixes.values()}
    taken = sorted(ours & {*roles, *value.suffixes})
    return f"ours has the suffix or role {taken[0]!r}" if taken else ""


FORMATS: Extensible[AdapterFormat] = Extensible(
    "formats", {form.name: form for form in ADAPTERS}, _refuse
)
"""By name."""


@once
def all_adapters() -> tuple[AdapterFormat, ...]:
    """Return the formats of adapters: ours, then those of other packages."""
    return (*ADAPTERS, *FORMATS.added.values())
