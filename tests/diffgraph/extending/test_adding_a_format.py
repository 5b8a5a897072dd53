"""docs/adding-a-format.md, word by word."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from diffgraph.errors import DamagedFile, FamilyMismatch, UnknownFormat
from diffgraph.experts.formats import ADAPTERS, FORMATS
from diffgraph.experts.reading import read_delta
from tests.diffgraph.extending.packages import Install, files_of, registered

LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def written(path: Path, rows: int, columns: int, **others: torch.Tensor) -> Path:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"{LAYER}.half_left.weight": torch.randn(rows, 2, generator=generator),
        f"{LAYER}.half_right.weight": torch.randn(2, columns, generator=generator),
        f"{LAYER}.alpha": torch.tensor(1.0),
    }
    tensors |= {f"{LAYER}.{name}": value for name, value in others.items()}
    save_file(tensors, path)
    return path


def test_a_file_of_the_format_is_read_exactly(
    install: Install, tiny_model: Any, tmp_path: Path
) -> None:
    parameters = tiny_model.parameters()
    rows, columns = parameters[f"{LAYER}.weight"].shape
    file = written(tmp_path / "x.safetensors", rows, columns)
    with pytest.raises((UnknownFormat, FamilyMismatch)):
        read_delta(file, parameters)
    install(files_of("adding-a-format.md"))
    delta = read_delta(file, parameters)
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(rows, 2, generator=generator)
    right = torch.randn(2, columns, generator=generator)
    assert delta.format == "halves"
    assert len(delta.coverage.matched) == 3
    torch.testing.assert_close(delta.updates[f"{LAYER}.weight"].dense(), 0.5 * left @ right)


def test_files_of_ours_are_read_as_before(
    install: Install, tiny_model: Any, tmp_path: Path
) -> None:
    parameters = tiny_model.parameters()
    rows, columns = parameters[f"{LAYER}.weight"].shape
    up, down = torch.ones(rows, 2), torch.ones(2, columns)
    file = tmp_path / "x.safetensors"
    save_file({f"{LAYER}.lora_A.weight": down, f"{LAYER}.lora_B.weight": up}, file)
    before = read_delta(file, parameters)
    install(files_of("adding-a-format.md"))
    after = read_delta(file, parameters)
    assert (before.format, before.coverage) == (after.format, after.coverage)


def test_it_refuses_as_ours_do(install: Install, tiny_model: Any, tmp_path: Path) -> None:
    parameters = tiny_model.parameters()
    rows, columns = parameters[f"{LAYER}.weight"].shape
    install(files_of("adding-a-format.md"))
    with pytest.raises(FamilyMismatch, match="is for a weight of shape"):
        read_delta(written(tmp_path / "wide.safetensors", rows, columns + 1), parameters)
    nan = {"half_left.weight": torch.full((rows, 2), float("nan"))}
    with pytest.raises(DamagedFile, match="half_left"):
        read_delta(written(tmp_path / "nan.safetensors", rows, columns, **nan), parameters)


@pytest.mark.parametrize(
    ("suffixes", "marks", "why"),
    [
        ('{".lora_A.weight": "own"}', '("own",)', "'.lora_A.weight'"),
        ('{".own": "down"}', '("down",)', "'down'"),
        ('{".weight": "own"}', '("own",)', "'.weight'"),
        ('{".own": "own"}', "()", "its marks"),
        ('{".own": "own"}', '("other",)', "its marks"),
    ],
)
def test_a_format_that_would_change_how_ours_are_read_is_refused(
    install: Install, caplog: pytest.LogCaptureFixture, suffixes: str, marks: str, why: str
) -> None:
    text = f"""
from diffgraph.experts.formats import AdapterFormat
OWN = AdapterFormat("own", {suffixes}, {marks}, build=lambda parts, base: None)
"""
    project = registered("own", "diffgraph.formats", own="own_format:OWN")
    install({"pyproject.toml": project, "own_format.py": text})
    assert not FORMATS.added
    assert set(FORMATS) == {form.name for form in ADAPTERS}
    assert why in caplog.messages[0]
