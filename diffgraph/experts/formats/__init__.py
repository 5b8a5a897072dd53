"""Which formats can be read? One file each; a new one is a file here and a line in the table."""

from diffgraph.experts.formats.adapter import AdapterFormat
from diffgraph.experts.formats.full import FULL, FULL_BIAS, NORM, NORM_BIAS
from diffgraph.experts.formats.glora import GLORA
from diffgraph.experts.formats.ia3 import IA3, PEFT_IA3, PEFT_IA3_BIAS
from diffgraph.experts.formats.loha import LOHA
from diffgraph.experts.formats.lokr import LOKR
from diffgraph.experts.formats.lora import LORA, LORA_BIAS, LORA_EMBEDDING
from diffgraph.experts.formats.oft import OFT, PEFT_OFT

__all__ = ["ADAPTERS", "AdapterFormat"]

ADAPTERS: tuple[AdapterFormat, ...] = (
    *(LORA, LORA_BIAS, LORA_EMBEDDING, LOHA, LOKR, GLORA),
    *(IA3, PEFT_IA3, PEFT_IA3_BIAS, OFT, PEFT_OFT),
    *(FULL, FULL_BIAS, NORM, NORM_BIAS),
)
"""All but whole models (formats/checkpoint.py); DoRA goes on top of any (formats/dora.py)."""
