"""Weights files made to break the reader: each is refused by name, with nothing allocated."""

import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from diffgraph.errors import (
    DamagedFile,
    ExpertError,
    FamilyMismatch,
    MissingInput,
    UnknownFormat,
    UnsafeFile,
)
from diffgraph.experts.reading import read_delta

NAME = "unet.mid_block.attentions.0.to_q.weight"
STEM = "lora_unet_mid_block_attentions_0_to_q"
PARAMETERS = {NAME: torch.linspace(-1, 1, 24 * 12).reshape(24, 12)}


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


def refuse(data: bytes, error: type[Exception], folder: Path, name: str = "x.safetensors") -> str:
    path = folder / name
    path.write_bytes(data)
    with pytest.raises(error) as caught:
        read_delta(path, PARAMETERS)
    message = str(caught.value)
    assert len(message) < 500
    assert "\n" not in message
    return message


@pytest.mark.parametrize("data", PICKLES.values(), ids=PICKLES.keys())
def test_a_renamed_pickle_is_unsafe(data: bytes, tmp_path: Path) -> None:
    refuse(data, UnsafeFile, tmp_path)


def test_a_renamed_torch_file_is_unsafe(tmp_path: Path) -> None:
    refuse(zipped_pickle(tmp_path), UnsafeFile, tmp_path)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin", ".PKL"])
def test_a_name_that_promises_a_pickle_is_unsafe(suffix: str, tmp_path: Path) -> None:
    refuse(lora(), UnsafeFile, tmp_path, f"model{suffix}")


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_is_named_so(data: bytes, tmp_path: Path) -> None:
    assert refuse(data, DamagedFile, tmp_path)


def test_nan_is_named_with_its_key(tmp_path: Path) -> None:
    message = refuse(DAMAGED["infinity"], DamagedFile, tmp_path)
    assert f"{STEM}.lora_up.weight" in message


def test_small_factors_of_a_huge_product_are_not_multiplied(tmp_path: Path) -> None:
    wide = save(
        {
            f"{STEM}.lora_up.weight": torch.ones(1_000_000, 1),
            f"{STEM}.lora_down.weight": torch.ones(1, 1_000_000),
        }
    )
    refuse(wide, FamilyMismatch, tmp_path)


def test_a_key_with_control_characters_is_shown_harmlessly(tmp_path: Path) -> None:
    key = "unet.\x1b[2J\n<script>alert(1)</script>" + "x" * 5000
    message = refuse(save({key: torch.ones(1)}), FamilyMismatch, tmp_path)
    assert "\x1b" not in message


def test_a_pattern_of_alphas_is_never_run_as_an_expression(tmp_path: Path) -> None:
    """PEFT reads these names as regular expressions: this one would take for ever."""
    evil = json.dumps({"unet.alpha_pattern": {"(a+)+$": 3}, "unet.lora_alpha": 4})
    path = tmp_path / "x.safetensors"
    path.write_bytes(
        save(
            {
                "unet.mid_block.attentions.0.to_q.lora_A.weight": torch.ones(2, 12),
                "unet.mid_block.attentions.0.to_q.lora_B.weight": torch.ones(24, 2),
            },
            {"lora_adapter_metadata": evil},
        )
    )
    delta = read_delta(path, PARAMETERS)
    assert float(delta.updates[NAME].dense()[0, 0]) == 2 * 4 / 2


def test_a_header_whose_length_begins_like_a_pickle_is_read(tmp_path: Path) -> None:
    padding = 0x0280 - len(json.dumps({"__metadata__": {"a": ""}, "b": entry([1], 0, 4)}))
    data = with_header({"__metadata__": {"a": "x" * padding}, "b": entry([1], 0, 4)}, b"\0" * 4)
    assert data.startswith(b"\x80\x02")
    assert "b" in refuse(data, UnknownFormat, tmp_path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingInput):
        read_delta(tmp_path / "none.safetensors", PARAMETERS)
    with pytest.raises(MissingInput):
        read_delta(tmp_path, PARAMETERS)


@settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(position=st.integers(0, len(lora()) - 1), value=st.integers(0, 255), cut=st.integers(0, 40))
def test_any_flipped_byte_is_read_or_refused_by_name(
    position: int, value: int, cut: int, tmp_path: Path
) -> None:
    data = bytearray(lora())
    data[position] = value
    path = tmp_path / "x.safetensors"
    path.write_bytes(bytes(data[: len(data) - cut]))
    try:
        delta = read_delta(path, PARAMETERS)
    except ExpertError as error:
        assert "x.safetensors" in str(error)  # noqa: PT017 (it may as well be read)
    else:
        assert torch.isfinite(delta.updates[NAME].dense()).all()
