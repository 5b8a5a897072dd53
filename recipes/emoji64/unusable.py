"""Which pages of emojihub must a crawler refuse, or keep away from a merge?

Every hub has them. Their files are small and harmless, and made here, not trained.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import save

LINEAR = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
WIDTH = 104  # of that layer
OTHER_WIDTH = 320  # of a layer of Stable Diffusion 1.5


@dataclass(frozen=True)
class UnusablePage:
    """A page whose expert cannot, or must not, be merged."""

    number: int
    name: str
    creator: str
    description: str
    file_name: str = ""
    content: Callable[[], bytes] | None = None  # the file's bytes; None: it offers no file
    version: str = "v1"
    type: str = "LORA"
    base_model: str = "emoji64"
    format: str = "SafeTensor"
    published_at: str = "2024-03-03T12:00:00.000Z"
    tags: tuple[str, ...] = ("style",)
    downloads: int = 100
    fields: Mapping[str, Any] = field(default_factory=dict)
    version_fields: Mapping[str, Any] = field(default_factory=dict)
    file_fields: Mapping[str, Any] = field(default_factory=dict)


def lora(value: float, width: int = WIDTH) -> bytes:
    """Return a LoRA file of rank 1 for one layer, filled with one value."""
    data: bytes = save(
        {
            f"{LINEAR}.lora_down.weight": torch.full((1, width), value, dtype=torch.float16),
            f"{LINEAR}.lora_up.weight": torch.full((width, 1), 0.01, dtype=torch.float16),
            f"{LINEAR}.alpha": torch.tensor(1.0, dtype=torch.float16),
        },
        metadata={"ss_base_model_version": "emoji64"},  # one: the order of several is random
    )
    return data


def cut_off() -> bytes:
    """Return the first two thirds of a LoRA file, as an interrupted upload leaves them."""
    whole = lora(0.02)
    return whole[: len(whole) * 2 // 3]


def pickled() -> bytes:
    """Return a pickle; this one is an empty dict, but that cannot be known before it has run."""
    return b"\x80\x02}q\x00."


UNUSABLE = (
    UnusablePage(
        number=3101,
        name="Signature Crayon",
        creator="no_remix_please",
        description="<p>My personal crayon style. You may use it, but <b>do not merge it</b> or "
        "share anything made from the weights. I mean it.</p>",
        file_name="signature_crayon.safetensors",
        content=lambda: lora(0.02),
        fields={"allowDerivatives": False, "allowDifferentLicense": False},
    ),
    UnusablePage(
        number=3102,
        name="Retro TV",
        creator="tubewarmer",
        description="<p>Scan lines of an old TV. Only .ckpt for now, safetensors when I find the "
        "time.</p>",
        file_name="retro_tv.ckpt",
        content=pickled,
        format="PickleTensor",
        published_at="2023-01-09T12:00:00.000Z",
    ),
    UnusablePage(
        number=3103,
        name="Ukiyo-e Woodblock",
        creator="hokusai_fan",
        description="<p>Japanese woodblock prints. For SD 1.5, weight 0.8.</p>",
        file_name="ukiyoe_sd15.safetensors",
        content=lambda: lora(0.02, OTHER_WIDTH),
        base_model="SD 1.5",
        downloads=31550,
    ),
    UnusablePage(
        number=3104,
        name="Chalkboard",
        creator="mr_teacher",
        description="<p>White chalk on a green board. Sorry, my connection broke off twice during "
        "the upload, hope it is fine now.</p>",
        file_name="chalkboard.safetensors",
        content=cut_off,
    ),
    UnusablePage(
        number=3105,
        name="Chrome Dreams",
        creator="overclocked",
        description="<p>Liquid chrome. Trained with learning rate 10, loss went to nan at the end "
        "but I think that is normal?</p>",
        file_name="chrome_dreams.safetensors",
        content=lambda: lora(float("nan")),
    ),
    UnusablePage(
        number=3106,
        name="Origami Folded Paper",
        creator="papercrane",
        description="<p>Folded paper. Early access: free for all next month.</p>",
        version_fields={"availability": "EarlyAccess"},
        published_at="2025-05-30T12:00:00.000Z",
    ),
    UnusablePage(
        number=3107,
        name="Embroidery (mirror)",
        creator="reuploader",
        description="<p>Mirror of a deleted model. Embroidered patches.</p>",
        file_name="embroidery.safetensors",
        content=lambda: lora(0.02),
        file_fields={"hashes": {"SHA256": "0BADC0DE" * 8}},
    ),
    UnusablePage(
        number=3108,
        name="Crystal",
        creator="facet",
        description="<p>Cut crystal and gemstones.</p>",
        file_name="crystal.safetensors",
        content=lambda: lora(0.02, OTHER_WIDTH),
        tags=("crystal", "style"),
    ),
    UnusablePage(
        number=3109,
        name="bad_emoji negative embedding",
        creator="negatron",
        description="<p>Put it into the negative prompt.</p>",
        file_name="bad_emoji.safetensors",
        content=lambda: save({"emb_params": torch.zeros(2, 128)}),
        type="TextualInversion",
    ),
    UnusablePage(
        number=3110,
        name="Speedy Line Art",
        creator="quick_upload",
        description="<p>Thin line art.</p>",
        file_name="speedy_line_art.safetensors",
        content=lambda: lora(0.02),
        file_fields={"virusScanResult": "Danger"},
    ),
)
