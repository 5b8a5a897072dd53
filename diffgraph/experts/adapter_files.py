"""Which updates do the keys of an adapter's file make?

Keys are grouped by the module they belong to; the roles of a group tell its format. A module that
the file's maker fuses from several of ours is built whole and then cut by rows.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffgraph.errors import DamagedFile
from diffgraph.experts.delta import LowRankUpdate, RenormalisedUpdate, SumUpdate, Update, moved
from diffgraph.experts.formats import ADAPTERS, AdapterFormat, dora
from diffgraph.experts.formats.adapter import Parts
from diffgraph.experts.metadata import AlphaMetadata
from diffgraph.experts.naming_index import Placement, Placements, names_of
from diffgraph.experts.updates import rows_of
from diffgraph.experts.weights_file import WeightsFile, shown

ALPHA = "alpha"
SUFFIXES: Mapping[str, str] = {
    suffix: role
    for table in (*(adapter.suffixes for adapter in ADAPTERS), dora.SUFFIXES, {".alpha": ALPHA})
    for suffix, role in table.items()
}
BY_LENGTH = sorted(SUFFIXES, key=len, reverse=True)
MARKS = frozenset(role for adapter in ADAPTERS for role in adapter.marks)
RENORMALISED = frozenset(dora.SUFFIXES.values())
EMBEDDED = ("bundle_emb.",)  # token vectors beside the weights


@dataclass
class Opened:
    """What has been made of a file's keys."""

    format: str = ""
    updates: dict[str, Update] = field(default_factory=dict)
    keys: dict[str, tuple[str, ...]] = field(default_factory=dict)  # parameter -> keys
    skipped: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    remarks: tuple[str, ...] = ()

    @property
    def matched(self) -> tuple[str, ...]:
        """The keys that became part of an update."""
        return tuple(sorted({key for keys in self.keys.values() for key in keys}))

    def add(self, name: str, update: Update, keys: Iterable[str]) -> None:
        """Add an update of a parameter to those that it has already."""
        before = self.updates.get(name)
        self.updates[name] = update if before is None else SumUpdate((before, update))
        self.keys[name] = (*self.keys.get(name, ()), *keys)


def suffix_of(key: str) -> str | None:
    """Return the longest known suffix of an adapter's key."""
    return next((suffix for suffix in BY_LENGTH if key.endswith(suffix)), None)


def is_adapter(file: WeightsFile) -> bool:
    """Whether a file has keys that only adapters have."""
    found = (suffix_of(key) for key in file.entries)
    return any(suffix is not None and SUFFIXES[suffix] in MARKS for suffix in found)


def open_adapter(file: WeightsFile, parameters: Mapping[str, Tensor]) -> Opened:
    """Return the updates of an adapter's file, of whose large tensors nothing is read.

    Raises:
        DamagedFile, FamilyMismatch, UnknownFormat: parts that do not fit together or the base.
    """
    opened = Opened()
    alphas = AlphaMetadata.of(file)
    forms: Counter[str] = Counter()
    rows = _Rows(file.path.name)
    alpha_missing = False
    for placements, keys in _groups(file, names_of(parameters).modules, opened).items():
        parts = _parts(file, placements, keys, alphas)
        alpha_missing |= parts.alpha is None
        used: set[str] = set()
        for form in ADAPTERS:
            if not any(mark in keys for mark in form.marks):
                continue
            whole = _Whole.of(placements, form.touches, parameters)
            if whole is None:
                continue  # its keys stay unknown
            roles = _roles(form, keys)
            used |= roles
            update = _build(form, parts, whole)
            if update is None:
                continue
            forms[_described(form, update)] += form.touches == "weight"
            for name, cut in whole.cut(update):
                rows.claim(name, form.touches, placements, keys)
                opened.add(name, cut, [keys[role] for role in sorted(roles)])
        opened.unknown.extend(key for role, key in keys.items() if role not in used)
    opened.format = _named(forms) or "full"
    if alpha_missing and set(forms) & {"lora", "locon"}:
        opened.remarks = ("no alpha is stated: the rank is taken",)
    return opened


def _groups(
    file: WeightsFile, names: Mapping[str, Placements], opened: Opened
) -> dict[Placements, dict[str, str]]:
    """Return module -> role -> key; keys that nobody knows or that don't matter go to `opened`."""
    groups: dict[Placements, dict[str, str]] = {}
    for key in sorted(file.entries):
        suffix = suffix_of(key)
        placements = names.get(key.removesuffix(suffix)) if suffix else None
        if key.startswith(EMBEDDED):
            opened.skipped.append(key)
        elif suffix is None or placements is None:
            opened.unknown.append(key)
        elif SUFFIXES[suffix] in groups.setdefault(placements, {}):
            raise DamagedFile(f"{file.path.name}: {shown(key)} says again what another key says")
        else:
            groups[placements][SUFFIXES[suffix]] = key
    return groups


