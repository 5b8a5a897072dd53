"""Which updates do the keys of an adapter's file make?

Keys are grouped by module; the roles of a group tell its format. A module that the file fuses from
several of ours is built whole and cut by rows. Whole values (PEFT's `modules_to_save`, trained
biases) replace the base's. What is left over is reported, and refused where the module it belongs
to would be read without it.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from diffgraph.errors import DamagedFile, UnknownFormat
from diffgraph.experts.adapter_keys import ALPHA, WHOLE, known_keys, placed, places_around, split
from diffgraph.experts.formats import AdapterFormat, all_adapters, checkpoint, dora
from diffgraph.experts.formats.adapter import ModuleTensors
from diffgraph.experts.naming import absent_encoder
from diffgraph.experts.naming_index import Placement, Placements, key_index
from diffgraph.experts.peft_configuration import PeftConfiguration, Scale
from diffgraph.experts.unsupported_files import refuse_quantised_keys
from diffgraph.experts.updates import (
    DerivedUpdate,
    LowRankUpdate,
    RenormalisedUpdate,
    SumUpdate,
    Update,
    moved,
    rows_of,
)
from diffgraph.experts.weights_file import WeightsFile, shown

RENORMALISED = frozenset(dora.SUFFIXES.values())
EMBEDDED = ("bundle_emb.",)  # token vectors beside the weights
CARRIES_NOTHING = (".lora_velora_embed",)  # VeLoRA's compression of gradients
KINDS = {"weight": "weight", "scale": "weight", "bias": "bias"}
"""How the key of a whole value ends -> what it is of a module of ours."""
FLAGS = frozenset({ALPHA, "on_input"})
"""Roles of one number each, whatever its type; all others are factors."""


@dataclass
class ParsedFile:
    """What has been made of a file's keys."""

    file: WeightsFile
    parameters: Mapping[str, Tensor]  # the base's
    format: str = ""
    updates: dict[str, Update] = field(default_factory=dict)
    keys: dict[str, tuple[str, ...]] = field(default_factory=dict)  # parameter -> keys
    skipped: list[str] = field(default_factory=list)
    absent: dict[str, list[str]] = field(default_factory=dict)  # encoder the base lacks -> keys
    unknown: list[str] = field(default_factory=list)
    remarks: tuple[str, ...] = ()
    claimed: dict[str, Placements] = field(default_factory=dict)  # parameter -> the file's module

    @cached_property
    def modules(self) -> Mapping[str, Placements]:
        """What the file may call the base's modules."""
        return key_index(self.parameters).modules

    @cached_property
    def components(self) -> set[str]:
        """What the base is made of."""
        return {name.partition(".")[0] for name in self.parameters}

    @property
    def matched(self) -> tuple[str, ...]:
        return tuple(sorted({key for keys in self.keys.values() for key in keys}))

    def add(self, name: str, update: Update, keys: Iterable[str]) -> None:
        before = self.updates.get(name)
        self.updates[name] = update if before is None else SumUpdate((before, update))
        self.keys[name] = (*self.keys.get(name, ()), *keys)

    def claim(self, name: str, kind: str, placements: Placements, key: str) -> None:
        """Raise `DamagedFile` if another module of the file changes this parameter too."""
        if self.claimed.setdefault(name, placements) != placements:
            raise DamagedFile(
                f"{self.file.path.name}: {shown(key)} changes the {kind} of "
                f"{name.rpartition('.')[0]}, which another key changes"
            )

    def leave(self, key: str) -> None:
        """Keep a key that nobody reads: for an encoder that the base lacks, or unknown."""
        if encoder := absent_encoder(key, self.components):
            self.absent.setdefault(encoder, []).append(key)
        else:
            self.unknown.append(key)


def is_adapter(file: WeightsFile) -> bool:
    """Whether a file has keys that only adapters have."""
    marks = known_keys().marks
    return any(found is not None and found[1] in marks for found in map(split, file.entries))


def open_adapter(
    file: WeightsFile, parameters: Mapping[str, Tensor], configuration: PeftConfiguration
) -> ParsedFile:
    """Return the updates of an adapter's file, of whose large tensors nothing is read.

    Raises:
        DamagedFile, FamilyMismatch, UnknownFormat: parts that do not fit together or the base.
    """
    parsed = ParsedFile(file, parameters)
    forms: Counter[str] = Counter()
    alpha_missing = False
    groups, rest = _groups(parsed)
    read: set[Placements] = set()
    for placements, keys in groups.items():
        parts = _parts(file, placements, keys, configuration)
        used: set[str] = set()
        for form in all_adapters():
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
            alpha_missing |= parts.alpha is None and form.name in SCALED
            read.add(placements)
            forms[_described(form, update)] += form.touches == "weight"
            for name, cut in whole.cut(update):
                parsed.claim(name, form.touches, placements, next(iter(keys.values())))
                parsed.add(name, cut, [keys[role] for role in sorted(roles)])
        rest.extend(key for role, key in keys.items() if role not in used)
    _leave(parsed, list(_without_whole_values(parsed, rest)), read)
    parsed.format = _named(forms) or "full"
    if alpha_missing:
        parsed.remarks = ("no alpha is stated: the rank is taken",)
    return parsed


SCALED = frozenset({"lora", "loha", "lokr", "glora"})
"""Formats whose product is multiplied by alpha / rank."""


