"""What does a base model hold, on the disk?

A merge into a file needs the base's weights one after the other and never a model of them: its
files are mapped, and a tensor costs memory while it is looked at. No library of models is loaded.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from diffgraph.errors import MissingInput
from diffgraph.experts.formats.checkpoint import is_skipped
from diffgraph.experts.weights_file import WeightsFile, open_weights
from diffgraph.families.bases import base_of
from diffgraph.families.family import Family

MERGED = ("unet", "transformer", "text_encoder", "text_encoder_2")
"""The components whose weights experts change, in the order they are written."""

AUTOENCODER = "vae"
LEGACY = "text_model."  # what transformers before version 5 put before a text encoder's names


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of the base, and where it is kept."""

    component: str
    key: str  # in the component's file
    value: Tensor  # mapped: nothing of it is read yet
    file: WeightsFile

    def release(self) -> None:
        """Let the system take back the memory that holds it."""
        self.file.release(self.key)


@dataclass(frozen=True)
class BaseFiles:
    """A base model in the diffusers layout, its weights mapped."""

    folder: Path
    merged: Mapping[str, StoredTensor]  # by our names
    autoencoder: Mapping[str, StoredTensor]  # by their keys

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The weights that experts may change, by our names."""
        return {name: stored.value for name, stored in self.merged.items()}


def open_base(family: Family) -> BaseFiles:
    """Map the files of a family's base; raises `MissingInput` if they are not there."""
    found = base_of(family)
    if found.file is not None:
        raise MissingInput(
            f"the base of {family.name} is the single file {found.file}: to merge to a file, a "
            "folder in the diffusers layout is needed; DIFFGRAPH_BASES says where it is"
        )
    return open_folder(found.folder)


def open_folder(folder: Path) -> BaseFiles:
    """Map the weights of a model in the diffusers layout."""
    merged: dict[str, StoredTensor] = {}
    for component in MERGED:
        for stored in _component(folder, component):
            path = stored.key.removeprefix(LEGACY) if component == "text_encoder" else stored.key
            merged[f"{component}.{path}"] = stored
    if not merged:
        raise MissingInput(f"{folder} is not a model in the diffusers layout")
    return BaseFiles(
        folder, merged, {stored.key: stored for stored in _component(folder, AUTOENCODER)}
    )


def weights_of(folder: Path) -> list[Path]:
    """Return a component's weights files: several when it is large, half precision if only so."""
    paths = sorted(folder.glob("*.safetensors"))
    whole = [path for path in paths if ".fp16" not in path.name and ".non_ema" not in path.name]
    return whole or [path for path in paths if ".non_ema" not in path.name]


def _component(folder: Path, component: str) -> Iterator[StoredTensor]:
    for path in weights_of(folder / component):
        with open_weights(path) as file:
            for key, entry in file.entries.items():
                if entry.dtype.is_floating_point and not is_skipped(key):
                    yield StoredTensor(component, key, file.tensor(key), file)
