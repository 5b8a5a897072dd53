"""How is an image of a plan drawn by diffusers alone?

A script in Python that needs torch, diffusers and peft, and nothing of ours. It can say LoRAs on a
base, or on one whole checkpoint; everything else has to be merged first.
"""

from collections.abc import Iterator

from diffgraph.errors import PlanError
from diffgraph.merging.generation_settings import GenerationSettings
from diffgraph.merging.sources import MergeSources
from diffgraph.prompting.weights import weighted, without_weights

LOADED = ("lora", "locon")
"""The formats of PEFT experts that diffusers reads whole."""
FROM_FOLDER = {
    "StableDiffusionPipeline": """\
pipeline = StableDiffusionPipeline.from_pretrained(
    {place!r}, torch_dtype=dtype, safety_checker=None, requires_safety_checker=False
)""",
    "FluxPipeline": "pipeline = FluxPipeline.from_pretrained({place!r}, torch_dtype=dtype)",
}
FROM_FILE = {
    "StableDiffusionPipeline": """\
pipeline = StableDiffusionPipeline.from_single_file(
    {file!r}, config={place!r}, torch_dtype=dtype, safety_checker=None
)""",
    "FluxPipeline": """\
transformer = FluxTransformer2DModel.from_single_file(
    {file!r}, config={place!r}, subfolder="transformer", torch_dtype=dtype
)
pipeline = FluxPipeline.from_pretrained({place!r}, transformer=transformer, torch_dtype=dtype)""",
}
SCRIPT = """\
import torch
from diffusers import {classes}

device = "cuda" if torch.cuda.is_available() else "cpu"
dtype = {dtype}
{pipeline}
pipeline.to(device)
{adapters}{note}image = pipeline(
    {arguments},
    generator=torch.Generator("cpu").manual_seed({seed}),
).images[0]
image.save("image.png")"""

UNWEIGHTED = """\
# diffusers takes the brackets of weights, and BREAK, for words: they are left out of the prompt;
# with compel or sd_embed they are obeyed
"""


def diffusers_script(sources: MergeSources, drawn: GenerationSettings) -> str:
    """Return the script; it writes `image.png`.

    Raises:
        PlanError: diffusers has no words for the plan, or a file has gone.
    """
    sources.demand_linear("diffusers")
    family, scheduler = drawn.family, drawn.family.sampler_names.diffusers
    model = [_model(sources)]
    if scheduler:
        model.append(f"pipeline.scheduler = {scheduler}.from_config(pipeline.scheduler.config)")
    named = ("FluxTransformer2DModel", *FROM_FILE)
    classes = {name for name in named if f"{name}." in model[0]} | {*filter(None, [scheduler])}
    plain = {"prompt": drawn.text, "negative_prompt": drawn.negative}
    arguments = {
        **{name: " ".join(without_weights(text).split()) for name, text in plain.items() if text},
        **({"clip_skip": drawn.clip_skip - 1} if drawn.clip_skip > 1 else {}),
        "num_inference_steps": drawn.sampler.steps,
        "guidance_scale": drawn.sampler.guidance,
        "width": drawn.width,
        "height": drawn.height,
    }
    half = "bfloat16" if family.is_guidance_distilled else "float16"
    return SCRIPT.format(
        classes=", ".join(sorted(classes)),
        dtype=f'torch.{half} if device == "cuda" else torch.float32',
        pipeline="\n".join(model),
        adapters="".join(f"{line}\n" for line in _adapters(sources)),
        note="" if all(weighted(text).is_plain for text in plain.values()) else UNWEIGHTED,
        arguments=",\n    ".join(f"{name}={value!r}" for name, value in arguments.items()),
        seed=drawn.seed,
    )


def _model(sources: MergeSources) -> str:
    """Return what loads the model below the LoRAs."""
    base, ref = sources.base, sources.checkpoint
    if ref is None:
        raise PlanError(
            f"plan {sources.plan.id} mixes checkpoints, which diffusers cannot: leave them out "
            "(--without), or write a folder with `diffgraph merge`"
        )
    kind = "FluxPipeline" if sources.plan.family == "flux" else "StableDiffusionPipeline"
    file = str(sources.path_of(ref)) if ref else base.path
    form = FROM_FILE if file else FROM_FOLDER
    return form[kind].format(file=file, place=base.folder)


def _adapters(sources: MergeSources) -> Iterator[str]:
    """Yield what loads the LoRAs and sets their strengths."""
    strengths = {}
    for number, (ref, strength) in enumerate(sources.of_kind("peft"), 1):
        form = sources.experts[ref].format
        if form not in LOADED:
            raise PlanError(
                f"{ref} is a {form}, which diffusers does not load: `diffgraph merge` writes a "
                "folder that it does"
            )
        strengths[f"expert{number}"] = strength
        path = str(sources.path_of(ref))
        yield f"# {_comment(sources.experts[ref].name)}, {ref}"
        yield f"pipeline.load_lora_weights({path!r}, adapter_name='expert{number}')"
    if strengths:
        yield f"pipeline.set_adapters({list(strengths)}, {list(strengths.values())})"


def _comment(name: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in name)
