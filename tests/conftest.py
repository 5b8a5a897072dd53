"""What every test may use: a small model of the true architecture, and no network."""

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

LOOPBACK = ("127.0.0.1", "::1", "localhost")

# before any library reads them
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
)


class NetworkUsed(RuntimeError):
    """A test tried to reach another machine."""


def _stay_at_home(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect":
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None  # a Unix socket is a path
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host and host not in LOOPBACK:
        raise NetworkUsed(f"{event} to {host}: tests do not use the network")


sys.addaudithook(_stay_at_home)


@pytest.fixture(scope="session")
def tiny_model_parts() -> tuple[Any, dict[str, Any]]:
    """A model of emoji64's architecture with random weights, and a copy of those weights."""
    import torch

    from diffgraph.families.emoji64 import architecture
    from diffgraph.families.family import SamplerConfig
    from diffgraph.families.stable_diffusion import StableDiffusion

    tokenizer = _tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20250607)  # noqa: TID251 (layers draw from it; the fork gives it back)
        model = StableDiffusion(
            "emoji64",
            tokenizer,
            architecture.build_text_encoder(
                len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id
            ),
            architecture.build_unet(),
            architecture.build_vae(),
            architecture.build_scheduler(),
            SamplerConfig(steps=2, guidance=4.0),
        )
    return model, {name: value.clone() for name, value in model.parameters().items()}


@pytest.fixture
def tiny_model(tiny_model_parts: tuple[Any, dict[str, Any]]) -> Iterator[Any]:
    """The small random model as it was built: a test may change its weights as it likes."""
    model, pristine = tiny_model_parts
    yield model
    for name, parameter in model.parameters().items():
        parameter.copy_(pristine[name])


def _tokenizer() -> Any:
    """Return a byte-level CLIP tokenizer: every text can be encoded, a letter a token."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    tokens = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    return CLIPTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=[])
