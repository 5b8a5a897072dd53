"""Weights files made to break the reader: each is refused by name, with nothing allocated."""

import json
import math
import os
import struct
from pathlib import Path

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
from diffgraph.experts.reading import open_delta, read_delta
from tests.hostile.files import (
    DAMAGED,
    NAME,
    PARAMETERS,
    PICKLES,
    STEM,
    entry,
    lora,
    with_header,
    zipped_pickle,
)


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


@pytest.mark.parametrize("gigabytes", [1, 10, 4096])
def test_a_huge_header_is_refused_whether_the_file_is_as_large_or_not(
    gigabytes: int, tmp_path: Path
) -> None:
    """A sparse file of that size: nothing of it is read."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", gigabytes << 30) + b"{}")
    os.truncate(path, 8 + (gigabytes << 30))
    with pytest.raises(DamagedFile, match=rf"claims a header of {gigabytes << 30} bytes"):
        open_delta(path, PARAMETERS)


def test_a_file_larger_than_memory_is_opened_without_it(tmp_path: Path) -> None:
    """A sparse terabyte of zeros: only its header is read."""
    rows = 1 << 30
    size = rows * 256 * 4
    text = json.dumps({NAME: entry([rows, 256], 0, size)}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + size)
    base = torch.empty(rows, 256, device="meta")
    assert open_delta(path, {NAME: base}).coverage.bytes > 1 << 40


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


def test_a_pattern_of_alphas_cannot_take_for_ever(tmp_path: Path) -> None:
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
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
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


def small(*shape: int) -> torch.Tensor:
    return torch.linspace(-0.3, 0.4, math.prod(shape)).reshape(shape)


FORMATS = {
    "oft": {"oft_blocks": small(6, 4, 4), "rescale": small(24, 1), "alpha": torch.tensor(0.1)},
    "boft": {"oft_blocks": small(2, 6, 4, 4)},
    "ia3": {"weight": small(24), "on_input": torch.tensor(0)},
    "glora": {
        "a1.weight": small(12, 2),
        "a2.weight": small(2, 12),
        "b1.weight": small(24, 2),
        "b2.weight": small(2, 12),
    },
    "loha": {
        "hada_w1_a": small(24, 2),
        "hada_w1_b": small(2, 12),
        "hada_w2_a": small(24, 2),
        "hada_w2_b": small(2, 12),
    },
    "lokr": {"lokr_w1": small(4, 2), "lokr_w2_a": small(6, 2), "lokr_w2_b": small(2, 6)},
    "dora": {"lora_up.weight": small(24, 2), "lora_down.weight": small(2, 12)}
    | {"dora_scale": small(24, 1)},
    "full": {"diff": small(24, 12)},
}


@pytest.mark.parametrize("form", sorted(FORMATS))
@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(where=st.floats(0, 1, exclude_max=True), value=st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
def test_any_format_with_a_flipped_byte_is_read_or_refused_by_name(
    form: str, where: float, value: int, tmp_path: Path
) -> None:
    data = bytearray(save({f"{STEM}.{role}": part for role, part in FORMATS[form].items()}))
    data[int(where * len(data))] = value
    path = tmp_path / "x.safetensors"
    path.unlink(missing_ok=True)
    path.write_bytes(bytes(data))
    try:
        delta = read_delta(path, PARAMETERS)
    except ExpertError as error:
        assert "x.safetensors" in str(error)  # noqa: PT017 (it may as well be read)
    else:
        assert torch.isfinite(delta.updates[NAME].dense()).all()


def test_rotations_by_numbers_too_large_are_refused(tmp_path: Path) -> None:
    for size in (1e30, 3e38, float("inf")):
        path = tmp_path / f"{size}.safetensors"
        blocks = torch.full((6, 4, 4), size)
        blocks[:, 0] = -size
        path.write_bytes(save({f"{STEM}.oft_blocks": blocks}))
        try:
            delta = read_delta(path, PARAMETERS)
        except ExpertError as error:
            assert path.name in str(error)  # noqa: PT017 (it may as well be read)
        else:
            assert torch.isfinite(delta.updates[NAME].dense()).all()
