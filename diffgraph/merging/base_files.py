"""What does a base model hold, on the disk?

A folder in the diffusers layout, a single-file checkpoint of Stable Diffusion 1.5, or FLUX's
transformer in a single file. A merge into a file needs the base's weights one after the other and
never a model of them: its files are mapped, and a tensor costs memory while it is looked at.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diffgraph.errors import MissingInput
from diffgraph.experts.formats.checkpoint import is_skipped, squeezed
from diffgraph.experts.naming import Naming
from diffgraph.experts.naming_ldm import ldm
from diffgraph.experts.weights_file import WeightsFile, non_finite, open_weights, shown
from diffgraph.families import bases, flux_layout
from diffgraph.families.family import Family
from diffgraph.families.flux import PREFIX
from diffgraph.families.quantised import refuse_quantised
from diffgraph.families.stable_diffusion_layout import Shapes, component_shapes
from diffgraph.merging.autoencoder_names import autoencoder_key, decoder_blocks

UNET = "unet"
CLIP = "text_encoder"
DENOISERS = (UNET, "transformer")
TEXT_ENCODERS = (CLIP, "text_encoder_2")
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

    def check(self) -> None:
        """Raise `MissingInput`, with its file and key, when it holds NaN or infinite numbers."""
        if bad := non_finite(self.value):
            raise MissingInput(
                f"{self.file.path}: {shown(self.held_by or self.key)} holds {bad} NaN or infinite "
                f"numbers of {self.value.numel()}: the base is damaged"
            )

    def release(self) -> None:
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

    def weight(self, name: str) -> Tensor:
        """Return a weight as torch can compute with it: eight bits are made float32."""
        value = self.merged[name].value
        return value.float() if value.dtype.itemsize == 1 else value


def open_base(family: Family) -> BaseFiles:
    """Map the files of a family's base; raises `MissingInput` if they are not there."""
    found = bases.base_of(family)
    if not found.file:
        return open_folder(found.folder)
    if UNET in family.components:
        return open_checkpoint(family, found)
    return open_file(found.file, found.folder)


def open_checkpoint(family: Family, base: bases.BaseLocation) -> BaseFiles:
    """Map a single-file checkpoint of Stable Diffusion 1.5's architecture.

    A text encoder or an autoencoder that it lacks comes from where sampling takes it.

    Raises:
        MissingInput: a component is missing or not whole, of another shape, or quantised.
        ServiceUnavailable, ServiceRefused: the file lacks a component, and so does this machine.
    """
    if base.file is None:
        raise MissingInput(f"{base.folder} is a folder, not a single-file checkpoint")
    file = open_weights(base.file)
    refuse_quantised(base.file)
    unet, text, autoencoder = (
        component_shapes(base.folder, component) for component in (UNET, CLIP, AUTOENCODER)
    )
    merged = _held(file, UNET, unet, ldm(f"{UNET}.{path}" for path in unet))
    if not merged:
        raise MissingInput(f"{base.file} is not a Stable Diffusion checkpoint: it has no UNet")
    held = _held(file, CLIP, text, ldm(()))
    merged |= held or _text_encoders(bases.weights_of(family, base, CLIP).parent)
    blocks = decoder_blocks(autoencoder)
    held = _held(
        file,
        AUTOENCODER,
        autoencoder,
        lambda name: (autoencoder_key(name.removeprefix(f"{AUTOENCODER}."), blocks),),
    )
    found = {stored.key: stored for stored in held.values()}
    found = found or _autoencoder(bases.weights_of(family, base, AUTOENCODER).parent)
    return BaseFiles(base.folder, merged, found)


def open_file(file: Path, folder: Path) -> BaseFiles:
    """Map FLUX's transformer in a single file, in its makers' layout or diffusers'.

    The other components' weights come from `folder`, if they are there.

    Raises:
        MissingInput: it holds another model, not all of this one, or quantised weights.
    """
    merged = dict(_transformer(file))
    if not any(name.startswith(f"{flux_layout.OURS}transformer_blocks.") for name in merged):
        raise MissingInput(
            f"{file} is a single file and not FLUX's transformer: DIFFGRAPH_BASES says where a "
            "base is"
        )
    _demand_all_of_flux(file, merged)
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
    if any(name.startswith(flux_layout.OURS) for name in merged):
        _demand_all_of_flux(folder, merged)
    return BaseFiles(folder, merged, _autoencoder(folder))


def _demand_all_of_flux(place: Path, merged: Mapping[str, StoredTensor]) -> None:
    lacks = flux_layout.missing({name: stored.value.shape for name, stored in merged.items()})
    if lacks:
        raise MissingInput(f"{place} is not a whole FLUX model: it lacks {lacks[0]}, for one")


def _component(folder: Path, component: str) -> Iterator[StoredTensor]:
    files = bases.weights_files(folder / component)
    refuse_quantised(*files)
    for path in files:
        file = open_weights(path)
        for key, entry in file.entries.items():
            if entry.dtype.is_floating_point and not is_skipped(key):
                yield StoredTensor(component, key, file.tensor(key), file)


def _text_encoders(folder: Path) -> dict[str, StoredTensor]:
    found = {}
    for component in TEXT_ENCODERS:
        for stored in _component(folder, component):
            path = stored.key.removeprefix(LEGACY) if component == CLIP else stored.key
            found[f"{component}.{path}"] = stored
    return found


def _autoencoder(folder: Path) -> dict[str, StoredTensor]:
    return {stored.key: stored for stored in _component(folder, AUTOENCODER)}


def _held(
    file: WeightsFile, component: str, shapes: Shapes, vocabulary: Naming
) -> dict[str, StoredTensor]:
    """Return a component of a single file by our names; nothing if the file has none of it."""
    found, missing = {}, []
    for path, shape in shapes.items():
        name = f"{component}.{path}"
        key = next((key for key in vocabulary(name) if key in file.entries), None)
        if key is None:
            missing.append(path)
            continue
        entry = file.entries[key]
        if not entry.dtype.is_floating_point:
            raise MissingInput(f"{file.path.name} is quantised ({shown(key)} are whole numbers)")
        if squeezed(entry.shape) != squeezed(torch.Size(shape)):
            raise MissingInput(
                f"{file.path.name}: {shown(key)} should be {shape}, found {tuple(entry.shape)}"
            )
        written = f"{LEGACY}{path}" if component == CLIP else path
        value = file.tensor(key).reshape(shape)  # a kernel of 1x1 may be written as a matrix
        found[name] = StoredTensor(component, written, value, file, key)
    if found and missing:
        raise MissingInput(
            f"{file.path} lacks {len(missing)} weights of its {component}, for one {missing[0]}"
        )
    return found


def _transformer(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    """Yield what a single file holds by our names; fused tensors are cut, nothing is read."""
    file = open_weights(path)
    refuse_quantised(path)
    found = {}  # their name, or ours -> the file's key
    for key, entry in file.entries.items():
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
