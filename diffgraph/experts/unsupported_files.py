"""What is a file that cannot be merged into this base, by name?

Hubs hold much that looks like a model: words for a text encoder, networks that stand beside a
model, models that take other inputs or predict something else. Each is told by its keys.
"""

import re
from collections.abc import Collection, Mapping
from functools import lru_cache

from diffgraph.errors import FamilyMismatch, UnknownFormat
from diffgraph.experts.key_cache import KEYS_KEPT, known_by
from diffgraph.experts.weights_file import WeightsFile, shown

BESIDE = "a network that stands beside a model, not a change of its weights"
QUANTISED = "quantised weights, whose scales would have to be known to every reader"
WORDS = "a textual inversion: new words for the text encoder, not a change of its weights"

UNMERGEABLE: tuple[tuple[str, re.Pattern[str]], ...] = (
    (WORDS, re.compile(r"emb_params|string_to_(param|token)(\..*)?|clip_[lg]|t5xxl|<[^.]*>")),
    (f"a hypernetwork: {BESIDE}", re.compile(r"\d+\.\d+\.linear.*|\d+\.linear\d*\..*")),
    (
        f"a ControlNet: {BESIDE}",
        re.compile(r"(control_model|controlnet_\w+|input_hint_block|lllite_\w+)\..*"),
    ),
    (f"an IP-Adapter: {BESIDE}", re.compile(r"(ip_adapter|image_proj)\..*")),
    (f"a motion module: {BESIDE}", re.compile(r"(.*\.)?motion_modules\..*")),
    (
        QUANTISED,
        re.compile(
            r".*(\.scale_weight|\.weight_scale\w*|\.scale_input|\.input_scale|scaled_fp8|\.SCB"
            r"|\.(nested_)?(absmax|quant_map)|\.quant_state\..*|\.qweight|\.qzeros|\.wscales"
            r"|\.comfy_quant|\.weight\._(data|scale))"
        ),
    ),
)
"""What a file is -> a key that no other file has."""

FIRST_LAYERS = (
    *("unet.conv_in", "conv_in", "input_blocks.0.0", "diffusion_model.input_blocks.0.0"),
    *("model.diffusion_model.input_blocks.0.0", "lora_unet_conv_in", "lora_unet_input_blocks_0_0"),
)
INPUTS: Mapping[int, str] = {
    8: "an instruction-editing model: its UNet takes 8 channels, not 4",
    9: "an inpainting model: its UNet takes 9 channels, not 4",
}
VELOCITY = {"v", "v_prediction", "v-prediction", "velocity", "vpred", "v_pred"}
NOISE = {"epsilon", "eps", "noise"}


def refuse_unmergeable(file: WeightsFile, prediction: str = "") -> None:
    """Raise the error that says what a file is, unless its weights may be merged.

    Args:
        file: the open file.
        prediction: what the base's denoiser predicts; empty if nobody asks.

    Raises:
        UnknownFormat: it is no change of a model's weights.
        FamilyMismatch: it is, but of a model that takes or predicts something else.
    """
    found: dict[int, str] = {}
    for key in file.entries:
        if (place := known_by(key, _place_of)) is not None:
            found.setdefault(place, key)
    if found:
        place = min(found)
        raise UnknownFormat(f"{file.path.name} is {UNMERGEABLE[place][0]} ({shown(found[place])})")
    for layer in FIRST_LAYERS:
        entry = file.entries.get(f"{layer}.weight") or file.entries.get(f"{layer}.lora_down.weight")
        if entry is not None and len(entry.shape) == 4 and entry.shape[1] in INPUTS:
            raise FamilyMismatch(f"{file.path.name} is of {INPUTS[entry.shape[1]]}")
    said = _prediction(file)
    if prediction and said and said != prediction:
        raise FamilyMismatch(
            f"{file.path.name} was made for a model that predicts {said}, "
            f"the base predicts {prediction}"
        )


def _prediction(file: WeightsFile) -> str:
    said = file.metadata.get("modelspec.prediction_type", "").strip().lower()
    by_trainer = file.metadata.get("ss_v_parameterization", "").strip().lower() == "true"
    if said in VELOCITY or by_trainer or "v_pred" in file.entries:
        return "velocity"
    return "epsilon" if said in NOISE else ""


@lru_cache(KEYS_KEPT)
def _place_of(key: str) -> int | None:
    """Return which of `UNMERGEABLE` a key is of."""
    fits = (place for place, (_, pattern) in enumerate(UNMERGEABLE) if pattern.fullmatch(key))
    return next(fits, None)


def refuse_quantised_keys(file: WeightsFile, read: Collection[str]) -> None:
    """Raise `UnknownFormat` if weights are integers, or 8-bit floats with a key left beside them.

    Tools that quantise keep beside such numbers what they are to be multiplied by. Eight bits
    alone are weights that were rounded; with a key beside them that nobody reads they are codes.
    """
    narrow = []
    for key in read:
        dtype = file.entries[key].dtype
        if not dtype.is_floating_point:
            kind = str(dtype).removeprefix("torch.")
            raise UnknownFormat(f"{file.path.name} is {QUANTISED} ({shown(key)} is {kind})")
        if dtype.itemsize == 1:
            narrow.append(key)
    if not narrow:
        return
    beside = {}
    for key in file.entries.keys() - set(read):
        name, dot, last = key.rpartition(".")
        while dot and last != "bias":
            beside[name] = key
            name, dot, _ = name.rpartition(".")
    for key in narrow:
        if other := beside.get(key) or beside.get(key.rpartition(".")[0]):
            raise UnknownFormat(
                f"{file.path.name} is {QUANTISED} ({shown(other)} beside {shown(key)})"
            )
