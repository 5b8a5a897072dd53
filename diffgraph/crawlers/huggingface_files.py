"""Which of a repository's files is the expert?

A trainer leaves what it saved on the way beside the final weights; makers put LoRAs into folders,
and several into one repository; a fine-tune may be a folder a component, as diffusers writes it.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import PurePosixPath

SUFFIX = ".safetensors"
USUAL_NAMES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
DENOISERS = ("unet", "transformer")
MERGED = (*DENOISERS, "text_encoder", "text_encoder_2")
OTHER_PARTS = frozenset(
    "vae vae_decoder vae_encoder safety_checker feature_extractor image_encoder tokenizer "
    "tokenizer_2 tokenizer_3 text_encoder_3 scheduler controlnet samples images optimizer".split()
)
"""Folders of what is never merged."""
NO_EXPERT = re.compile(
    r"(?:^|[-_.])(?:vae|optimizer|scheduler|random_states|emb|embeddings?|inpaint\w*|refiner|clip"
    r"|ip[-_]?adapter|controlnet|t2i)(?:[-_.]|$)",
    re.I,
)
_ON_THE_WAY = re.compile(
    r"(?:[-_. ](?:steps?|epochs?|ep|e|ckpt|checkpoint|iter)[-_. ]?(\d+)|[-_](0\d{3,}))$", re.I
)
_NUMBERED = re.compile(r"(?:^|[-_. ])(\d+)$")
_FINAL = re.compile(r"(?:(?<=[^/])[-_. ]|(?<![^/]))(?:final|last|latest)$", re.I)
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
"""A piece of a file: no expert by itself."""
_VERSION = re.compile(r"[-_. ]v(?:er)?\.?(\d+(?:\.\d+)?)(?=[-_. ]|$)", re.I)
FINAL = 1 << 62


def choose_files(names: Iterable[str], relation: str) -> tuple[str, ...]:
    """Return which files of a repository are experts, one each, the first the one it is for.

    Args:
        names: The paths of all its files.
        relation: `adapter` or `finetune`: how it was made from its base.
    """
    weights = sorted(name for name in names if name.endswith(SUFFIX))
    root = [name for name in weights if "/" not in name]
    deeper = [name for name in weights if "/" in name and not _parts(name) & _COMPONENTS]
    usual = [name for name in USUAL_NAMES if name in root] if relation == "adapter" else []
    if usual:
        return (usual[0],)
    if root:
        return _best(root)
    if relation == "finetune" and components_of(weights):
        return (next(iter(components_of(weights).values()))[0],)
    return _best(deeper)


def components_of(names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return the weights of each merged component of a folder in diffusers' layout.

    Full precision is preferred to half, averaged weights to others, as diffusers does; nothing is
    returned without a denoiser.
    """
    found: dict[str, tuple[str, ...]] = {}
    for component in MERGED:
        own = sorted(
            name
            for name in names
            if name.endswith(SUFFIX) and str(PurePosixPath(name).parent) == component
        )
        own = [name for name in own if ".non_ema" not in name and "lora" not in name.lower()]
        whole = [name for name in own if ".fp16" not in name] or own
        if whole:
            found[component] = tuple(whole)
    return found if found.keys() & set(DENOISERS) else {}


_COMPONENTS = frozenset(MERGED) | OTHER_PARTS


def _parts(name: str) -> set[str]:
    return set(PurePosixPath(name).parts[:-1])


def _best(names: Sequence[str]) -> tuple[str, ...]:
    """Return the final file of each expert."""
    names = [name for name in names if not _SHARD.search(PurePosixPath(name).stem)]
    experts = [name for name in names if not NO_EXPERT.search(PurePosixPath(name).stem)]
    stems = [str(PurePosixPath(name).with_suffix("")) for name in names]
    groups: dict[str, list[tuple[tuple[float, int], str]]] = defaultdict(list)
    for name in experts or names:
        key, rank = _place(name, stems)
        groups[key].append((rank, name))
    finals = [max(group)[1] for _, group in sorted(groups.items())]
    finals.sort(key=lambda name: (PurePosixPath(name).name not in USUAL_NAMES, name.count("/")))
    return tuple(finals)


def _place(name: str, stems: Collection[str]) -> tuple[str, tuple[float, int]]:
    """Return which expert a file belongs to, and how late it was saved."""
    stem = str(PurePosixPath(name).with_suffix(""))
    step = FINAL
    folder, _, last = stem.rpartition("/")
    if folder and (found := _FINAL.search(folder)) is not None:
        folder = folder[: found.start()].rstrip("/")
        stem = f"{folder}/{last}".lstrip("/")
    if (found := _FINAL.search(stem)) is not None:
        stem = stem[: found.start()]
    elif (found := re.search(r"(?:^|/)(?:checkpoint|epoch|step)s?[-_]?(\d+)$", folder)) is not None:
        stem, step = f"{folder[: found.start()]}/{last}".lstrip("/"), int(found.group(1))
    elif (found := _ON_THE_WAY.search(stem)) is not None:
        stem, step = stem[: found.start()], int(found.group(1) or found.group(2))
    elif (found := _NUMBERED.search(stem)) is not None and (
        stem[: found.start()] in stems or _counts_steps(stem[: found.start()], stems)
    ):
        stem, step = stem[: found.start()], int(found.group(1))
    version = 0.0
    if (found := _VERSION.search(stem)) is not None:
        stem, version = stem[: found.start()] + stem[found.end() :], float(found.group(1))
    return stem.lower(), (version, min(step, FINAL))


def _counts_steps(name: str, stems: Collection[str]) -> bool:
    """Tell whether numbers behind a name count steps: there are several, and all in hundreds."""
    found = [step for stem in stems if (step := _NUMBERED.search(stem))]
    steps = [step[1] for step in found if step.string[: step.start()] == name]
    return len(steps) > 1 and min(map(len, steps)) > 2
