"""What do FLUX's makers call its parameters?

Black Forest Labs' own files fuse what diffusers keeps apart, and swap the halves of the last
modulation: https://github.com/black-forest-labs/flux/blob/main/src/flux/model.py
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from diffgraph.families.layout import Placement, Placements

Shapes = Mapping[str, Sequence[int]]  # our parameter -> its shape

OURS = "transformer."
BLOCK = re.compile(r"transformer\.(single_)?transformer_blocks\.(\d+)\.")
THEIR_BLOCK = re.compile(r"(double|single)_blocks\.(\d+)\.(.+)")
NORMS = ("query_norm", "key_norm")
KINDS = {"scale": "weight"}  # theirs -> ours
OPTIONAL = "guidance_in."  # schnell has no guidance distilled into it

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
                their_kind = "scale" if theirs.endswith(NORMS) else kind
                found[f"{theirs}.{their_kind}"] = ours
    return found


def our_shapes(theirs: Shapes) -> dict[str, tuple[int, ...]]:
    """Return our parameters' shapes as a file in the makers' layout has them.

    Nobody has to describe its model: queries, keys and values have as many rows as columns. Keys
    that are not the makers' are left out.

    Raises:
        ValueError: a fused tensor is too small for what it holds.
    """
    found: dict[str, tuple[int, ...]] = {}
    for key, shape in theirs.items():
        module, _, kind = key.rpartition(".")
        ours = _our_modules(module)
        weight = theirs.get(f"{module}.weight", shape)  # norms have none, only a scale
        if not ours or not shape or (len(ours) > 1 and len(weight) != 2):
            continue
        sizes = [shape[0]]
        if len(ours) > 1:
            sizes = [weight[1]] * 3
            sizes += [weight[0] - sum(sizes)] * (len(ours) - len(sizes))
        if min(sizes) < 0 or sum(sizes) != shape[0] or shape[0] != weight[0]:
            raise ValueError(f"{key} cannot be {tuple(shape)}")
        for name, rows in zip(ours, sizes, strict=True):
            found[f"{OURS}{name}.{KINDS.get(kind, kind)}"] = (rows, *shape[1:])
    return found


def missing(shapes: Shapes) -> list[str]:
    """Return the makers' names of what a whole model lacks."""
    there = parameters(shapes)
    wanted = {f"{name}.{kind}" for name in (*OUTER, SWAPPED[0]) for kind in ("weight", "bias")}
    matches = [match for key in there if (match := THEIR_BLOCK.match(key))]
    for kind, table in (("double", DOUBLE), ("single", SINGLE)):
        count = max((int(match[2]) + 1 for match in matches if match[1] == kind), default=1)
        for number in range(count):
            for name in table:
                kinds = ("scale",) if name.endswith(NORMS) else ("weight", "bias")
                wanted |= {f"{kind}_blocks.{number}.{name}.{each}" for each in kinds}
    return sorted(key for key in wanted - there.keys() if not key.startswith(OPTIONAL))


def _our_modules(theirs: str) -> tuple[str, ...]:
    """Return what one of the makers' modules holds, without our prefix; nothing if it is not."""
    if theirs == SWAPPED[0]:
        return (SWAPPED[1],)
    if theirs in OUTER:
        return (OUTER[theirs],)
    match = THEIR_BLOCK.fullmatch(theirs)
    if match is None:
        return ()
    table, head = (DOUBLE, "") if match[1] == "double" else (SINGLE, "single_")
    return tuple(
        f"{head}transformer_blocks.{int(match[2])}.{path}" for path in table.get(match[3], ())
    )


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
    """Return modules whose outputs lie one below the other in the makers' tensor."""
    if len(names) == 1:
        return (Placement(names[0]),)
    placements, start = [], 0
    for name in names:
        stop = start + shapes[f"{name}.weight"][0]
        placements.append(Placement(name, ((start, stop),)))
        start = stop
    return tuple(placements)
