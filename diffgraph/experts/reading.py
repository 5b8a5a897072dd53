"""What is in an expert's file?

Its keys say which format it is in; whatever that is, out comes a `Delta`.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from diffgraph.errors import DamagedFile, FamilyMismatch, UnknownFormat
from diffgraph.experts.delta import (
    Coverage,
    Delta,
    LowRankUpdate,
    RenormalisedUpdate,
    Update,
    moved,
    norm,
)
from diffgraph.experts.formats import ADAPTERS, AdapterFormat, checkpoint, dora
from diffgraph.experts.formats.adapter import Parts
from diffgraph.experts.metadata import AlphaMetadata, evidence
from diffgraph.experts.naming import diffusers, kohya, lookup, old_diffusers, peft
from diffgraph.experts.naming_ldm import kohya_ldm, ldm
from diffgraph.experts.weights_file import WeightsFile, open_weights, shown

log = logging.getLogger(__name__)

MIN_SHARE = 0.9
"""The least share of a file's keys that must fit the base for it to count as made from it."""

LARGEST = torch.finfo(torch.float32).max
ALPHA = "alpha"
SUFFIXES: Mapping[str, str] = {
    suffix: role
    for table in (*(adapter.suffixes for adapter in ADAPTERS), dora.SUFFIXES, {".alpha": ALPHA})
    for suffix, role in table.items()
}
MARKS = frozenset(role for adapter in ADAPTERS for role in adapter.marks)
EMBEDDED = ("bundle_emb.",)  # token vectors beside the weights


def read_delta(path: Path, parameters: Mapping[str, Tensor], min_share: float = MIN_SHARE) -> Delta:
    """Return what the expert in a file adds to the base with these parameters.

    Args:
        path: a safetensors file from anywhere.
        parameters: the base's weights, by our names. They must stay as they are while the delta is
            used: give the untouched copy of a model whose weights a merge writes.
        min_share: below this share of understood keys the file is refused.

    Raises:
        UnsafeFile, DamagedFile, UnknownFormat, FamilyMismatch: by what is wrong with the file.
    """
    with open_weights(path) as file:
        roles = {key: _role(key) for key in file.entries}
        if MARKS.intersection(roles.values()):
            return _read_adapter(file, parameters, min_share)
        return _read_checkpoint(file, parameters, min_share)


@lru_cache(maxsize=8)
def _parameter_names(names: tuple[str, ...]) -> dict[str, str]:
    return lookup(names, (diffusers, ldm(names)))


@lru_cache(maxsize=8)
def _module_names(names: tuple[str, ...]) -> dict[str, str]:
    weights = tuple(name.removesuffix(".weight") for name in names if name.endswith(".weight"))
    return lookup(weights, (diffusers, old_diffusers, peft, kohya, kohya_ldm(names)))


def _suffix(key: str) -> str | None:
    """Return the longest known suffix of a key."""
    fitting = [suffix for suffix in SUFFIXES if key.endswith(suffix)]
    return max(fitting, key=len) if fitting else None


def _role(key: str) -> str | None:
    suffix = _suffix(key)
    return SUFFIXES[suffix] if suffix else None


@dataclass
class _Reading:
    """What has been made of a file so far."""

    updates: dict[str, Update]
    matched: list[str]
    skipped: list[str]
    unknown: list[str]

    def finish(self, file: WeightsFile, form: str) -> Delta:
        coverage = Coverage(
            matched=tuple(sorted(self.matched)),
            skipped=tuple(sorted(self.skipped)),
            unknown=tuple(sorted(self.unknown)),
            parameters=len(self.updates),
            bytes=file.size,
            norms=_norms_by_block(file.path.name, self.updates),
            evidence=evidence(file.metadata),
        )
        if self.unknown:
            log.debug("%s: %d keys not understood", file.path.name, len(self.unknown))
        return Delta(dict(sorted(self.updates.items())), form, coverage)


def _read_checkpoint(
    file: WeightsFile, parameters: Mapping[str, Tensor], min_share: float
) -> Delta:
    names = _parameter_names(tuple(parameters))
    matched = {key: names[key] for key in sorted(file.entries) if key in names}
    _refuse_repeats(file, matched)
    rest = [key for key in file.entries if key not in matched]
    skipped = [key for key in rest if checkpoint.is_skipped(key)]
    unknown = [key for key in rest if not checkpoint.is_skipped(key)]
    if not matched and not any(key.startswith(checkpoint.PREFIXES) for key in file.entries):
        raise UnknownFormat(f"{file.path.name}: no reader recognises its keys{_some(unknown)}")
    reading = _Reading({}, list(matched), skipped, unknown)
    # shapes first: a base of another size says more than a missing key
    reading.updates.update(checkpoint.read_updates(file, matched, parameters))
    _demand_share(file, reading, min_share)
    return reading.finish(file, "checkpoint")


