from pathlib import Path
from typing import Any

import torch

from diffgraph.experts.delta import Coverage, Delta
from diffgraph.experts.reading import open_delta
from diffgraph.experts.updates import (
    CheckpointUpdate,
    LowRankUpdate,
    RenormalisedUpdate,
    RowsUpdate,
    SumUpdate,
)
from diffgraph.merging.packing import ALIGNMENT, pack, without_copies
from recipes.emoji64.writing import write_checkpoint


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def make_delta() -> Delta:
    base, shared = draw(6, 4), draw(3, 4)
    low = LowRankUpdate(draw(6, 3).half(), shared, 0.5, base.shape)
    fp8 = draw(6, 4).to(torch.float8_e4m3fn)
    taller = LowRankUpdate(draw(8, 2), draw(2, 4), 1.0, torch.Size((8, 4)))
    updates: dict[str, Any] = {
        "low": low,
        "other": LowRankUpdate(draw(6, 3).T.contiguous().T, shared, 1.0, base.shape),
        "dora": RenormalisedUpdate(low, draw(6), 0, base),
        "whole": CheckpointUpdate(fp8, base),
        "sum": SumUpdate((low, RowsUpdate(taller, ((1, 7),)))),
    }
    return Delta(updates, "test", Coverage())


def test_a_packed_delta_is_the_same_delta() -> None:
    delta = make_delta()
    packed = pack(delta)
    for name, update in delta.updates.items():
        assert torch.equal(packed.delta.updates[name].dense(), update.dense()), name
    moved = packed.to(torch.device("cpu"))
    assert torch.equal(moved.delta.updates["sum"].dense(), delta.updates["sum"].dense())


def test_everything_lies_aligned_in_one_buffer_and_once() -> None:
    delta = make_delta()
    packed = pack(delta)
    low, other = packed.delta.updates["low"], packed.delta.updates["other"]
    assert isinstance(low, LowRankUpdate)
    assert isinstance(other, LowRankUpdate)
    assert low.down.data_ptr() == other.down.data_ptr()  # one tensor of the file
    start, end = packed.buffer.data_ptr(), packed.buffer.data_ptr() + packed.bytes
    for value in (low.up, low.down, other.up):
        assert start <= value.data_ptr() < end
        assert (value.data_ptr() - start) % ALIGNMENT == 0
        assert value.is_contiguous()
    whole = packed.delta.updates["whole"]
    assert isinstance(whole, CheckpointUpdate)
    assert whole.value.dtype == torch.float16  # of eight bits in the file
    original = delta.updates["whole"]
    assert isinstance(original, CheckpointUpdate)
    assert whole.base is original.base


def test_a_packed_file_may_change_on_disk(tiny_model: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    learnt = {name: value + 0.1 for name, value in tiny_model.parameters().items()}
    write_checkpoint(learnt, path, "fp16")
    packed = pack(open_delta(path, tiny_model.parameters()))
    name = "unet.conv_in.weight"
    before = packed.delta.updates[name].dense()
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(packed.delta.updates[name].dense(), before)
    torch.testing.assert_close(before, torch.full_like(before, 0.1), rtol=0, atol=1e-2)


def test_what_a_checkpoint_leaves_as_it_was_is_left_out() -> None:
    base = draw(100, 100)
    late = base.clone()
    late[-1, -1] += 1
    updates = {
        "same": CheckpointUpdate(base.clone(), base),
        "half": CheckpointUpdate(base.half(), base),  # rounded: another number
        "late": CheckpointUpdate(late, base),
    }
    found = without_copies(Delta(updates, "checkpoint", Coverage()))
    assert list(found.updates) == ["half", "late"]
