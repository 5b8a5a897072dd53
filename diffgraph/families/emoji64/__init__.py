"""emoji64: a real text-to-image family, with its community of experts, in a repository."""

from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from diffgraph.artifacts import sha256_of
from diffgraph.errors import MissingInput
from diffgraph.families.family import Family, SamplerConfig, SamplerNames
from diffgraph.families.scorer import PUBLISHED, FamilyScorer, Scorer
from diffgraph.families.vocabulary import Vocabulary

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
def vocabulary() -> Vocabulary:
    """Return the words the base and its experts were trained with."""
    return Vocabulary(frozenset((ASSETS / "words.txt").read_text(encoding="utf-8").split()))


def load_scorer(name: str, device: "str | torch.device" = "cpu") -> Scorer:
    """Load one of the five scorers that ship."""
    from transformers import CLIPTokenizer

    from diffgraph.families.emoji64.scorers import SCORERS

    tokenizer = CLIPTokenizer.from_pretrained(ASSETS / "base" / "tokenizer", local_files_only=True)
    return SCORERS[name].load(ASSETS / "scorers" / name, tokenizer, device)


def _identity(name: str) -> str:
    """Return the hashes of a scorer's files; raises `MissingInput`."""
    files = [ASSETS / "scorers" / name / part for part in ("config.json", "scorer.safetensors")]
    if missing := [file for file in files if not file.is_file()]:
        raise MissingInput(f"scorer {name}: {missing[0]} is missing")
    return "\n".join(map(sha256_of, files))


STAND_INS = {
    "clip_score": "CLIP Score",
    "image_reward": "ImageReward",
    "aesthetic_score": "LAION Aesthetic Score",
    "pick_score": "PickScore",
    "hps": "HPSv2.1",
}
"""Which published score each of the five small networks stands for."""

EMOJI64 = Family(
    name="emoji64",
    title="emoji64 (64 px, bundled)",
    resolution=64,
    sides=range(16, 257, 4),
    sampler=SamplerConfig(steps=12, guidance=4.0),
    sampler_names=SamplerNames("DDIM", "", "ddim", "ddim_uniform"),
    hub_names=("emoji64",),
    load=load,
    vocabulary=vocabulary,
    scorers={
        name: FamilyScorer(
            PUBLISHED[name].title,
            partial(load_scorer, name),
            partial(_identity, name),
            f"emoji64's own small network, a stand-in for {published}",
        )
        for name, published in STAND_INS.items()
    },
    assets=ASSETS,
)
