"""How is a plan said in the words of another tool?

* `a1111`: the text that is pasted into the prompt of A1111, Forge or SD.Next, its settings below.
* `comfyui`: a graph of stock nodes, as ComfyUI's API takes it and its window opens it.
* `diffusers`: a script in Python.

All can say LoRAs on one model; ComfyUI mixes checkpoints, too. What cannot be said is refused.
"""

from typing import Literal

from diffgraph.errors import InputError
from diffgraph.merging.a1111_text import infotext, lora_tags
from diffgraph.merging.comfyui_graph import comfyui
from diffgraph.merging.diffusers_script import diffusers_script
from diffgraph.merging.generation_settings import GenerationSettings
from diffgraph.merging.sources import MergeSources

Tool = Literal["a1111", "comfyui", "diffusers"]


def said_to(tool: Tool, sources: MergeSources, drawn: GenerationSettings | None = None) -> str:
    """Return a plan and, if it is said what, an image of it in a tool's words.

    Raises:
        PlanError: the tool has no words for such a plan.
        InputError: a script has to draw something.
    """
    if tool == "comfyui":
        return comfyui(sources, drawn)
    if tool == "diffusers":
        if drawn is None:
            raise InputError("a script draws a prompt, and this plan comes without one")
        return diffusers_script(sources, drawn)
    tags = lora_tags(sources)
    return tags if drawn is None else infotext(sources, drawn)
