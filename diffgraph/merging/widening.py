"""How do numbers of eight bits become float32, exactly and at the speed of memory?

torch converts them one by one, ten times as slowly as half precision. Yet e5m2 is the upper half of
a float16, and e4m3 fits its bits when they are moved: its exponents are then 8 too small.
https://arxiv.org/abs/2209.05433
"""

import torch
from torch import Tensor

SHIFT = {torch.float8_e5m2: 8, torch.float8_e4m3fn: 7}  # bits, to where float16 has them
SECOND_BIT = 1 << 14
E4M3_SCALE = 256.0  # the exponents' biases are 7 and 15
E4M3_NAN = 480.0  # what its only NaNs would be if they were numbers; the largest number is 448


def widen(values: Tensor, out: Tensor, bits: Tensor) -> None:
    """Write numbers as float32, exactly, as `out.copy_(values)` does.

    Args:
        values: contiguous, on the CPU, of any floating type, in one dimension.
        out: float32, as many.
        bits: int16, as many; what is in it is lost.
    """
    shift = SHIFT.get(values.dtype)
    if shift is None:
        out.copy_(values)
        return
    bits.copy_(values.view(torch.int8)).bitwise_left_shift_(shift)
    if values.dtype is torch.float8_e4m3fn:
        bits.bitwise_and_(~SECOND_BIT)  # the sign, once more
    out.copy_(bits.view(torch.float16))
    if values.dtype is torch.float8_e4m3fn:
        low, high = torch.aminmax(out.mul_(E4M3_SCALE))
        if max(-float(low), float(high)) >= E4M3_NAN:
            out.copy_(values)
