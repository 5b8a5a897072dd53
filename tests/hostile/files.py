"""One file of each kind that would break a careless reader, made when it is asked for."""

import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

NAME = "unet.mid_block.attentions.0.to_q.weight"
STEM = "lora_unet_mid_block_attentions_0_to_q"
PARAMETERS: Mapping[str, torch.Tensor] = {NAME: torch.linspace(-1, 1, 24 * 12).reshape(24, 12)}


def lora(**more: torch.Tensor) -> bytes:
    tensors = {
        f"{STEM}.lora_up.weight": torch.ones(24, 2),
        f"{STEM}.lora_down.weight": torch.ones(2, 12),
    }
    return save({**tensors, **{f"{STEM}.{role}": value for role, value in more.items()}})


def with_header(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape: Any, start: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


class Runs:
    """Runs a program when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (exec, ("raise SystemExit('a stranger ran code')",))


def zipped_pickle(folder: Path) -> bytes:
    with zipfile.ZipFile(folder / "model.zip", "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Runs()))
    return (folder / "model.zip").read_bytes()


PICKLES = {
    **{f"pickle protocol {n}": pickle.dumps(Runs(), protocol=n) * 9 for n in (2, 3, 4, 5)},
}

DAMAGED: dict[str, bytes] = {
    "nothing": b"",
    "seven bytes": b"\x02\0\0\0\0\0\0",
    "no header": struct.pack("<Q", 0),
    "web page": b"<!DOCTYPE html><html>please log in</html>",
    "truncated data": lora()[:-5],
    "truncated header": lora()[:60],
    "bytes behind the end": lora() + b"\0",
    "header of an exabyte": struct.pack("<Q", 1 << 60) + b"{}",
    "header of the largest number": b"\xff" * 8 + b"{}",
    "header of a gigabyte": struct.pack("<Q", 1 << 30) + b"{}",
    "not JSON": with_header(b"{'a': 1}"),
    "not UTF-8": with_header(b'{"\xff": 1}'),
    "a list": with_header([]),
    "nested a hundred thousand deep": with_header(b"[" * 100_000),
    "an entry that is a number": with_header({"a": 1}),
    "a strange type": with_header({"a": entry([1], 0, 4, "F9000")}, b"\0" * 4),
    "a type that is a list": with_header({"a": entry([1], 0, 4, ["F32"])}, b"\0" * 4),
    "a negative size": with_header({"a": entry([-1, -1], 0, 4)}, b"\0" * 4),
    "a size that is a word": with_header({"a": entry(["1"], 0, 4)}, b"\0" * 4),
    "a size that is true": with_header({"a": entry([True], 0, 4)}, b"\0" * 4),
    "no shape": with_header({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, b"\0" * 4),
    "a thousand dimensions": with_header({"a": entry([1] * 1000, 0, 4)}, b"\0" * 4),
    "a shape of an exabyte": with_header({"a": entry([1 << 30, 1 << 30], 0, 4)}, b"\0" * 4),
    "a shape that overflows 64 bits": with_header({"a": entry([1 << 33, 1 << 33], 0, 0)}, b""),
    "offsets behind the end": with_header({"a": entry([1], 100, 104)}, b"\0" * 4),
    "offsets before the start": with_header({"a": entry([1], -4, 0)}, b"\0" * 4),
    "offsets swapped": with_header({"a": entry([1], 4, 0)}, b"\0" * 4),
    "three offsets": with_header(
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}}, b"\0" * 4
    ),
    "tensors that overlap": with_header(
        {"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, b"\0" * 12
    ),
    "a gap": with_header({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, b"\0" * 12),
    "a key twice": with_header(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b"\0" * 4,
    ),
    "metadata that are numbers": with_header({"__metadata__": {"a": 1}}),
    "metadata that are a list": with_header({"__metadata__": []}),
    "NaN": lora(alpha=torch.tensor(float("nan"))),
    "infinity": save(
        {
            f"{STEM}.lora_up.weight": torch.full((24, 2), float("inf")),
            f"{STEM}.lora_down.weight": torch.ones(2, 12),
        }
    ),
    "NaN in 8 bits": save({NAME: torch.full((24, 12), float("nan")).to(torch.float8_e4m3fn)}),
    "numbers whose product is infinite": save(
        {
            f"{STEM}.lora_up.weight": torch.full((24, 2), 3e38),
            f"{STEM}.lora_down.weight": torch.full((2, 12), 3e38),
        }
    ),
    "two alphas": lora(alpha=torch.ones(2)),
    "half a LoRA": save({f"{STEM}.lora_up.weight": torch.ones(24, 2)}),
    "ranks that differ": save(
        {
            f"{STEM}.lora_up.weight": torch.ones(24, 2),
            f"{STEM}.lora_down.weight": torch.ones(3, 12),
        }
    ),
    "rank zero": save(
        {
            f"{STEM}.lora_up.weight": torch.ones(24, 0),
            f"{STEM}.lora_down.weight": torch.ones(0, 12),
        }
    ),
    "a factor that is a number": save(
        {f"{STEM}.lora_up.weight": torch.ones(()), f"{STEM}.lora_down.weight": torch.ones(2, 12)}
    ),
    "one module under two names": save(
        {
            f"{STEM}.lora_up.weight": torch.ones(24, 2),
            f"{STEM}.lora_down.weight": torch.ones(2, 12),
            f"{NAME.removesuffix('.weight')}.lora_A.weight": torch.ones(2, 12),
        }
    ),
    "a huge Kronecker factor": save(
        {
            f"{STEM}.lokr_w1": torch.ones(1, 1),
            f"{STEM}.lokr_w2_a": torch.ones(100_000, 1),
            f"{STEM}.lokr_w2_b": torch.ones(1, 100_000),
        }
    ),
    "alphas that are not JSON": save(
        {
            "unet.mid_block.attentions.0.to_q.lora_A.weight": torch.ones(2, 12),
            "unet.mid_block.attentions.0.to_q.lora_B.weight": torch.ones(24, 2),
        },
        {"lora_adapter_metadata": "{"},
    ),
    "an alpha that is a word": save(
        {
            "unet.mid_block.attentions.0.to_q.lora_A.weight": torch.ones(2, 12),
            "unet.mid_block.attentions.0.to_q.lora_B.weight": torch.ones(24, 2),
        },
        {"lora_adapter_metadata": '{"unet.lora_alpha": "a lot"}'},
    ),
}


def numbers(**shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    return {key: torch.zeros(shape) for key, shape in shapes.items()}


def adapter_of(stem: str, width: int, out: int = 24) -> dict[str, torch.Tensor]:
    """A LoRA of one module."""
    return {
        f"{stem}.lora_down.weight": torch.ones(2, width),
        f"{stem}.lora_up.weight": torch.ones(out, 2),
    }


ATTENTION = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
UNET = "model.diffusion_model."

NOT_WEIGHTS: Mapping[str, tuple[dict[str, torch.Tensor], str]] = {
    "textual inversion of A1111": (numbers(emb_params=(2, 768)), "a textual inversion"),
    "textual inversion of SDXL": (
        numbers(clip_l=(2, 768), clip_g=(2, 1280)),
        "a textual inversion",
    ),
    "textual inversion of diffusers": ({"<cat-toy>": torch.zeros(768)}, "a textual inversion"),
    "textual inversion of InvokeAI": (
        {"string_to_param.*": torch.zeros(1, 768)},
        "a textual inversion",
    ),
    "hypernetwork": (
        {
            f"{width}.{side}.linear.0.weight": torch.zeros(2, 2)
            for width in (320, 768)
            for side in "01"
        },
        "a hypernetwork",
    ),
    "ControlNet": (
        {"control_model.input_hint_block.0.weight": torch.zeros(16, 3, 3, 3)},
        "a ControlNet",
    ),
    "ControlNet of diffusers": (
        {"controlnet_cond_embedding.conv_in.weight": torch.zeros(16, 3, 3, 3)},
        "a ControlNet",
    ),
    "IP-Adapter": ({"ip_adapter.1.to_k_ip.weight": torch.zeros(320, 768)}, "an IP-Adapter"),
    "motion module": (
        {"down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": torch.zeros(320)},
        "a motion module",
    ),
    "scaled eight bits": (
        {
            "double_blocks.0.img_attn.qkv.weight": torch.zeros(3, 3).to(torch.float8_e4m3fn),
            "double_blocks.0.img_attn.qkv.scale_weight": torch.ones(()),
        },
        "quantised weights",
    ),
    "four bits": (
        {
            f"{UNET}out.2.weight": torch.zeros(8, dtype=torch.uint8),
            f"{UNET}out.2.weight.absmax": torch.ones(1),
        },
        "quantised weights",
    ),
    "eight bits and a scale of another name": (
        {
            NAME: torch.zeros(24, 12).to(torch.float8_e4m3fn),
            f"{NAME.removesuffix('.weight')}.scale": torch.ones(()),
        },
        "quantised weights",
    ),
    "eight bits and what its inputs are scaled by": (
        {
            NAME: torch.zeros(24, 12).to(torch.float8_e5m2),
            f"{NAME}.input_amax": torch.ones(()),
        },
        "quantised weights",
    ),
    "integers without scales": ({NAME: torch.ones(24, 12, dtype=torch.int8)}, "is int8"),
    "bytes without scales": ({NAME: torch.ones(24, 12, dtype=torch.uint8)}, "is uint8"),
    "packed bytes": ({NAME: torch.ones(144, 1, dtype=torch.uint8)}, "is uint8"),
    "wide integers": ({NAME: torch.ones(24, 12, dtype=torch.int64)}, "is int64"),
    "truth values": ({NAME: torch.ones(24, 12, dtype=torch.bool)}, "is bool"),
    "factors of integers": (
        {
            f"{STEM}.lora_down.weight": torch.ones(2, 12, dtype=torch.int8),
            f"{STEM}.lora_up.weight": torch.ones(24, 2),
        },
        "holds integers, not numbers to multiply",
    ),
    "whole modules of integers": (
        {
            f"{STEM}.diff": torch.ones(24, 12),
            "base_model.model.gone.lora_A.weight": torch.ones(2, 12),
            f"{NAME.removesuffix('.weight')}.set_weight": torch.ones(24, 12, dtype=torch.int8),
        },
        "holds integers",
    ),
    "factors of eight bits and a scale": (
        {
            f"{STEM}.lora_down.weight": torch.ones(2, 12).to(torch.float8_e4m3fn),
            f"{STEM}.lora_up.weight": torch.ones(24, 2).to(torch.float8_e4m3fn),
            f"{STEM}.down_scale": torch.ones(()),
        },
        "belongs to a module that is read",
    ),
    "GPTQ": (numbers(**{"unet.mid_block.attentions.0.to_q.qweight": (3, 3)}), "quantised weights"),
    "autoencoder alone": (
        {"first_stage_model.encoder.conv_in.weight": torch.zeros(2, 2)},
        "nothing that is ever merged",
    ),
    "nothing at all": ({}, "no reader recognises its keys"),
}
"""Files that are no change of a model's weights, and what they are told to be."""

OF_ANOTHER_BASE: Mapping[str, tuple[dict[str, torch.Tensor], str]] = {
    "LoRA of SD 1.x": (adapter_of(ATTENTION, 768), "it looks made for SD 1.x"),
    "LoRA of SD 2.x": (adapter_of(ATTENTION, 1024), "it looks made for SD 2.x"),
    "LoRA of SDXL": (adapter_of(ATTENTION, 2048), "it looks made for SDXL"),
    "LoRA of SDXL by diffusers": (
        {
            "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v.lora_A.weight": (
                torch.ones(2, 2048)
            )
        },
        "it looks made for SDXL",
    ),
    "LoRA of FLUX": (
        adapter_of("lora_unet_double_blocks_0_img_attn_qkv", 3072),
        "it looks made for FLUX",
    ),
    "LoRA of SD 3": (
        adapter_of("lora_unet_joint_blocks_0_x_block_attn_qkv", 1536),
        "it looks made for SD 3",
    ),
    "SDXL": (
        {
            f"{UNET}label_emb.0.0.weight": torch.zeros(2, 2),
            "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias": torch.zeros(2),
        },
        "it looks made for SDXL",
    ),
    "inpainting model": (
        {f"{UNET}input_blocks.0.0.weight": torch.zeros(320, 9, 3, 3)},
        "an inpainting model: its UNet takes 9 channels, not 4",
    ),
    "inpainting model of diffusers": (
        {"unet.conv_in.weight": torch.zeros(320, 9, 3, 3)},
        "an inpainting model",
    ),
    "instruction-editing model": (
        {f"{UNET}input_blocks.0.0.weight": torch.zeros(320, 8, 3, 3)},
        "an instruction-editing model: its UNet takes 8 channels, not 4",
    ),
    "a weight of another shape": (
        adapter_of(STEM, 768),
        r"(24, 768), the base model's is (24, 12)",
    ),
}
"""Files that would fit another model, and what they are told to be."""
