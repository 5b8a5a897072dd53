"""How is float32 kept float32 on a GPU?

By default convolutions there round their inputs to ten bits (TF32), each batch size in another way:
an image drawn in a batch would differ from the one drawn alone by more than a step of 255.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def whole_float32() -> Iterator[None]:
    """Keep products and convolutions of float32 in float32; half precision is left as it is."""
    settings: tuple[Any, ...] = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [setting.allow_tf32 for setting in settings]
    try:
        for setting in settings:
            setting.allow_tf32 = False
        yield
    finally:
        for setting, was in zip(settings, before, strict=True):
            setting.allow_tf32 = was
