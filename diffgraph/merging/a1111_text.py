"""How does A1111 write what an image was made from, so that it and Civitai read it again?

The text of the PNG chunk `parameters`, called infotext there: the prompt with a tag for each LoRA,
a line with the negative prompt, and a line of settings. Hashes are what Civitai finds pages by:
AutoV2, the first ten digits of a file's SHA-256, and for LoRAs AutoV3. What was merged in another
way than A1111 can has no tags, and says so: nobody should expect the image from the text.

The forms: https://github.com/AUTOMATIC1111/stable-diffusion-webui/blob/master/modules/infotext_utils.py
"""

import json
import re
from typing import Any

from diffgraph.errors import PlanError
from diffgraph.merging.generation_settings import GenerationSettings
from diffgraph.merging.sources import ENDING, MergeSources
from diffgraph.version import version

CHUNK = "parameters"
AUTOV2 = 10
ENDS_A_TAG = re.compile(r"[<>:]")
ENDS_A_NAME = re.compile(r'[,"\\{}]')
"""What a name in a list of hashes cannot have, beside what ends a tag."""
BREAKS_A_LINE = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029]+")
HEADINGS = re.compile(r"\b(Negative prompt|Steps):", re.IGNORECASE)
"""What readers take for the beginning of another part, some of them anywhere in the text."""


def infotext(sources: MergeSources, drawn: GenerationSettings) -> str:
    """Return the whole text: it is pasted into A1111's prompt, or kept in an image."""
    try:
        tags, why_not = lora_tags(sources), ""
    except PlanError as error:
        tags, why_not = "", str(error)
    lines = [" ".join(filter(None, (one_line(drawn.text), tags)))]
    if drawn.negative:
        lines.append(f"Negative prompt: {one_line(drawn.negative)}")
    settings = {
        **_sampling(drawn),
        **_model(sources),
        "Clip skip": drawn.clip_skip if drawn.clip_skip > 1 else "",
        "RNG": "CPU",  # where our first noise is drawn; A1111's own is the GPU's
        "Lora hashes": _lora_hashes(sources) if tags else "",
        "Hashes": _hashes(sources),
        "Diffgraph": why_not,
        # with a name before it: A1111 turns old behaviour on for numbers below its own
        "Version": f"diffgraph {version()}",
    }
    told = (f"{key}: {_quoted(key, value)}" for key, value in settings.items() if value != "")
    return "\n".join((*lines, ", ".join(told)))


def lora_tags(sources: MergeSources) -> str:
    """Return the plan's LoRAs as they are written into a prompt, by their files' names.

    Raises:
        PlanError: the rule is not linear, or there are checkpoints that a prompt cannot mix.
    """
    sources.demand_linear("a prompt")
    if sources.checkpoint is None:
        raise PlanError(
            f"plan {sources.plan.id} mixes checkpoints, which a prompt cannot say: leave them out "
            "(--without), or write a file with `diffgraph merge`"
        )
    return " ".join(
        f"<lora:{tag_name(sources.files[ref])}:{strength:.6g}>"
        for ref, strength in sources.of_kind("peft")
    )


def tag_name(file: str) -> str:
    """Return a file's name as prompts have it: no folder, no ending, nothing that ends the tag."""
    name = file.rpartition("/")[2].removesuffix(ENDING)
    return ENDS_A_TAG.sub("_", one_line(name))


def one_line(text: str) -> str:
    """Return a text of the same meaning to a text encoder that no reader takes for several parts.

    White space separates words however much it is, and a colon is a word of its own.
    """
    text = text.encode("utf-8", "replace").decode()  # half a character is none
    return HEADINGS.sub(r"\1 :", BREAKS_A_LINE.sub(" ", text)).strip()


def _sampling(drawn: GenerationSettings) -> dict[str, Any]:
    names, guidance = drawn.family.sampler_names, drawn.sampler.guidance
    scales = {"CFG scale": guidance}
    if drawn.family.is_guidance_distilled:
        scales = {"CFG scale": 1, "Distilled CFG Scale": guidance}  # as Forge calls it
    return {
        "Steps": drawn.sampler.steps,
        "Sampler": names.a1111,
        "Schedule type": names.a1111_schedule,
        **{key: f"{value:g}" for key, value in scales.items()},
        "Seed": drawn.seed,
        "Size": f"{drawn.width}x{drawn.height}",
    }


def _model(sources: MergeSources) -> dict[str, str]:
    """Return the checkpoint's name and hash; a mixture is no file, and has no hash."""
    ref = sources.checkpoint
    if ref is None:
        return {"Model": f"diffgraph {sources.plan.id}"}
    if ref:
        name, sha256 = tag_name(sources.files[ref]), sources.experts[ref].sha256
    else:
        name, sha256 = one_line(sources.base.name), sources.base.sha256
    return {"Model hash": sha256[:AUTOV2], "Model": name}


def _lora_hashes(sources: MergeSources) -> str:
    names = _hash_names(sources, "peft")
    return ", ".join(
        f"{name}: {sources.autov3[ref]}" for ref, name in names.items() if ref in sources.autov3
    )


def _hashes(sources: MergeSources) -> str:
    """Return AutoV2 of every file that was used, however it was merged: they are credited."""
    found = {}
    if sources.base.sha256 and not sources.checkpoint:
        found["model"] = sources.base.sha256
    for ref, name in _hash_names(sources, "checkpoint").items():
        key = "model" if ref == sources.checkpoint else f"model:{name}"
        found[key] = sources.experts[ref].sha256
    for ref, name in _hash_names(sources, "peft").items():
        found[f"lora:{name}"] = sources.experts[ref].sha256
    short = {key: sha256[:AUTOV2] for key, sha256 in found.items() if sha256}
    return json.dumps(short, ensure_ascii=False) if short else ""


def _hash_names(sources: MergeSources, kind: str) -> dict[str, str]:
    """Return by reference what files are called in lists of hashes, each otherwise."""
    names: dict[str, str] = {}
    for ref, _ in sources.of_kind(kind):
        plain = name = ENDS_A_NAME.sub("", tag_name(sources.files[ref])).strip()
        number = 1
        while name in names.values():
            number += 1
            name = f"{plain} ({number})"
        names[ref] = name
    return names


def _quoted(key: str, value: Any) -> str:
    text = str(value)
    if key == "Hashes" or not re.search(r"[,:\n\"]", text):
        return text
    return json.dumps(text, ensure_ascii=False)
