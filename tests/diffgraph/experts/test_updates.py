"""Updates added to sums, and files of which nothing is read before it is used."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file

from diffgraph.errors import DamagedFile
from diffgraph.experts.reading import open_delta, read_delta
from diffgraph.experts.updates import (
    CheckpointUpdate,
    DenseUpdate,
    DerivedUpdate,
    HadamardUpdate,
    KroneckerUpdate,
    LowRankUpdate,
    RenormalisedUpdate,
    RowsUpdate,
    SumUpdate,
    Update,
    against,
    moved,
    norm,
    rows_of,
    tensors_of,
)
from tests.diffgraph.experts.samples import BASE, LINEAR, assert_close, draw

SHAPE = torch.Size((6, 4, 3, 3))
WEIGHT = draw(1, *SHAPE).float()


def double(base: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return base * factor.float()


LOW = LowRankUpdate(draw(2, 6, 2).half(), draw(3, 2, 36).half(), 0.5, SHAPE)
UPDATES: dict[str, Update] = {
    "whole": DenseUpdate(draw(4, *SHAPE).bfloat16()),
    "whole in eight bits": DenseUpdate(draw(4, *SHAPE).float().to(torch.float8_e4m3fn)),
    "whole in float64": DenseUpdate(draw(4, *SHAPE)),
    "low rank": LOW,
    "Hadamard": HadamardUpdate(
        draw(5, 6, 2), draw(6, 2, 36), draw(7, 6, 3), draw(8, 3, 36), 2.0, SHAPE
    ),
    "Kronecker": KroneckerUpdate(draw(9, 3, 2), draw(10, 2, 2, 3, 3), 0.5, SHAPE),
    "checkpoint": CheckpointUpdate(draw(11, *SHAPE).half(), WEIGHT),
    "checkpoint in eight bits": CheckpointUpdate(
        draw(11, *SHAPE).float().to(torch.float8_e5m2), WEIGHT.half()
    ),
    "renormalised": RenormalisedUpdate(LOW, draw(12, 4).abs(), 1, WEIGHT),
    "derived": DerivedUpdate(double, (draw(13, 6, 1, 1, 1),), WEIGHT.half()),
    "rows": RowsUpdate(DenseUpdate(draw(14, 9, 4, 3, 3)), ((5, 9), (0, 2))),
    "sum": SumUpdate((LOW, CheckpointUpdate(draw(15, *SHAPE), WEIGHT))),
}


@pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES.keys())
def test_an_update_is_added_in_place(update: Update) -> None:
    before = draw(20, *SHAPE).float()
    out = before.clone()
    update.add_to(out, -0.3)
    assert update.shape == SHAPE
    assert_close(out, before.double() - 0.3 * update.dense().double())
    assert norm(update) == pytest.approx(float(update.dense().norm()), rel=1e-5)
    update.dense().zero_()
    assert_close(update.dense(), (out.double() - before.double()) / -0.3, 1e-4)  # its own copy
    kept = [tensor.data_ptr() for tensor in tensors_of(update)]
    assert [tensor.data_ptr() for tensor in tensors_of(moved(update, "cpu"))] == kept
    assert all(tensor.is_meta for tensor in tensors_of(moved(update, "meta")))


@pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES.keys())
def test_rows_of_an_update_are_its_rows(update: Update) -> None:
    rows = ((4, 6), (1, 2))
    cut = rows_of(update, rows, torch.cat([WEIGHT[4:6], WEIGHT[1:2]]))
    expected = update.dense()
    assert_close(cut.dense(), torch.cat([expected[4:6], expected[1:2]]).double())
    assert cut.shape == (3, *SHAPE[1:])


def test_an_update_is_bound_to_another_copy_of_the_base() -> None:
    other = WEIGHT + 1
    value = draw(1, *SHAPE)
    both = SumUpdate((CheckpointUpdate(value, WEIGHT), LOW))
    assert_close(against(both, other).dense(), value - other.double() + LOW.dense().double())
    assert against(LOW, other) is LOW


NAME = f"{LINEAR}.weight"


def write(folder: Path, value: torch.Tensor) -> Path:
    save_file({NAME: value}, folder / "expert.safetensors")
    return folder / "expert.safetensors"


def test_opening_reads_nothing_and_looking_at_it_finds_what_is_wrong(tmp_path: Path) -> None:
    value = torch.ones(24, 12)
    value[3, :5] = float("nan")
    path = write(tmp_path, value)
    delta = open_delta(path, BASE)
    assert list(delta.updates) == [NAME]
    assert delta.coverage.norms == {}
    with pytest.raises(DamagedFile, match=rf"expert.*'{NAME}' holds 5 NaN.* of 288"):
        delta.check(NAME)
    with pytest.raises(DamagedFile, match="holds 5 NaN"):
        read_delta(path, BASE)


def test_a_mapped_tensor_outlives_its_release_and_its_name(tmp_path: Path) -> None:
    value = torch.arange(5000 * 12.0).reshape(5000, 12)
    path = write(tmp_path, value)
    delta = open_delta(path, {NAME: torch.zeros(5000, 12)})
    path.unlink()  # as a library moves a file when it takes it in
    for _ in range(2):
        assert torch.equal(delta.updates[NAME].dense(), value)
        delta.release(NAME)
    delta.release("unet.not_there")
    delta.check(NAME)


def test_what_is_added_to_a_mapped_tensor_never_reaches_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, torch.ones(24, 12))
    before = path.read_bytes()
    update = open_delta(path, BASE).updates[NAME]
    assert isinstance(update, CheckpointUpdate)
    update.value.add_(1)
    assert path.read_bytes() == before


def test_a_file_that_is_cut_short_while_it_is_read_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, torch.ones(24, 12))
    delta = open_delta(path, BASE)
    os.truncate(path, 200)
    with pytest.raises(DamagedFile, match=r"expert.*cut short.*to_q"):
        delta.check(NAME)


def test_tensors_at_odd_offsets_are_read(tmp_path: Path) -> None:
    """Nothing in the format aligns them."""
    data = save({NAME: torch.arange(288.0).reshape(24, 12)})
    length = int.from_bytes(data[:8], "little")
    header, numbers = data[8 : 8 + length].rstrip(), data[8 + length :]
    while (8 + len(header)) % 4 != 3:
        header += b" "
    path = tmp_path / "expert.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + numbers)
    found = open_delta(path, {NAME: torch.zeros(24, 12)}).updates[NAME].dense()
    assert torch.equal(found, torch.arange(288.0).reshape(24, 12))
