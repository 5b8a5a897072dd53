"""Which parameters does a Stable Diffusion model have, and of which shapes?

As diffusers and transformers build it from the configurations in its folder, without its weights.
"""

import json
from pathlib import Path
from typing import Any

import torch

from diffgraph.errors import MissingInput

Shapes = dict[str, tuple[int, ...]]  # parameter of a component, by diffusers' name -> its shape


def component_shapes(folder: Path, component: str) -> Shapes:
    """Return the shapes of `unet`, `vae` or `text_encoder` by the configuration in a folder.

    Raises:
        MissingInput: there is no configuration, or none of such a model.
    """
    path = folder / component / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        with torch.device("meta"):
            model = _built(component, config)
    except OSError as error:
        raise MissingInput(f"{path} cannot be read: {error.strerror}") from error
    # a foreign configuration goes wrong wherever the libraries first use it
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise MissingInput(
            f"{path} does not describe the {component} of a Stable Diffusion 1 model: "
            f"{type(error).__name__} {error}"
        ) from error
    return {name: tuple(value.shape) for name, value in model.named_parameters()}


def _built(component: str, config: dict[str, Any]) -> Any:
    if component == "text_encoder":
        from transformers import CLIPTextConfig, CLIPTextModel

        return CLIPTextModel(CLIPTextConfig.from_dict(config))
    from diffusers import AutoencoderKL, UNet2DConditionModel

    kind = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[component]
    return kind.from_config(config)