def _groups(parsed: ParsedFile) -> tuple[dict[Placements, dict[str, str]], list[str]]:
    """Return module -> role -> key, and the keys that belong to no module by their role."""
    file, modules = parsed.file, parsed.modules
    groups: dict[Placements, dict[str, str]] = {}
    adapters: dict[Placements, str] = {}
    rest = []
    for key in sorted(file.entries):
        known = split(key)
        placements = placed(known[0], modules) if known else None
        if key.startswith(EMBEDDED) or key.endswith(CARRIES_NOTHING):
            parsed.skipped.append(key)
        elif known is None or placements is None:
            rest.append(key)
        else:
            _, role, adapter = known
            group = groups.setdefault(placements, {})
            if adapter and adapters.setdefault(placements, adapter) != adapter:
                raise UnknownFormat(
                    f"{file.path.name}: {shown(key)} is of another adapter than "
                    f"{shown(adapters[placements])}: which one of them is meant is not said"
                )
            if role in group:
                raise DamagedFile(
                    f"{file.path.name}: {shown(key)} says again what another key says"
                )
            group[role] = key
    return groups, rest


def _without_whole_values(parsed: ParsedFile, keys: Iterable[str]) -> Iterator[str]:
    """Add the keys that hold a whole parameter of the base; yield the others."""
    file, parameters, modules = parsed.file, parsed.parameters, parsed.modules
    for key in keys:
        name, _, last = key.rpartition(".")
        kind = KINDS.get(last) or WHOLE.get(f".{last}")
        placements = placed(name, modules) if kind else None
        ours = [replace(where, name=f"{where.name}.{kind}") for where in placements or ()]
        if placements is None or not all(
            where.name in parameters and (last != "scale" or parameters[where.name].ndim == 1)
            for where in ours
        ):
            yield key
            continue
        for where in ours:
            parsed.claim(where.name, str(kind), placements, key)
            if isinstance(parsed.updates.get(where.name), RenormalisedUpdate | DerivedUpdate):
                raise DamagedFile(
                    f"{file.path.name}: {shown(key)} is the whole of what another key changes"
                )
        refuse_quantised_keys(file, [key])
        for parameter, update in checkpoint.updates_of(file, key, tuple(ours), parameters):
            parsed.add(parameter, update, [key])


def _leave(parsed: ParsedFile, keys: Iterable[str], read: set[Placements]) -> None:
    """Keep what nobody reads; raise where a module would be read without it."""
    file, modules = parsed.file, parsed.modules
    stems = {known[0] for key in file.entries if (known := split(key)) and known[1] != ALPHA}
    for key in keys:
        known = split(key)
        if known is not None and known[1] == ALPHA and known[0] not in stems:
            parsed.skipped.append(key)  # of a block whose factors its maker has cut out
            continue
        is_bias = key.endswith(".bias") or (known is not None and known[1] in known_keys().biases)
        if not is_bias and any(places in read for places in places_around(key, modules)):
            raise UnknownFormat(
                f"{file.path.name}: {shown(key)} belongs to a module that is read, "
                "and no reader here knows what it means"
            )
        parsed.leave(key)


def _parts(
    file: WeightsFile,
    placements: Placements,
    keys: Mapping[str, str],
    configuration: PeftConfiguration,
) -> ModuleTensors:
    tensors = {role: file.tensor(key) for role, key in keys.items()}
    for role, value in tensors.items():
        if role not in FLAGS and not value.dtype.is_floating_point:
            raise UnknownFormat(
                f"{file.path.name}: {shown(keys[role])} holds integers, not numbers to multiply: "
                "quantised, by a scale that is not known here"
            )
    stated = tensors.pop(ALPHA, None)
    first = next(iter(keys.values()))
    module = (split(first) or (first,))[0]
    scale = configuration.scale(placements[0].name, module)
    if stated is not None:
        if stated.numel() != 1:
            raise DamagedFile(f"{file.path.name}: {shown(keys[ALPHA])} is not one number")
        file.check(keys[ALPHA])
        scale = Scale(float(stated))
    settings = configuration.settings(placements[0].name)
    if settings.get("use_dora") and "down" in tensors and not RENORMALISED & tensors.keys():
        raise DamagedFile(f"{file.path.name}: {shown(module)} lacks the magnitude of a DoRA")
    return ModuleTensors(
        file.path.name, module, tensors, scale.alpha, scale.rank, scale.rooted, settings
    )


def _roles(form: AdapterFormat, keys: Mapping[str, str]) -> set[str]:
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
        names = [f"{placement.name}.{kind}" for placement in placements]
        if not all(name in parameters for name in names):
            return None
        bases = [parameters[name] for name in names]
        return cls(tuple(zip(placements, names, bases, strict=True)))

    @property
    def is_one(self) -> bool:
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
        for where, name, base in self.pieces:
            yield name, rows_of(update, where.rows, base) if where.rows else update


def _build(form: AdapterFormat, parts: ModuleTensors, whole: _Whole) -> Update | None:
    renormalises = form.touches == "weight" and any(role in parts for role in RENORMALISED)
    base = whole.base(needed=form.multiplies or renormalises)
    update = form.build(parts, base)
    if update is None:
        return None
    update = moved(update, whole.pieces[0][2].device)
    return dora.renormalise(update, parts, base) if renormalises else update


def _described(form: AdapterFormat, update: Update) -> str:
    if isinstance(update, RenormalisedUpdate):
        return "dora"
    is_convolution = isinstance(update, LowRankUpdate) and math.prod(update.shape[2:]) > 1
    return "locon" if is_convolution else form.name


def _named(forms: Counter[str]) -> str:
    kinds = {form for form, count in forms.items() if count}
    if kinds == {"lora", "locon"}:
        return "locon"  # convolutions beside linear layers
    return "+".join(sorted(kinds))