def _read_adapter(file: WeightsFile, parameters: Mapping[str, Tensor], min_share: float) -> Delta:
    names = _module_names(tuple(parameters))
    groups, unknown, skipped = _group(file, names)
    reading = _Reading({}, [], skipped, unknown)
    alphas = AlphaMetadata.of(file)
    forms: Counter[str] = Counter()
    for module, keys in groups.items():
        form = _format_of(keys)
        if form is None:
            reading.unknown.extend(keys.values())
            continue
        weight = parameters[f"{module}.weight"]
        update = _build(form, _parts(file, module, keys, alphas), weight)
        forms[_described(form, update)] += 1
        reading.updates[f"{module}.weight"] = update
        reading.matched.extend(keys.values())
    _demand_share(file, reading, min_share)
    return reading.finish(file, _named(forms))


def _group(
    file: WeightsFile, names: Mapping[str, str]
) -> tuple[dict[str, dict[str, str]], list[str], list[str]]:
    """Return module -> role -> key, the keys that nobody knows, and those that don't matter."""
    groups: dict[str, dict[str, str]] = {}
    unknown, skipped = [], []
    for key in sorted(file.entries):
        suffix = _suffix(key)
        module = names.get(key.removesuffix(suffix)) if suffix else None
        if key.startswith(EMBEDDED):
            skipped.append(key)
        elif suffix is None or module is None:
            unknown.append(key)
        elif SUFFIXES[suffix] in groups.setdefault(module, {}):
            raise DamagedFile(f"{file.path.name}: {shown(key)} says again what another key says")
        else:
            groups[module][SUFFIXES[suffix]] = key
    return groups, unknown, skipped


def _format_of(keys: Mapping[str, str]) -> AdapterFormat | None:
    for form in ADAPTERS:
        if any(mark in keys for mark in form.marks):
            return form
    return None


def _parts(file: WeightsFile, module: str, keys: Mapping[str, str], alphas: AlphaMetadata) -> Parts:
    tensors = {role: file.tensor(key) for role, key in keys.items()}
    stated = tensors.pop(ALPHA, None)
    alpha, rooted = alphas.of_module(module)
    if stated is not None:
        if stated.numel() != 1:
            raise DamagedFile(f"{file.path.name}: {shown(keys[ALPHA])} is not one number")
        alpha, rooted = float(stated), False
    first = next(iter(keys.values()))
    return Parts(file.path.name, first.removesuffix(_suffix(first) or ""), tensors, alpha, rooted)


def _build(form: AdapterFormat, parts: Parts, weight: Tensor) -> Update:
    update = form.build(parts, weight.shape)
    return dora.renormalise(moved(update, weight.device), parts, weight)


def _described(form: AdapterFormat, update: Update) -> str:
    if isinstance(update, RenormalisedUpdate):
        return "dora"
    is_convolution = isinstance(update, LowRankUpdate) and math.prod(update.shape[2:]) > 1
    return "locon" if is_convolution else form.name


def _named(forms: Counter[str]) -> str:
    """Return the name of a file with so many modules of each format."""
    kinds = set(forms)
    if kinds == {"lora", "locon"}:
        return "locon"  # convolutions beside linear layers
    return "+".join(sorted(kinds))


def _refuse_repeats(file: WeightsFile, matched: Mapping[str, str]) -> None:
    seen: dict[str, str] = {}
    for key, name in matched.items():
        if name in seen:
            raise DamagedFile(
                f"{file.path.name}: {shown(key)} and {shown(seen[name])} are the same parameter"
            )
        seen[name] = key


def _demand_share(file: WeightsFile, reading: _Reading, min_share: float) -> None:
    matched, unknown = len(reading.matched), reading.unknown
    total = matched + len(unknown)
    if total and matched / total >= min_share and matched:
        return
    message = f"{file.path.name}: {matched} of {total} keys fit the base model{_some(unknown)}"
    strangers = [key for key in unknown if _suffix(key) is None]
    if len(strangers) > len(unknown) / 2 and not _is_whole_model(unknown):
        raise UnknownFormat(f"{message}; no reader understands the rest")
    raise FamilyMismatch(message)


def _is_whole_model(keys: Iterable[str]) -> bool:
    return any(key.startswith(checkpoint.PREFIXES) for key in keys)


def _some(keys: Iterable[str]) -> str:
    first = next(iter(sorted(keys)), None)
    return f" (not, for one, {shown(first)})" if first is not None else ""


def _norms_by_block(file: str, updates: Mapping[str, Update]) -> dict[str, float]:
    """Return the Frobenius norm of each block: `unet.down_blocks.0`, `text_encoder.encoder`, …."""
    squares: dict[str, float] = {}
    for name, update in updates.items():
        size = norm(update)
        if not size <= LARGEST:  # a NaN is not, either
            raise DamagedFile(f"{file}: what it adds to {name} is infinite or not a number")
        block = block_of(name)
        squares[block] = squares.get(block, 0.0) + size * size
    return {block: math.sqrt(square) for block, square in sorted(squares.items())}


def block_of(name: str) -> str:
    """Return the block that a parameter belongs to."""
    parts = name.split(".")
    numbered = len(parts) > 2 and parts[2].isdigit()
    return ".".join(parts[: 3 if numbered else 2])
