"""How does a merged model become a folder that `from_pretrained` loads?

The weights are written anew, a file for each component; configurations and tokenizers are the
base's own.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from diffgraph.artifacts import new_folder
from diffgraph.errors import MissingInput
from diffgraph.families import get_family
from diffgraph.foreign_files import parse_strict, read_foreign
from diffgraph.merging.base_files import AUTOENCODER, DENOISERS, TEXT_ENCODERS
from diffgraph.merging.layouts import OutputTensor, diffusers
from diffgraph.merging.plan_files import ABOUT
from diffgraph.merging.to_file import FileMerge, OnProgress

WEIGHTS = dict.fromkeys(TEXT_ENCODERS, "model.safetensors")
USUAL_WEIGHTS = "diffusion_pytorch_model.safetensors"
MOST_BYTES = 1 << 20  # of a configuration
USUAL_TYPE = "float32"
TYPE_KEYS = ("dtype", "torch_dtype")  # transformers' word, now and before version 5
COPIED = ("*.json", "*.txt", "*.model")
SHARDS = ".index.json"  # says which of several files holds what: one file needs none
LEFT_OUT_PARTS = ("safety_checker", "feature_extractor")  # parts of a pipeline, not of the model
UNCHECKED = "requires_safety_checker"  # else the lack of one is warned of at every start
PIPELINES = {"unet": "StableDiffusionPipeline", "transformer": "FluxPipeline"}


def write_folder(
    merge: FileMerge,
    folder: Path,
    dtype: torch.dtype,
    metadata: Mapping[str, str],
    on_progress: OnProgress | None = None,
    card: str = "",
) -> None:
    """Write a folder in the diffusers layout, whole or not at all.

    What a merge wrote there before goes; whoever calls has asked. `card` is its README.md.

    Raises:
        MissingInput: there is a folder that no merge wrote, or the base lacks a component.
        StorageError, DamagedFile, PlanError: as `FileMerge.write`.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / ABOUT).is_file():
        raise MissingInput(f"{folder} is a folder that no merge wrote: it stays")
    base = merge.base
    components = diffusers(base)
    components[AUTOENCODER] = {
        key: OutputTensor(stored.value.shape, copied=stored)
        for key, stored in base.autoencoder.items()
    }
    for component in (*DENOISERS, *TEXT_ENCODERS, AUTOENCODER):
        if not components.get(component) and (base.folder / component / "config.json").is_file():
            raise MissingInput(
                f"{base.folder} lacks the weights of its {component}, which a folder holds; "
                "a single file does without"
            )
    with new_folder(folder, replace=True) as part:
        for component, outputs in components.items():
            path = part / component / WEIGHTS.get(component, USUAL_WEIGHTS)
            merge.write(path, outputs, dtype, metadata, on_progress)
        for file in _kept(base.folder):
            target = part / file.relative_to(base.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            if file.name == "config.json":
                target.write_text(_typed(file), encoding="utf-8")
            else:
                shutil.copyfile(file, target)
        index = _index(part)
        if name := get_family(merge.plan.family).sampler_names.diffusers:
            index["scheduler"] = _sampled_as_we_do(part / "scheduler", name)
        (part / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
        if card:
            (part / "README.md").write_text(card, encoding="utf-8")
        facts = {key: value for key, value in metadata.items() if key != "format"}
        (part / ABOUT).write_text(json.dumps(facts, indent=2, ensure_ascii=False))


def _kept(folder: Path) -> Iterator[Path]:
    for pattern in COPIED:
        for file in sorted((*folder.glob(pattern), *folder.glob(f"*/{pattern}"))):
            if not file.name.endswith(SHARDS) and file.parent.name not in LEFT_OUT_PARTS:
                yield file


def _typed(file: Path) -> str:
    """Return a configuration with which all components are loaded in one type.

    Unless one is asked for, diffusers loads its own in float32, transformers its own in what their
    configuration says.
    """
    config = _described(file)
    if "architectures" in config:  # it is transformers'
        told = {key: USUAL_TYPE for key in TYPE_KEYS if key in config}
        config |= told or {TYPE_KEYS[-1]: USUAL_TYPE}  # the one that all versions know
    return json.dumps(config, indent=2) + "\n"


def _described(file: Path) -> dict[str, Any]:
    """Return what a configuration says; raises `MissingInput` if it says nothing."""
    try:
        found = parse_strict(read_foreign(file, MOST_BYTES))
    except ValueError as error:
        raise MissingInput(f"{file} describes nothing: {error}") from error
    if not isinstance(found, dict):
        raise MissingInput(f"{file} describes nothing: it is no object")
    return found


def _sampled_as_we_do(folder: Path, name: str) -> tuple[str, str]:
    """Make the base's scheduler the one that the family draws with; return its class."""
    import diffusers

    scheduler = getattr(diffusers, name).from_pretrained(folder, local_files_only=True)
    scheduler.save_pretrained(folder)
    return "diffusers", name


def _index(folder: Path) -> dict[str, object]:
    """Return which class each part is of: the base's own word, or what the parts say."""
    stated = folder / "model_index.json"
    if stated.is_file():
        index = _described(stated)
        left_out: dict[str, object] = {
            name: [None, None] for name in LEFT_OUT_PARTS if name in index
        }
        return index | left_out | ({UNCHECKED: False} if LEFT_OUT_PARTS[0] in index else {})
    parts: dict[str, object] = {}
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        found = _class_of(part)
        if found is not None:
            parts[part.name] = found
    pipeline = next(name for part, name in PIPELINES.items() if part in parts)
    missing = (
        {}
        if pipeline != "StableDiffusionPipeline"
        else {**dict.fromkeys(LEFT_OUT_PARTS, (None, None)), UNCHECKED: False}
    )
    return {"_class_name": pipeline, **parts, **missing}


def _class_of(part: Path) -> tuple[str, str] | None:
    for name in ("config.json", "scheduler_config.json", "tokenizer_config.json"):
        if (part / name).is_file():
            config = _described(part / name)
            if "_class_name" in config:
                return "diffusers", config["_class_name"]
            if "architectures" in config:
                return "transformers", config["architectures"][0]
            if "tokenizer_class" in config:
                return "transformers", config["tokenizer_class"]
    return None
