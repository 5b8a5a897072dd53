"""emoji64: a real text-to-image family, with its community of experts, in a repository."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from diffgraph.families.family import Family, SamplerConfig

if TYPE_CHECKING:
    import torch

    from diffgraph.families.family import ResidentModel

ASSETS = Path(__file__).parent / "assets"


def load(
    device: "str | torch.device" = "cpu", dtype: "torch.dtype | None" = None
) -> "ResidentModel":
    """Load the bundled base model."""
    import torch

    from diffgraph.families.stable_diffusion import StableDiffusion

    return StableDiffusion.from_folder(
        "emoji64", ASSETS / "base", EMOJI64.sampler, device, dtype or torch.float32
    )


@cache
def known_words() -> frozenset[str]:
    """Return the words the base and its experts were trained with, in lower case."""
    return frozenset((ASSETS / "words.txt").read_text(encoding="utf-8").split())


EMOJI64 = Family(
    name="emoji64",
    title="emoji64 (64 px, bundled)",
    resolution=64,
    sampler=SamplerConfig(steps=12, guidance=4.0),
    hub_names=("emoji64",),
    load=load,
    known_words=known_words,
    assets=ASSETS,
)