def _parts(
    file: WeightsFile, placements: Placements, keys: Mapping[str, str], alphas: AlphaMetadata
) -> Parts:
    tensors = {role: file.tensor(key) for role, key in keys.items()}
    stated = tensors.pop(ALPHA, None)
    first = next(iter(keys.values()))
    module = first.removesuffix(suffix_of(first) or "")
    alpha, rooted = alphas.of_module(placements[0].name, module)
    if stated is not None:
        if stated.numel() != 1:
            raise DamagedFile(f"{file.path.name}: {shown(keys[ALPHA])} is not one number")
        file.check(keys[ALPHA])
        alpha, rooted = float(stated), False
    settings = alphas.settings(placements[0].name)
    return Parts(file.path.name, module, tensors, alpha, rooted, settings)


def _roles(form: AdapterFormat, keys: Mapping[str, str]) -> set[str]:
    """Return the roles of a group that a format reads."""
    roles = {*form.suffixes.values(), *form.marks, ALPHA}
    if form.touches == "weight":
        roles |= RENORMALISED
    return roles & keys.keys()


@dataclass(frozen=True)
class _Whole:
    """The parameter that a module of the file changes: one of ours, or several as one."""

    pieces: tuple[tuple[Placement, str, Tensor], ...]  # where, our parameter's name, its base

    @classmethod
    def of(
        cls, placements: Placements, kind: str, parameters: Mapping[str, Tensor]
    ) -> "_Whole | None":
        """Return the parameter of a kind, or None if the base has none."""
        names = [f"{placement.name}.{kind}" for placement in placements]
        if not all(name in parameters for name in names):
            return None
        bases = [parameters[name] for name in names]
        return cls(tuple(zip(placements, names, bases, strict=True)))

    @property
    def is_one(self) -> bool:
        """Whether it is a parameter of ours just as it is."""
        return not self.pieces[0][0].rows

    def base(self, needed: bool) -> Tensor:
        """Return the base's value; where it is fused and not needed, a shape without numbers."""
        first = self.pieces[0][2]
        if self.is_one:
            return first
        height = max(stop for where, _, _ in self.pieces for _, stop in where.rows)
        shape = (height, *first.shape[1:])
        if not needed:
            return torch.empty(shape, dtype=first.dtype, device="meta")
        whole = torch.zeros(shape, dtype=first.dtype, device=first.device)
        for where, _, base in self.pieces:
            where.put(whole, base)
        return whole

    def cut(self, update: Update) -> Iterator[tuple[str, Update]]:
        """Yield our parameters' names and updates."""
        for where, name, base in self.pieces:
            yield name, rows_of(update, where.rows, base) if where.rows else update


def _build(form: AdapterFormat, parts: Parts, whole: _Whole) -> Update | None:
    renormalises = form.touches == "weight" and any(role in parts for role in RENORMALISED)
    base = whole.base(needed=form.multiplies or renormalises)
    update = form.build(parts, base)
    if update is None:
        return None
    update = moved(update, whole.pieces[0][2].device)
    return dora.renormalise(update, parts, base) if renormalises else update


class _Rows:
    """Which modules of the file have changed which parameters: each may be changed by one only."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._claimed: dict[str, Placements] = {}

    def claim(self, name: str, kind: str, placements: Placements, keys: Mapping[str, str]) -> None:
        """Raise `DamagedFile` if another module of the file changes this parameter too."""
        if self._claimed.setdefault(name, placements) != placements:
            key = next(iter(keys.values()))
            raise DamagedFile(
                f"{self._file}: {shown(key)} changes the {kind} of {name.rpartition('.')[0]}, "
                "which another key changes"
            )


def _described(form: AdapterFormat, update: Update) -> str:
    if isinstance(update, RenormalisedUpdate):
        return "dora"
    is_convolution = isinstance(update, LowRankUpdate) and math.prod(update.shape[2:]) > 1
    return "locon" if is_convolution else form.name


def _named(forms: Counter[str]) -> str:
    """Return the name of a file with so many modules of each format."""
    kinds = {form for form, count in forms.items() if count}
    if kinds == {"lora", "locon"}:
        return "locon"  # convolutions beside linear layers
    return "+".join(sorted(kinds))
