"""Which formats can be read? One file each; a new one is a file here and a line in the table."""

from diffgraph.experts.formats.adapter import AdapterFormat
from diffgraph.experts.formats.loha import LOHA
from diffgraph.experts.formats.lokr import LOKR
from diffgraph.experts.formats.lora import LORA

__all__ = ["ADAPTERS", "AdapterFormat"]

ADAPTERS: tuple[AdapterFormat, ...] = (LORA, LOHA, LOKR)
"""All but whole models (formats/checkpoint.py); DoRA goes on top of any (formats/dora.py)."""
