"""What does a base model hold, on the disk?

A folder in the diffusers layout, or FLUX's transformer in a single file. A merge into a file needs
the base's weights one after the other and never a model of them: its files are mapped, and a tensor
costs memory while it is looked at. No library of models is loaded.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from diffgraph.errors import MissingInput
from diffgraph.experts.formats.checkpoint import is_skipped
from diffgraph.experts.weights_file import WeightsFile, open_weights, shown
from diffgraph.families import flux_layout
from diffgraph.families.bases import base_of
from diffgraph.families.family import Family
from diffgraph.families.flux import PREFIX, QUANTISED

DENOISERS = ("unet", "transformer")
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
"""The components whose weights experts change, in the order they are written."""

AUTOENCODER = "vae"
OUR_PATHS = (
    *(f"{path}." for path in (*flux_layout.OUTER.values(), flux_layout.SWAPPED[1])),
    *("transformer_blocks.", "single_transformer_blocks."),
)
"""What the names of FLUX's transformer begin with in diffusers' layout."""
LEGACY = "text_model."  # what transformers before version 5 put before a text encoder's names


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of the base, and where it is kept."""

    component: str
    key: str  # in the component's file in the diffusers layout
    value: Tensor  # mapped: nothing of it is read yet
    file: WeightsFile
    held_by: str = ""  # the key in `file`, if it is another one

    def release(self) -> None:
        """Let the system take back the memory that holds it."""
        self.file.release(self.held_by or self.key)


@dataclass(frozen=True)
class BaseFiles:
    """A base model, its weights mapped."""

    folder: Path  # in the diffusers layout; of a single file, what describes it
    merged: Mapping[str, StoredTensor]  # by our names
    autoencoder: Mapping[str, StoredTensor]  # by their keys

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The weights that experts may change, by our names."""
        return {name: stored.value for name, stored in self.merged.items()}


def open_base(family: Family) -> BaseFiles:
    """Map the files of a family's base; raises `MissingInput` if they are not there."""
    found = base_of(family)
    return open_file(found.file, found.folder) if found.file else open_folder(found.folder)


def open_file(file: Path, folder: Path) -> BaseFiles:
    """Map FLUX's transformer in a single file, in its makers' layout or diffusers'.

    Args:
        file: which may hold other components as well; they are not looked at.
        folder: what describes the model, with the weights of the others if they are there.

    Raises:
        MissingInput: it holds another model, not all of this one, or quantised weights.
    """
    merged = dict(_transformer(file))
    if not any(name.startswith(f"{flux_layout.OURS}transformer_blocks.") for name in merged):
        raise MissingInput(
            f"{file} is a single file and not FLUX's transformer: to merge to a file, a folder in "
            "the diffusers layout is needed; DIFFGRAPH_BASES says where it is"
        )
    lacks = flux_layout.missing({name: stored.value.shape for name, stored in merged.items()})
    if lacks:
        raise MissingInput(f"{file} is not a whole FLUX model: it lacks {lacks[0]}, for one")
    merged |= _text_encoders(folder)
    return BaseFiles(folder, merged, _autoencoder(folder))


def open_folder(folder: Path) -> BaseFiles:
    """Map the weights of a model in the diffusers layout."""
    merged = {
        f"{component}.{stored.key}": stored
        for component in DENOISERS
        for stored in _component(folder, component)
    }
    merged |= _text_encoders(folder)
    if not merged:
        raise MissingInput(f"{folder} is not a model in the diffusers layout")
    return BaseFiles(folder, merged, _autoencoder(folder))


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


def _text_encoders(folder: Path) -> dict[str, StoredTensor]:
    found = {}
    for component in TEXT_ENCODERS:
        for stored in _component(folder, component):
            path = stored.key.removeprefix(LEGACY) if component == "text_encoder" else stored.key
            found[f"{component}.{path}"] = stored
    return found


def _autoencoder(folder: Path) -> dict[str, StoredTensor]:
    return {stored.key: stored for stored in _component(folder, AUTOENCODER)}


def _transformer(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    """Yield what a single file holds by our names; fused tensors are cut, nothing is read."""
    with open_weights(path) as file:
        found = {}  # their name, or ours -> the file's key
        for key, entry in file.entries.items():
            if key.endswith(QUANTISED):
                raise MissingInput(
                    f"{path.name} is quantised ({shown(key)}): a base has whole weights"
                )
            if entry.dtype.is_floating_point:
                found[key.removeprefix(PREFIX)] = key
    shapes = {name: file.entries[key].shape for name, key in found.items()}
    try:
        ours = flux_layout.our_shapes(shapes)
    except (ValueError, IndexError) as error:
        raise MissingInput(f"{path.name} is no whole FLUX model: {error}") from error
    for theirs, placements in flux_layout.parameters(ours).items():
        value = file.tensor(found[theirs])
        for place in placements:
            part = place.take(value)
            if part.shape != ours[place.name]:
                raise MissingInput(f"{path.name}: {shown(theirs)} cannot be {tuple(value.shape)}")
            name = place.name.removeprefix(flux_layout.OURS)
            yield place.name, StoredTensor("transformer", name, part, file, found[theirs])
    for name, key in found.items():
        name = name.removeprefix(flux_layout.OURS)
        if name.startswith(OUR_PATHS):
            stored = StoredTensor("transformer", name, file.tensor(key), file, key)
            yield flux_layout.OURS + name, stored
