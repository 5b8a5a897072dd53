"""What do FLUX's makers call its parameters?

Black Forest Labs' own files fuse what diffusers keeps apart, and swap the halves of the last
modulation: https://github.com/black-forest-labs/flux/blob/main/src/flux/model.py
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from diffgraph.families.layout import Placement, Placements

Shapes = Mapping[str, Sequence[int]]
"""Our parameter -> its shape."""

OURS = "transformer."
BLOCK = re.compile(r"transformer\.(single_)?transformer_blocks\.(\d+)\.")

OUTER: Mapping[str, str] = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
}
DOUBLE: Mapping[str, tuple[str, ...]] = {
    "img_mod.lin": ("norm1.linear",),
    "txt_mod.lin": ("norm1_context.linear",),
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn.norm.query_norm": ("attn.norm_q",),
    "img_attn.norm.key_norm": ("attn.norm_k",),
    "txt_attn.norm.query_norm": ("attn.norm_added_q",),
    "txt_attn.norm.key_norm": ("attn.norm_added_k",),
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
}
SINGLE: Mapping[str, tuple[str, ...]] = {
    "modulation.lin": ("norm.linear",),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "norm.query_norm": ("attn.norm_q",),
    "norm.key_norm": ("attn.norm_k",),
}
SWAPPED = ("final_layer.adaLN_modulation.1", "norm_out.linear")
"""Theirs is (shift, scale), ours (scale, shift)."""

XLABS_DOUBLE: Mapping[str, tuple[str, ...]] = {
    "processor.qkv_lora1": DOUBLE["img_attn.qkv"],
    "processor.qkv_lora2": DOUBLE["txt_attn.qkv"],
    "processor.proj_lora1": DOUBLE["img_attn.proj"],
    "processor.proj_lora2": DOUBLE["txt_attn.proj"],
}
XLABS_SINGLE: Mapping[str, tuple[str, ...]] = {
    "processor.qkv_lora": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "processor.proj_lora": SINGLE["linear2"],
}
"""XLabs' adapters of attention: https://github.com/XLabs-AI/x-flux"""


def modules(shapes: Shapes) -> dict[str, Placements]:
    """Return the makers' module names, each with the modules of ours that it holds."""
    found = dict(_blocks(shapes, DOUBLE, SINGLE))
    for theirs, ours in OUTER.items():
        if f"{OURS}{ours}.weight" in shapes:
            found[theirs] = (Placement(OURS + ours),)
    theirs, ours = SWAPPED
    if weight := shapes.get(f"{OURS}{ours}.weight"):
        half = weight[0] // 2
        found[theirs] = (Placement(OURS + ours, ((half, 2 * half), (0, half))),)
    return found


def parameters(shapes: Shapes) -> dict[str, Placements]:
    """Return the makers' parameter names, each with the parameters of ours that it holds."""
    found: dict[str, Placements] = {}
    for theirs, placements in modules(shapes).items():
        for kind in ("weight", "bias"):
            ours = tuple(
                Placement(f"{placement.name}.{kind}", placement.rows) for placement in placements
            )
            if all(placement.name in shapes for placement in ours):
                # their norms have a scale
                their_kind = "scale" if theirs.endswith(("query_norm", "key_norm")) else kind
                found[f"{theirs}.{their_kind}"] = ours
    return found


def xlabs_modules(shapes: Shapes) -> dict[str, Placements]:
    """Return XLabs' names of attention adapters, each with the modules of ours that it changes."""
    return dict(_blocks(shapes, XLABS_DOUBLE, XLABS_SINGLE))


def _blocks(
    shapes: Shapes, double: Mapping[str, tuple[str, ...]], single: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[str, Placements]]:
    numbers: dict[str, set[int]] = {"": set(), "single_": set()}
    for name in shapes:
        if match := BLOCK.match(name):
            numbers[match[1] or ""].add(int(match[2]))
    for kind, theirs, table in (("", "double", double), ("single_", "single", single)):
        for number in sorted(numbers[kind]):
            head = f"{OURS}{kind}transformer_blocks.{number}."
            for name, ours in table.items():
                full = [head + path for path in ours]
                if all(f"{path}.weight" in shapes for path in full):
                    yield f"{theirs}_blocks.{number}.{name}", _stacked(full, shapes)


def _stacked(names: Sequence[str], shapes: Shapes) -> Placements:
    """Return modules whose outputs lie one below the other in a stranger's tensor."""
    if len(names) == 1:
        return (Placement(names[0]),)
    placements, start = [], 0
    for name in names:
        stop = start + shapes[f"{name}.weight"][0]
        placements.append(Placement(name, ((start, stop),)))
        start = stop
    return tuple(placements)
