"""What do other tools call our parameters?

A vocabulary is a function from one of our names (`unet.….to_q`, `text_encoder.….q_proj`, with or
without a final `.weight`) to what one naming convention calls it. Looking a foreign name up in
what the vocabularies say of the real model never guesses: kohya's underscores cannot be split back.
naming_ldm.py knows the single files' names, naming_index.py puts all together.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

Naming = Callable[[str], Iterable[str]]  # our name -> the names that it has in one convention

ATTENTION = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out.0": "to_out"}
TEXT_ATTENTION = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}


def diffusers(name: str) -> Iterator[str]:
    """Yield diffusers' names; transformers before version 5 put `text_model.` into its own."""
    yield name
    component, _, path = name.partition(".")
    if component == CLIP:
        yield f"{component}.text_model.{path}"


def bare(name: str) -> Iterator[str]:
    """Yield the names in a file that holds one component alone, as diffusers' folders do."""
    component, _, path = name.partition(".")
    yield f"text_model.{path}" if component == CLIP else path


def comfyui(name: str) -> Iterator[str]:
    """Yield the names of diffusers' parts as ComfyUI puts them into one file."""
    component, _, path = name.partition(".")
    for prefix in COMFYUI_PREFIXES.get(component, ()):
        yield prefix + path


def old_diffusers(name: str) -> Iterator[str]:
    """Yield the names of attention processors, as diffusers 0.1x saved them (modules only)."""
    for form in (*diffusers(name), *bare(name)):
        for ours, theirs in ATTENTION.items():
            if form.endswith(f".{ours}"):
                yield f"{form.removesuffix(ours)}processor.{theirs}_lora"
        for ours, theirs in TEXT_ATTENTION.items():
            if form.endswith(f".{ours}"):
                yield f"{form.removesuffix(ours)}{theirs}_lora"


def peft(name: str) -> Iterator[str]:
    """Yield PEFT's names: behind `base_model.model.`, or bare as one component is saved."""
    for form in (*diffusers(name), *bare(name)):
        yield f"base_model.model.{form}"
    yield from bare(name)


def kohya(name: str) -> Iterator[str]:
    """Yield kohya's names: `lora_unet_` and the path with its dots turned into underscores.

    The first is the most usual: with `text_model` in a text encoder's.
    """
    for form in reversed([*diffusers(name)]):
        component, _, path = form.partition(".")
        for prefix in KOHYA_PREFIXES.get(component, ()):
            yield prefix + path.replace(".", "_")


CLIP = "text_encoder"
DENOISERS = ("unet", "transformer")
COMPONENTS = (*DENOISERS, CLIP, "text_encoder_2")

KOHYA_DENOISER = ("lora_unet_", "lycoris_", "oft_unet_")
KOHYA_PREFIXES: Mapping[str, tuple[str, ...]] = {
    "unet": KOHYA_DENOISER,
    "transformer": (*KOHYA_DENOISER, "lora_transformer_"),
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder_2": ("lora_te3_", "lora_te2_"),  # kohya counts SD3's encoders, OneTrainer its own
}
KOHYA = tuple({prefix for prefixes in KOHYA_PREFIXES.values() for prefix in prefixes})
COMFYUI_PREFIXES: Mapping[str, tuple[str, ...]] = {
    "unet": ("diffusion_model.",),
    "transformer": ("diffusion_model.", "model.diffusion_model."),
    "text_encoder": (
        "text_encoders.clip_l.transformer.text_model.",
        "text_encoders.clip_l.text_model.",
    ),
    "text_encoder_2": ("text_encoders.t5xxl.transformer.", "text_encoders.t5xxl."),
}

ENCODERS: Mapping[str, tuple[str, ...]] = {
    CLIP: (
        *KOHYA_PREFIXES[CLIP],
        *("text_encoder.", "text_model.", "text_encoders.clip_l.", "cond_stage_model."),
    ),
    "text_encoder_2": (
        *KOHYA_PREFIXES["text_encoder_2"],
        *("text_encoder_2.", "text_encoders.t5xxl."),
    ),
}
"""What the keys of a text encoder begin with, whatever model it is part of."""


def absent_encoder(key: str, components: Collection[str]) -> str:
    """Return the text encoder that a key is for, if the base is without it; else nothing."""
    name = key.removeprefix("base_model.model.")
    for encoder, prefixes in ENCODERS.items():
        if encoder not in components and name.startswith(prefixes):
            return encoder
    return ""
