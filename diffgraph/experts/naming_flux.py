"""What are FLUX's parameters called outside diffusers?

In the files of its makers, in adapters for them by kohya, ComfyUI and others, and in XLabs' own.
One name of theirs often holds several of ours.
"""

from collections.abc import Iterator

from diffgraph.experts.naming import KOHYA_DENOISER
from diffgraph.families import flux_layout
from diffgraph.families.flux_layout import Shapes
from diffgraph.families.layout import Placements

WHOLE = ("", "model.diffusion_model.", "diffusion_model.", "model.")
"""What stands before the makers' names in a whole model."""

ADAPTER = ("", "diffusion_model.", "model.diffusion_model.", "base_model.model.", "transformer.")
"""The same in an adapter."""

XLABS = ("", "diffusion_model.")


def parameters(shapes: Shapes) -> Iterator[tuple[str, Placements]]:
    """Yield the keys of a whole model in its makers' layout, with where they go."""
    for theirs, placements in flux_layout.parameters(shapes).items():
        for prefix in WHOLE:
            yield prefix + theirs, placements


def modules(shapes: Shapes) -> Iterator[tuple[str, Placements]]:
    """Yield the modules' names of adapters in the makers' layout, with where they go."""
    for theirs, placements in flux_layout.modules(shapes).items():
        for prefix in ADAPTER:
            yield prefix + theirs, placements
        for prefix in KOHYA_DENOISER:
            yield prefix + theirs.replace(".", "_"), placements
    for theirs, placements in flux_layout.xlabs_modules(shapes).items():
        for prefix in XLABS:
            yield prefix + theirs, placements
