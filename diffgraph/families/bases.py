"""Where is a base model that does not ship with the package, and is all of it there?

A place is a folder in the diffusers layout, a single safetensors file, or a hub's name for the
model (`owner/name`), which is fetched once and kept in the hub's own cache. `DIFFGRAPH_BASES` names
the places; it is read here because every worker loads a base, wherever it runs.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from diffgraph.errors import MissingInput, ServiceRefused, ServiceUnavailable, UnsafeFile
from diffgraph.families.family import Family
from diffgraph.families.quantised import refuse_quantised
from diffgraph.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from diffgraph.families.resident import DiffusionModel

Component = TypeVar("Component")
Model = TypeVar("Model", bound="DiffusionModel")

WEIGHTS = ".safetensors"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
DESCRIPTIONS = ("*.json", "*/*.json", "tokenizer*/*")
"""What is fetched of a hub's model beside weights."""
SHARD = re.compile(r"-(\d+)-of-(\d+)")
"""In the names of weights files that make a component only together."""
MANY_SHARDS = 1000
UNWANTED = ("*.fp16.*", "*.non_ema.*", "*/flax_*", "*/openvino_*", "safety_checker/*")


@dataclass(frozen=True)
class BaseLocation:
    """Where the parts of a base model lie."""

    folder: Path  # in the diffusers layout; beside a file, configurations and tokenizers at least
    file: Path | None = None  # the weights in one file, which win over the folder's


def base_of(family: Family, place: str | None = None, offline: bool = False) -> BaseLocation:
    """Return where a family's base is on this machine: shipped, in its place, or fetched.

    Args:
        family: which base.
        place: a folder, a safetensors file or a hub's name; by default what the settings say, else
            the usual one.
        offline: use only what is on this machine already, as with `HF_HUB_OFFLINE=1`.

    Raises:
        MissingInput: nothing is there, or not all of it.
        UnsafeFile: a file that could run code when opened.
        ServiceUnavailable: the hub cannot be reached.
        ServiceRefused: the hub wants a token, or knows no such model.
    """
    if place is None and family.assets is not None:
        return BaseLocation(family.assets / "base")
    place = place or base_place(family)
    name, components = family.name, family.components
    path = Path(place).expanduser()
    if path.is_dir():
        return BaseLocation(_complete(name, path, components))
    if path.is_file():
        if path.suffix.lower() != WEIGHTS:
            raise UnsafeFile(f"{path.name}: a base model must be a safetensors file or a folder")
        beside = path.with_suffix("")
        described = beside if beside.is_dir() else _fetch(name, family.usual_base, (), offline)
        return BaseLocation(described, path)
    if path.is_absolute() or not HUB_NAME.fullmatch(place):
        raise MissingInput(
            f"no base model for {name} at {place}: say where it is with DIFFGRAPH_BASES"
        )
    return BaseLocation(_complete(name, _fetch(name, place, components, offline), components))


def base_place(family: Family) -> str:
    """Return where a family's base is: a path, or a hub's name; nothing is looked for or fetched.

    Raises:
        MissingInput: no setting says it.
    """
    if family.assets is not None:
        return str(family.assets / "base")
    place = Settings().bases.get(family.name) or family.usual_base
    if not place:
        raise MissingInput(f"no setting says where the base of {family.name} is")
    return place


def weights_of(family: Family, base: BaseLocation, component: str, offline: bool = False) -> Path:
    """Return the folder of a component's weights that a base's single file does not hold.

    Beside the file if a folder is there, else the usual base's.

    Raises:
        MissingInput: the folder beside the file does not have them either.
        ServiceUnavailable, ServiceRefused: as `base_of` does.
    """
    folder = base.folder / component
    if any(folder.glob(f"*{WEIGHTS}")):
        return folder
    if base.file is not None and base.folder == base.file.with_suffix(""):
        raise MissingInput(f"{base.file} lacks its {component}, and so does {base.folder}")
    return _fetch(family.name, family.usual_base, (component,), offline) / component


def _complete(family: str, folder: Path, components: Sequence[str]) -> Path:
    for component in components:
        if not (folder / component / "config.json").is_file():
            raise MissingInput(f"{folder} is not a {family} model: it has no {component}")
        if not any((folder / component).glob(f"*{WEIGHTS}")):
            raise MissingInput(f"{folder} has no safetensors weights of its {component}")
    return folder


