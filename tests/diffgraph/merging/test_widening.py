"""Every number of eight bits there is, against torch's own conversion."""

import pytest
import torch

from diffgraph.merging.widening import widen

EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2)


@pytest.mark.parametrize("dtype", [*EIGHT_BITS, torch.float16, torch.bfloat16, torch.float32])
def test_all_numbers(dtype: torch.dtype) -> None:
    count = 256 if dtype in EIGHT_BITS else 1 << 16
    bits = torch.arange(count, dtype=torch.int32)
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[dtype.itemsize]
    values = bits.to(whole).view(dtype)
    for part in (values, values[values.isfinite() if dtype.itemsize > 1 else numbers(values)]):
        out = torch.full((len(part),), 7.0)
        widen(part, out, torch.empty(len(part), dtype=torch.int16))
        expected = part.float()
        assert torch.equal(out.isnan(), expected.isnan())
        assert torch.equal(out.nan_to_num(nan=0.5), expected.nan_to_num(nan=0.5))
        assert torch.equal(out.signbit(), expected.signbit())


def numbers(values: torch.Tensor) -> torch.Tensor:
    """Return which of them are neither NaN nor infinite: without those another way is taken."""
    return values.float().isfinite()
