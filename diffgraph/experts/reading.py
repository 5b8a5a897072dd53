"""What is in an expert's file?

Its keys say which format it is in; whatever that is, out comes a `Delta`. `open_delta` looks at the
header and maps the rest; `read_delta` also looks at every number.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from diffgraph.errors import DamagedFile, ExpertError, FamilyMismatch, UnknownFormat
from diffgraph.experts.adapter_files import ParsedFile, is_adapter, open_adapter
from diffgraph.experts.adapter_keys import split
from diffgraph.experts.base_models import evidence, made_for, refuse_other_base
from diffgraph.experts.delta import Coverage, Delta, Origin
from diffgraph.experts.formats import checkpoint
from diffgraph.experts.naming_index import Placements, key_index
from diffgraph.experts.peft_configuration import PeftConfiguration
from diffgraph.experts.unsupported_files import refuse_quantised_keys, refuse_unmergeable
from diffgraph.experts.updates import CheckpointUpdate, Update, norm
from diffgraph.experts.weights_file import WeightsFile, open_weights, shown

LARGEST = torch.finfo(torch.float32).max
MIN_SHARE = 0.9
"""The least share of a file's keys that must fit the base for it to count as made from it."""


def read_delta(
    path: Path,
    parameters: Mapping[str, Tensor],
    min_share: float = MIN_SHARE,
    prediction: str = "",
    copied: bool = False,
) -> Delta:
    """Return what the expert in a file adds to the base with these parameters, looked at in full.

    Args:
        path: a safetensors file from anywhere.
        parameters: the base's weights, by our names; they must not change while the delta is used.
        min_share: below this share of understood keys the file is refused.
        prediction: what the base's denoiser predicts (`epsilon`, `velocity`, `flow`), to refuse
            models that say they predict something else; empty: not asked.
        copied: read the file into memory instead of mapping it: see references.py.

    Raises:
        UnsafeFile, DamagedFile, UnknownFormat, FamilyMismatch: by what is wrong with the file.
    """
    return _inspected(open_delta(path, parameters, min_share, prediction, copied))


def _inspected(delta: Delta) -> Delta:
    """Return a delta with the norms of its blocks, without parameters that equal the base's."""
    squares: dict[str, float] = {}
    updates: dict[str, Update] = {}
    for name, update in delta.updates.items():
        size = norm(update)
        if not size <= LARGEST:  # a NaN is not, either
            delta.check(name)
            raise DamagedFile(
                f"{delta.file_name}: what it adds to {name} is infinite or not a number"
            )
        delta.release(name)
        if size == 0 and isinstance(update, CheckpointUpdate):
            continue
        updates[name] = update
        parts = name.split(".")
        numbered = len(parts) > 2 and parts[2].isdigit()
        block = ".".join(parts[: 3 if numbered else 2])
        squares[block] = squares.get(block, 0.0) + size * size
    norms = {block: math.sqrt(square) for block, square in sorted(squares.items())}
    coverage = replace(delta.coverage, parameters=len(updates), norms=norms)
    return replace(delta, updates=updates, coverage=coverage)


def open_delta(
    path: Path,
    parameters: Mapping[str, Tensor],
    min_share: float = MIN_SHARE,
    prediction: str = "",
    copied: bool = False,
) -> Delta:
    """Return the same from the file's header alone, for a file that `read_delta` has judged before.

    Whether its numbers are finite, `Delta.check` says; the norms of its coverage are missing.
    """
    file = open_weights(path, copied)
    refuse_unmergeable(file, prediction)
    adapts = is_adapter(file)
    configuration = PeftConfiguration.of(file, wanted=adapts)
    refuse_other_base(file, configuration.config, parameters)
    try:
        if adapts:
            parsed = open_adapter(file, parameters, configuration)
        else:
            parsed = _open_checkpoint(file, parameters)
        _demand_share(file, parsed, min_share)
    except FamilyMismatch as error:
        base = made_for(file)
        raise FamilyMismatch(f"{error}; it looks made for {base}" if base else error) from error
    base = made_for(file)
    shapes = (f"the shapes of {base}",) if base else ()
    coverage = Coverage(
        matched=parsed.matched,
        skipped=tuple(sorted(parsed.skipped)),
        absent={encoder: len(keys) for encoder, keys in sorted(parsed.absent.items())},
        unknown=tuple(sorted(parsed.unknown)),
        parameters=len(parsed.updates),
        bytes=file.size,
        evidence=(*shapes, *evidence(file.metadata), *parsed.remarks),
    )
    updates = dict(sorted(parsed.updates.items()))
    return Delta(updates, parsed.format, coverage, Origin(file, parsed.keys))


def _open_checkpoint(file: WeightsFile, parameters: Mapping[str, Tensor]) -> ParsedFile:
    names = key_index(parameters).parameters
    matched = {key: names[key] for key in sorted(file.entries) if key in names}
    _refuse_repeats(file, matched)
    rest = [key for key in file.entries if key not in matched]
    parsed = ParsedFile(file, parameters, "checkpoint")
    parsed.skipped = [key for key in rest if checkpoint.is_skipped(key)]
    for key in rest:
        if not checkpoint.is_skipped(key):
            parsed.leave(key)
    if not matched and not _are_whole(file.entries):
        raise _unreadable(file, f"no reader recognises its keys{_some(rest)}")
    refuse_quantised_keys(file, matched)
    # shapes first: a base of another size says more than a missing key
    for key, placements in matched.items():
        for name, update in checkpoint.updates_of(file, key, placements, parameters):
            parsed.add(name, update, [key])
    return parsed


def _refuse_repeats(file: WeightsFile, matched: Mapping[str, Placements]) -> None:
    seen: dict[str, str] = {}
    for key, placements in matched.items():
        for placement in placements:
            if placement.name in seen:
                raise DamagedFile(
                    f"{file.path.name}: {shown(key)} and {shown(seen[placement.name])} "
                    "are the same parameter"
                )
            seen[placement.name] = key


def _demand_share(file: WeightsFile, parsed: ParsedFile, min_share: float) -> None:
    matched, unknown = len(parsed.matched), parsed.unknown
    total = matched + len(unknown)
    if total and matched / total >= min_share and matched:
        return
    message = f"{matched} of {total} keys fit the base model{_some(unknown)}"
    if not total and parsed.absent:
        encoders = " and ".join(sorted(parsed.absent))
        raise FamilyMismatch(f"{file.path.name}: is for {encoders} alone, which the base lacks")
    if not total:
        raise UnknownFormat(f"{file.path.name}: holds nothing that is ever merged")
    unread = [key for key in unknown if (split(key) or ("", "ia3_weight"))[1] == "ia3_weight"]
    if len(unread) > len(unknown) / 2 and not _are_whole(unknown):
        raise _unreadable(file, f"{message}; no reader understands the rest")
    raise FamilyMismatch(f"{file.path.name}: {message}")


def _unreadable(file: WeightsFile, why: str) -> ExpertError:
    error = FamilyMismatch if made_for(file) else UnknownFormat
    return error(f"{file.path.name}: {why}")


def _are_whole(keys: Iterable[str]) -> bool:
    return any(key.startswith(checkpoint.PREFIXES) for key in keys)


def _some(keys: Iterable[str]) -> str:
    first = next(iter(sorted(keys)), None)
    return f" (not, for one, {shown(first)})" if first is not None else ""
