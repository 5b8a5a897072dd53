"""How are experts written the way the community writes them?

An adapter that the peft library has trained inside a UNet becomes a kohya file (LoRA, LoCon, DoRA,
LoHa, LoKr) or one in diffusers' or PEFT's names; a fine-tuned model becomes one file of weights. An
author whose expert is best at a coefficient of 0.7 has trained it 1 / 0.7 too strong: `strength`
writes it so.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from diffgraph.artifacts import new_file
from diffgraph.experts.naming import diffusers, kohya
from diffgraph.experts.naming_ldm import ldm
from diffgraph.experts.peft_configuration import PEFT_METADATA

Layout = Literal["kohya", "lycoris", "diffusers", "peft"]

LOHA_ROLES = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
LOKR_ROLES = (
    "lokr_w1",
    "lokr_w1_a",
    "lokr_w1_b",
    "lokr_w2",
    "lokr_w2_a",
    "lokr_w2_b",
    "lokr_t2",
)
BASE = {
    "format": "pt",
    "modelspec.sai_model_spec": "1.0.0",
    "modelspec.architecture": "emoji64",
    "ss_base_model_version": "emoji64",
}
"""What every file's header says of the base it was made from."""
MIN_SHARE = 1e-2
"""The least share of its base weight that a row of a rescaled DoRA keeps: fp16 is coarse."""
NETWORKS: Mapping[Layout, str] = {"kohya": "networks.lora", "lycoris": "lycoris.kohya"}


@dataclass(frozen=True)
class TrainedModule:
    """An adapter's tensors for one module, with the base weight under it."""

    name: str  # ours: `unet.….to_q`
    tensors: Mapping[str, Tensor]  # role -> value
    scale: float  # what their product is multiplied by
    weight: Tensor

    @property
    def method(self) -> str:
        """What kind of adapter it is: lora, dora, loha or lokr."""
        if "down" in self.tensors:
            return "dora" if "magnitude" in self.tensors else "lora"
        return "loha" if "hada_w1_b" in self.tensors else "lokr"

    @property
    def rank(self) -> int:
        """The rank by which readers divide alpha; 0 when the factors have none."""
        for role in ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b"):
            if role in self.tensors:
                return int(self.tensors[role].shape[0])
        return 0

    @property
    def alpha(self) -> float:
        """The alpha that says this scale."""
        return self.scale * (self.rank or 1)


