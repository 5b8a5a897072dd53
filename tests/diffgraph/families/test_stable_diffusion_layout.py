"""The shapes that configurations describe are those of the models that wrote them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from diffgraph.errors import MissingInput
from diffgraph.families.stable_diffusion_layout import component_shapes
from recipes.emoji64.architecture import build_text_encoder, build_unet, build_vae


def emoji64() -> dict[str, Any]:
    return {
        "unet": build_unet(),
        "vae": build_vae(),
        "text_encoder": build_text_encoder(600, 598, 599),
    }


def test_shapes_are_the_models(tmp_path: Path) -> None:
    with torch.device("meta"):
        models = emoji64()
    for component, model in models.items():
        expected = {name: tuple(value.shape) for name, value in model.named_parameters()}
        (tmp_path / component).mkdir()
        config = tmp_path / component / "config.json"
        if component == "text_encoder":
            model.config.save_pretrained(config.parent)
        else:
            model.save_config(config.parent)
        assert component_shapes(tmp_path, component) == expected, component


@pytest.mark.parametrize(
    "change",
    [
        {"down_block_types": ["NobodysDownBlock2D"] * 4},
        {"block_out_channels": None},
        {"layers_per_block": "two"},
        {"up_block_types": ["UpBlock2D"] * 9},
    ],
)
def test_another_architecture_is_told(
    tmp_path: Path, tiny_sd15_folder: Path, change: dict[str, Any]
) -> None:
    (tmp_path / "unet").mkdir()
    stated = json.loads((tiny_sd15_folder / "unet" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "unet" / "config.json").write_text(json.dumps(stated | change), encoding="utf-8")
    with pytest.raises(MissingInput, match="does not describe the unet of a Stable Diffusion 1"):
        component_shapes(tmp_path, "unet")


def test_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"config\.json cannot be read"):
        component_shapes(tmp_path, "vae")
