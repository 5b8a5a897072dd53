"""The hash that A1111 and Civitai know a LoRA by."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file

from diffgraph.errors import MissingInput
from diffgraph.experts.autov3 import AutoV3Hashes, autov3_of

TENSORS = {"a": torch.arange(6.0)}


def test_it_is_of_the_tensors_alone(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "one.safetensors")
    save_file(TENSORS, tmp_path / "two.safetensors", {"ss_output_name": "another"})
    wanted = hashlib.sha256(TENSORS["a"].numpy().tobytes()).hexdigest()[:12]
    assert autov3_of(tmp_path / "one.safetensors") == wanted
    assert autov3_of(tmp_path / "two.safetensors") == wanted


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\xff" * 7 + b"\x7f", save(TENSORS)[:20]])
def test_what_ends_before_its_tensors_has_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(MissingInput, match="no whole safetensors"):
        autov3_of(tmp_path / "x.safetensors")


def test_what_was_read_once_is_kept(tmp_path: Path) -> None:
    file, kept = tmp_path / "x.safetensors", tmp_path / "library" / "autov3.jsonl"
    save_file(TENSORS, file)
    found = AutoV3Hashes(kept).of("ab" * 32, file)
    assert not kept.parent.exists()
    kept.parent.mkdir()
    AutoV3Hashes(kept).of("ab" * 32, file)
    file.unlink()
    assert AutoV3Hashes(kept).of("ab" * 32, file) == found
    with pytest.raises(MissingInput, match="is missing"):
        AutoV3Hashes(kept).of("cd" * 32, file)


def test_a_damaged_line_is_found_out_again(tmp_path: Path) -> None:
    file, kept = tmp_path / "x.safetensors", tmp_path / "autov3.jsonl"
    save_file(TENSORS, file)
    found = AutoV3Hashes(kept).of("ab" * 32, file)
    kept.write_text(kept.read_text().replace(found, "?"))
    assert AutoV3Hashes(kept).of("ab" * 32, file) == found
    assert AutoV3Hashes(kept)._store.get("ab" * 32) == f'"{found}"'.encode()