def _fetch(family: str, name: str, components: Sequence[str], offline: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    # of what the library fetches with (httpx or httpx2, by its version), let out as it is
    of_the_transport: type[BaseException] = HfHubHTTPError.__bases__[0]
    wanted = [*DESCRIPTIONS, *(f"{component}/*{WEIGHTS}" for component in components)]
    try:
        return Path(
            snapshot_download(
                name,
                allow_patterns=wanted,
                ignore_patterns=list(UNWANTED),
                local_files_only=offline,
            )
        )
    except GatedRepoError as error:
        raise ServiceRefused(
            f"{name}, the base of {family}, is behind a licence: accept it on its page, then set "
            "HF_TOKEN"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ServiceRefused(
            f"{name}, the base of {family}, is neither a folder here nor a model of the hub"
        ) from error
    except LocalEntryNotFoundError as error:
        raise ServiceUnavailable(
            f"{name}, the base of {family}, is not on this machine and the hub cannot be reached: "
            "say where it is with DIFFGRAPH_BASES"
        ) from error
    except (of_the_transport, ConnectionError, TimeoutError) as error:
        raise ServiceUnavailable(
            f"{name}, the base of {family}, cannot be fetched: {type(error).__name__}"
        ) from None  # its words are the hub's


def weights_files(folder: Path) -> list[Path]:
    """Return a component's weights files: several when it is large, half precision if only so.

    Raises:
        MissingInput: some of several are missing, as after a download that broke off.
    """
    paths = [path for path in sorted(folder.glob(f"*{WEIGHTS}")) if ".non_ema" not in path.name]
    found = [path for path in paths if ".fp16" not in path.name] or paths
    for path in found:
        if shard := SHARD.search(path.name):
            for number in range(1, min(int(shard[2]), MANY_SHARDS) + 1):
                name = SHARD.sub(f"-{number:0{len(shard[1])}}-of-{shard[2]}", path.name)
                if not (folder / name).is_file():
                    raise MissingInput(
                        f"{folder} lacks {name}: {path.name} is a part of the weights"
                    )
    return found


def load_component(kind: type[Component], folder: Path, dtype: "torch.dtype") -> Component:
    """Return one component of diffusers' or transformers' class from its folder, without a network.

    Raises:
        MissingInput: a weight is missing, or is quantised.
    """
    import transformers

    files = weights_files(folder)
    refuse_quantised(*files)
    half = files and ".fp16" in files[0].name
    typed = "dtype" if issubclass(kind, transformers.PreTrainedModel) else "torch_dtype"
    given: dict[str, Any] = {
        typed: dtype,
        "local_files_only": True,
        "use_safetensors": True,
        "variant": "fp16" if half else None,
    }
    loaded: tuple[Component, dict[str, Any]]
    with _without_bars():
        loaded = kind.from_pretrained(folder, output_loading_info=True, **given)  # type: ignore[attr-defined]
    component, report = loaded
    # the libraries fill what is missing with random numbers and say so in a log only
    if missing := sorted(report["missing_keys"]):
        raise MissingInput(f"{folder} lacks {len(missing)} of its weights, for one {missing[0]}")
    return component


def load_base(
    family: Family,
    assemble: "Callable[[BaseLocation, torch.dtype, bool], Model]",
    device: "str | torch.device",
    dtype: "torch.dtype",
    place: str | None,
    offline: bool,
) -> "Model":
    """Return a family's base on a device, all its numbers finite.

    Args:
        family: which base.
        assemble: makes the model of the base's files, on the CPU: (base, dtype, offline) -> model.
        device: for the weights.
        dtype: likewise.
        place: a folder in the diffusers layout, a single safetensors file or a hub's name; by
            default what `DIFFGRAPH_BASES` says, else the hub's own.
        offline: fetch nothing.

    Raises:
        MissingInput, UnsafeFile, ServiceUnavailable, ServiceRefused: as `base_of` does.
    """
    base = base_of(family, place, offline)
    with _loading(family.name, base):
        model = assemble(base, dtype, offline)
    components = {**model.components, "vae": model.vae}
    for component in components.values():
        component.to(device)
    _demand_finite(base, components)
    return model


def _demand_finite(base: BaseLocation, components: "Mapping[str, torch.nn.Module]") -> None:
    """Raise `MissingInput`, with the tensor, if a base holds NaN or infinite numbers.

    It would draw black, and so would everything that is merged into it.
    """
    import torch

    for component, module in components.items():
        for name, value in module.state_dict().items():
            # a sum is finite if all are, and takes less time than to look at each
            if value.is_floating_point() and not bool(value.sum(dtype=torch.float32).isfinite()):
                bad = int((~torch.isfinite(value)).sum())
                if bad:
                    place = base.file or base.folder / component
                    raise MissingInput(
                        f"{place}: {component}.{name} holds {bad} NaN or infinite numbers of "
                        f"{value.numel()}: the base is damaged"
                    )


@contextmanager
def _without_bars() -> "Iterator[None]":
    """Keep transformers from drawing a bar on standard error: that is for the command to decide."""
    from transformers.utils import logging as bars

    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


@contextmanager
def _loading(family: str, base: BaseLocation) -> "Iterator[None]":
    """Tell in one line what the libraries inside find wrong with a base."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise MissingInput(
            f"{base.file or base.folder} cannot be loaded as the base of {family}: {reason[0]}"
        ) from error
