"""What is in an expert's file?

Its keys say which format it is in; whatever that is, out comes a `Delta`. `open_delta` looks at the
header and maps the rest; `read_delta` also looks at every number.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from diffgraph.errors import DamagedFile, ExpertError, FamilyMismatch, UnknownFormat
from diffgraph.experts.adapter_files import ParsedFile, is_adapter, open_adapter
from diffgraph.experts.adapter_keys import split
from diffgraph.experts.base_models import made_for, refuse_other_base
from diffgraph.experts.delta import Coverage, Delta, Origin
from diffgraph.experts.formats import checkpoint
from diffgraph.experts.inspection import inspect
from diffgraph.experts.metadata import evidence
from diffgraph.experts.naming_index import Placements, key_index
from diffgraph.experts.peft_configuration import PeftConfiguration
from diffgraph.experts.unsupported_files import refuse_quantised_keys, refuse_unmergeable
from diffgraph.experts.weights_file import WeightsFile, open_weights, shown

MIN_SHARE = 0.9
"""The least share of a file's keys that must fit the base for it to count as made from it."""


def read_delta(
    path: Path,
    parameters: Mapping[str, Tensor],
    min_share: float = MIN_SHARE,
    prediction: str = "",
) -> Delta:
    """Return what the expert in a file adds to the base with these parameters, looked at in full.

    Args:
        path: a safetensors file from anywhere.
        parameters: the base's weights, by our names. They must stay as they are while the delta is
            used: give the untouched copy of a model whose weights a merge writes.
        min_share: below this share of understood keys the file is refused.
        prediction: what the base's denoiser predicts (`epsilon`, `velocity`, `flow`), to refuse
            models that say they predict something else; by default nobody asks.

    Raises:
        UnsafeFile, DamagedFile, UnknownFormat, FamilyMismatch: by what is wrong with the file.
    """
    return inspect(open_delta(path, parameters, min_share, prediction))


def open_delta(
    path: Path,
    parameters: Mapping[str, Tensor],
    min_share: float = MIN_SHARE,
    prediction: str = "",
) -> Delta:
    """Return the same from the file's header alone: its numbers are read when they are used.

    For a file that `read_delta` has judged before, told by its hash. Whether its numbers are
    finite, `Delta.check` says; the norms of its coverage are missing.

    Raises:
        UnsafeFile, DamagedFile, UnknownFormat, FamilyMismatch: by what is wrong with the file.
    """
    with open_weights(path) as file:
        refuse_unmergeable(file, prediction)
        adapts = is_adapter(file)
        configuration = PeftConfiguration.of(file, wanted=adapts)
        refuse_other_base(file, configuration.config, parameters)
        try:
            if adapts:
                opened = open_adapter(file, parameters, configuration)
            else:
                opened = _open_checkpoint(file, parameters)
            _demand_share(file, opened, min_share)
        except FamilyMismatch as error:
            base = made_for(file)
            raise FamilyMismatch(f"{error}; it looks made for {base}" if base else error) from error
    coverage = Coverage(
        matched=opened.matched,
        skipped=tuple(sorted(opened.skipped)),
        absent={encoder: len(keys) for encoder, keys in sorted(opened.absent.items())},
        unknown=tuple(sorted(opened.unknown)),
        parameters=len(opened.updates),
        bytes=file.size,
        evidence=(*_shapes(file), *evidence(file.metadata), *opened.remarks),
    )
    updates = dict(sorted(opened.updates.items()))
    return Delta(updates, opened.format, coverage, Origin(file, opened.keys))


def _open_checkpoint(file: WeightsFile, parameters: Mapping[str, Tensor]) -> ParsedFile:
    names = key_index(parameters).parameters
    matched = {key: names[key] for key in sorted(file.entries) if key in names}
    _refuse_repeats(file, matched)
    rest = [key for key in file.entries if key not in matched]
    opened = ParsedFile("checkpoint")
    opened.skipped = [key for key in rest if checkpoint.is_skipped(key)]
    components = {name.partition(".")[0] for name in parameters}
    for key in rest:
        if not checkpoint.is_skipped(key):
            opened.leave(key, components)
    if not matched and not any(key.startswith(checkpoint.PREFIXES) for key in file.entries):
        raise _unreadable(file, f"no reader recognises its keys{_some(rest)}")
    refuse_quantised_keys(file, matched)
    # shapes first: a base of another size says more than a missing key
    for key, placements in matched.items():
        for name, update in checkpoint.updates_of(file, key, placements, parameters):
            opened.add(name, update, [key])
    return opened


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


def _demand_share(file: WeightsFile, opened: ParsedFile, min_share: float) -> None:
    matched, unknown = len(opened.matched), opened.unknown
    total = matched + len(unknown)
    if total and matched / total >= min_share and matched:
        return
    message = f"{matched} of {total} keys fit the base model{_some(unknown)}"
    if not total and opened.absent:
        encoders = " and ".join(sorted(opened.absent))
        raise FamilyMismatch(f"{file.path.name}: is for {encoders} alone, which the base lacks")
    if not total:
        raise UnknownFormat(f"{file.path.name}: holds nothing that is ever merged")
    strangers = [key for key in unknown if (split(key) or ("", "ia3_weight"))[1] == "ia3_weight"]
    if len(strangers) > len(unknown) / 2 and not _is_whole_model(unknown):
        raise _unreadable(file, f"{message}; no reader understands the rest")
    raise FamilyMismatch(f"{file.path.name}: {message}")


def _unreadable(file: WeightsFile, why: str) -> ExpertError:
    """Return what to raise of keys that mean nothing here: perhaps they do to another base."""
    error = FamilyMismatch if made_for(file) else UnknownFormat
    return error(f"{file.path.name}: {why}")


def _is_whole_model(keys: Iterable[str]) -> bool:
    return any(key.startswith(checkpoint.PREFIXES) for key in keys)


def _some(keys: Iterable[str]) -> str:
    first = next(iter(sorted(keys)), None)
    return f" (not, for one, {shown(first)})" if first is not None else ""


def _shapes(file: WeightsFile) -> tuple[str, ...]:
    base = made_for(file)
    return (f"the shapes of {base}",) if base else ()