def write_adapter(  # noqa: PLR0913 (each is a decision of the expert's author)
    unet: Any,
    adapter_name: str,
    method: str,
    layout: Layout,
    path: Path,
    alpha: float,
    strength: float = 1.0,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a trained adapter as a file of fp16 tensors.

    Args:
        unet: a UNet with the adapter inside (`unet.add_adapter(config, adapter_name)`).
        adapter_name: which of its adapters.
        method: lora, locon, dora, loha or lokr.
        layout: kohya's keys, by its own trainer or by LyCORIS, for any adapter; diffusers' or
            PEFT's for LoRA and DoRA.
        path: a `.safetensors` file.
        alpha: of the adapter's configuration.
        strength: the coefficient at which the file has the trained effect.
        metadata: more header entries, or others.
    """
    modules = list(trained_modules(unet, adapter_name, "unet"))
    if not modules:
        raise ValueError(f"no module has an adapter named {adapter_name!r}")
    found = {module.method for module in modules}
    if found != {"lora" if method == "locon" else method}:
        raise ValueError(f"{adapter_name!r} is {'+'.join(sorted(found))}, not {method}")
    tensors: dict[str, Tensor] = {}
    scaled = [scaled_for(module, strength) for module in modules]
    for module in scaled:
        tensors.update(LAYOUTS[layout](module))
    header = _header(scaled, layout) | {"ss_trained_alpha": str(alpha), "ss_method": method}
    _save(path, tensors, header | dict(metadata or {}))


def write_checkpoint(
    parameters: Mapping[str, Tensor],
    path: Path,
    dtype: Literal["fp32", "fp16", "fp8"] = "fp16",
    metadata: Mapping[str, str] | None = None,
    layout: Literal["diffusers", "single_file"] = "diffusers",
) -> None:
    """Write a whole model as one file, under diffusers' names or a single-file checkpoint's.

    Args:
        parameters: weights by our names (`unet.…`, `text_encoder.…`).
        path: a `.safetensors` file.
        dtype: fp32, fp16 or fp8 (e4m3), of matrices and convolutions; with fp8 the vectors, which
            are few, stay fp16.
        metadata: more header entries, or others.
        layout: names of this layout.
    """
    vocabulary = ldm(tuple(parameters)) if layout == "single_file" else diffusers
    tensors = {}
    for name, value in parameters.items():
        target = DTYPES["fp16" if dtype == "fp8" and value.ndim < 2 else dtype]
        tensors[next(iter(vocabulary(name)))] = value.detach().cpu().to(target)
    _save(path, tensors, BASE | dict(metadata or {}))


DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "fp8": torch.float8_e4m3fn}


def trained_modules(root: Any, adapter_name: str, component: str) -> Iterator[TrainedModule]:
    """Yield what the adapter of this name holds in every module of a model, in float32."""
    for path, module in root.named_modules():
        tensors = dict(_tensors(module, adapter_name))
        if tensors:
            yield TrainedModule(
                f"{component}.{path}",
                {role: value.detach().float().cpu() for role, value in tensors.items()},
                float(module.scaling[adapter_name]),
                module.get_base_layer().weight.detach().float().cpu(),
            )


def _tensors(module: Any, adapter_name: str) -> Iterator[tuple[str, Tensor]]:
    if adapter_name in getattr(module, "lora_A", {}):
        yield "down", module.lora_A[adapter_name].weight
        yield "up", module.lora_B[adapter_name].weight
        magnitudes = getattr(module, "lora_magnitude_vector", {})
        if adapter_name in magnitudes:
            yield "magnitude", magnitudes[adapter_name].weight
    for role in (*LOHA_ROLES, *LOKR_ROLES):
        held = getattr(module, role, {})
        if adapter_name in held:
            yield role, held[adapter_name]


def scaled_for(module: TrainedModule, strength: float) -> TrainedModule:
    """Return a module whose delta is 1 / strength as large."""
    if strength <= 0:
        raise ValueError(f"a strength must be above 0, not {strength}")
    if module.method == "dora":
        return _scaled_dora(module, strength)
    scale = module.scale / strength
    if module.rank:
        return replace(module, scale=scale)
    # a Kronecker product of two whole factors has no rank: readers take its scale for 1
    left = module.tensors["lokr_w1"] * scale
    return replace(module, tensors={**module.tensors, "lokr_w1": left}, scale=1.0)


def _scaled_dora(module: TrainedModule, strength: float) -> TrainedModule:
    """Return the DoRA whose weight is W + (W' - W) / strength.

    It is one: each row of W + (W' - W) / s is a_i (W_i + b_i (B A)_i) with
    a_i = 1 - 1/s + m_i / (s |V_i|) and b_i = m_i / (s |V_i| a_i), so its rows of B are b_i B_i.
    """
    if strength == 1:
        return module
    rows, up, down = module.weight.flatten(1), module.tensors["up"], module.tensors["down"]
    added = module.scale * (up.flatten(1) @ down.flatten(1))
    magnitude = module.tensors["magnitude"].flatten()
    share = magnitude / torch.linalg.vector_norm(rows + added, dim=1) / strength
    along = 1 - 1 / strength + share  # a_i
    if not (along.abs() > MIN_SHARE).all():
        raise ValueError(f"{module.name}: no DoRA has this effect at strength {strength}")
    factor = share / along  # b_i
    tensors = {
        **module.tensors,
        "up": up * factor.reshape(-1, *(1,) * (up.ndim - 1)),
        "magnitude": along * torch.linalg.vector_norm(rows + factor[:, None] * added, dim=1),
    }
    return replace(module, tensors=tensors)


def _kohya(module: TrainedModule) -> dict[str, Tensor]:
    stem = next(iter(kohya(module.name)))  # the first is what trainers write
    keys = {"down": "lora_down.weight", "up": "lora_up.weight", "magnitude": "dora_scale"}
    tensors = {
        f"{stem}.{keys.get(role, role)}": value.half() for role, value in module.tensors.items()
    }
    tensors[f"{stem}.alpha"] = torch.tensor(module.alpha)
    if module.method == "dora":
        # not rounded: it multiplies the whole weight, which is much larger than the delta
        ones = (1,) * (module.weight.ndim - 1)
        tensors[f"{stem}.dora_scale"] = module.tensors["magnitude"].reshape(-1, *ones)
    return tensors


def _dotted(prefix: str, module: TrainedModule) -> dict[str, Tensor]:
    if module.method not in ("lora", "dora"):
        raise ValueError(f"{module.method} files are written in kohya's layout only")
    path = module.name.partition(".")[2] if prefix else module.name
    keys = {"down": "lora_A.weight", "up": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
    return {
        f"{prefix}{path}.{keys[role]}": value if role == "magnitude" else value.half()
        for role, value in module.tensors.items()
    }


LAYOUTS: Mapping[Layout, Callable[[TrainedModule], dict[str, Tensor]]] = {
    "kohya": _kohya,
    "lycoris": _kohya,
    "diffusers": lambda module: _dotted("", module),
    "peft": lambda module: _dotted("base_model.model.", module),
}


def _header(modules: list[TrainedModule], layout: Layout) -> dict[str, str]:
    first = modules[0]
    header = {**BASE, "modelspec.architecture": f"{BASE['ss_base_model_version']}/lora"}
    if layout in NETWORKS:
        return header | {
            "ss_network_module": NETWORKS[layout],
            "ss_network_dim": str(first.rank),
            "ss_network_alpha": str(first.alpha),
            "ss_network_args": json.dumps({"algo": first.method}),
        }
    config: dict[str, Any] = {}
    for module in modules:
        component, _, path = module.name.partition(".")
        prefix = f"{component}." if layout == "diffusers" else ""
        config.setdefault(f"{prefix}r", module.rank)
        config.setdefault(f"{prefix}lora_alpha", module.alpha)
        if module.alpha != config[f"{prefix}lora_alpha"]:
            config.setdefault(f"{prefix}alpha_pattern", {})[path] = module.alpha
        if module.rank != config[f"{prefix}r"]:
            config.setdefault(f"{prefix}rank_pattern", {})[path] = module.rank
        config[f"{prefix}use_dora"] = module.method == "dora"
    return header | {PEFT_METADATA: json.dumps(config, sort_keys=True)}


def _save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    from safetensors.torch import save_file

    for key, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value.float()).all():
            raise ValueError(f"{path.name}: {key} does not fit {value.dtype}")
    with new_file(path) as part:
        save_file({key: value.contiguous() for key, value in tensors.items()}, part, dict(metadata))
