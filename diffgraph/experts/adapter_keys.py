"""What part of which module does a key of an adapter hold?

A key is a module's name and what a format adds to it. Tools put more around both: PEFT the name of
one of its adapters, wrappers of a model their own prefixes.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from diffgraph.experts.formats import ADAPTERS, AdapterFormat, all_adapters, dora
from diffgraph.experts.naming import KOHYA
from diffgraph.experts.naming_index import Placements
from diffgraph.extensions import once

ALPHA = "alpha"
WHOLE = {".set_weight": "weight", ".set_bias": "bias"}
"""ComfyUI's values that replace the base's, instead of adding to them."""


def _suffixes(forms: Sequence[AdapterFormat]) -> dict[str, str]:
    """Return suffix → role of all that keys can end in."""
    others = (dora.SUFFIXES, {".alpha": ALPHA}, {suffix: suffix for suffix in WHOLE})
    tables = (*(form.suffixes for form in forms), *others)
    return {suffix: role for table in tables for suffix, role in table.items()}


class Known(NamedTuple):
    """What the formats that there are say of keys."""

    suffixes: Mapping[str, str]
    marks: frozenset[str]
    biases: frozenset[str]
    """Roles that change a bias alone: a base without it is none the worse."""
    longest: int


@once
def known_keys() -> Known:
    """Return what is known of keys, formats of other packages included."""
    forms = all_adapters()
    suffixes = _suffixes(forms)
    return Known(
        suffixes,
        frozenset({*(role for form in forms for role in form.marks), *WHOLE}),
        frozenset({".set_bias", *(r for f in forms if f.touches == "bias" for r in f.marks)}),
        max(suffix.count(".") for suffix in suffixes),
    )


NAMED = frozenset(
    suffix.removesuffix(".weight").removesuffix(".bias").removeprefix(".")
    for suffix in _suffixes(ADAPTERS)
    if suffix.startswith((".lora_A", ".lora_B", ".lora_magnitude", ".lora_embedding"))
    or suffix.startswith((".ia3_l", ".oft_R", ".hada_", ".lokr_"))
)
"""What PEFT puts the name of an adapter behind: `lora_A.style.weight`."""
UNNAMED = frozenset({"weight", "bias"})

WRAPPERS = ("base_model.model.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_module.")
"""What PEFT, torch.compile and FSDP put before or into a module's name."""
INNER = re.compile(r"\.(base_layer|modules_to_save\.[^.]+)$")
"""What PEFT puts behind the name of a module that it has wrapped."""


def split(key: str) -> tuple[str, str, str] | None:
    """Return a key's module, its role there and PEFT's name of the adapter; None if unknown."""
    parts, suffixes = key.split("."), known_keys().suffixes
    for at in (-2, -3):
        if len(parts) > -at and parts[at] in NAMED and parts[at + 1] not in UNNAMED:
            behind = parts[len(parts) + at + 2 :]
            role = suffixes.get(".".join(["", parts[at], *behind]))
            if role is not None:
                return ".".join(parts[:at]), role, parts[at + 1]
    for count in range(min(known_keys().longest, len(parts) - 1), 0, -1):
        role = suffixes.get("." + ".".join(parts[-count:]))
        if role is not None:
            return ".".join(parts[:-count]), role, ""
    return None


def placed(name: str, modules: Mapping[str, Placements]) -> Placements | None:
    """Return where a module of another tool's name is, without what tools put around it."""
    found = modules.get(name)
    return found if found is not None else modules.get(_bare(name))


def places_around(key: str, modules: Mapping[str, Placements]) -> Iterator[Placements]:
    """Yield the modules that a key of any form could belong to, the innermost first."""
    name, dot, _ = key.rpartition(".")
    while dot:
        found = placed(name, modules)
        if found is not None:
            yield found
        name, dot, _ = name.rpartition(".")


def _bare(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    name = name.removeprefix("module.")
    name = INNER.sub("", name)
    flat = name.replace(".", "_")
    return flat.rstrip("_") if flat.startswith(KOHYA) else name
