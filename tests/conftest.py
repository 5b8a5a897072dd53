"""What every test may use: a small model of the true architecture, and no network."""

import getpass
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from diffgraph.permissions import forget_homes
from diffgraph.secrets import forget_secrets
from flows.serving.server import CLIENT, PATIENT, QUIET

pytest_plugins = ("tests.left_as_found", "tests.sharing", "tests.command", "tests.small_hub")

LOOPBACK = ("127.0.0.1", "::1", "localhost")

# Before any library reads it: what is set in a developer's shell is not what tests run with, and
# whichever test imports a library first, the library sees the same.
PREFECT_HOME = tempfile.TemporaryDirectory(prefix="diffgraph-tests-")
for name in set(os.environ) - {"DIFFGRAPH_WRITE_DOCS"}:
    if name.startswith(("PREFECT_", "DIFFGRAPH_", "MLFLOW_", "DASK_")):
        del os.environ[name]
os.environ.update(
    **QUIET,
    **CLIENT,
    **PATIENT,
    PREFECT_HOME=PREFECT_HOME.name,
    GIT_PYTHON_REFRESH="quiet",
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    # libraries set these once they are imported
    KMP_DUPLICATE_LIB_OK="True",
    KMP_INIT_AT_FORK="FALSE",
    TORCHINDUCTOR_CACHE_DIR=f"{tempfile.gettempdir()}/torchinductor_{getpass.getuser()}",
)


# The same examples each time, however long a busy machine takes for one: chance is for the fuzzer.
settings.register_profile(
    "tests", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")


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


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say which order this was, quiet or not."""
    seed = config.getoption("randomly_seed", None)
    terminalreporter.write_line(f"the order: --randomly-seed={seed}")


@pytest.fixture(autouse=True)
def _no_secrets() -> Iterator[None]:
    """A test's tokens are words of other tests."""
    yield
    forget_secrets()
    forget_homes()


@pytest.fixture(scope="session")
def tiny_model_parts() -> tuple[Any, dict[str, Any]]:
    """A model of emoji64's architecture with random weights, and a copy of those weights."""
    import torch

    from diffgraph.families.family import SamplerConfig
    from diffgraph.families.stable_diffusion import StableDiffusion
    from recipes.emoji64 import architecture

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


@pytest.fixture(scope="session")
def tiny_sd15_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion 1.5's true architecture with few channels, in the diffusers layout."""
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline
    from diffusers import UNet2DConditionModel as UNet

    tokenizer = _tokenizer(77)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(15)  # noqa: TID251 (layers draw from it; the fork gives it back)
        pipeline = StableDiffusionPipeline(
            tokenizer=tokenizer,
            text_encoder=_clip(tokenizer, layers=2),
            unet=UNet(
                sample_size=8,
                block_out_channels=(32, 32, 64, 64),
                layers_per_block=2,
                down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
                up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
                cross_attention_dim=32,
                attention_head_dim=8,
            ),
            vae=AutoencoderKL(
                block_out_channels=(32, 32, 32, 32),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
                latent_channels=4,
                sample_size=64,
            ),
            scheduler=PNDMScheduler(
                beta_schedule="scaled_linear",
                beta_start=0.00085,
                beta_end=0.012,
                skip_prk_steps=True,
                steps_offset=1,
            ),
            safety_checker=None,
            feature_extractor=None,
        )
    folder = tmp_path_factory.mktemp("sd15")
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_flux_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FLUX.1's true architecture with few channels and blocks, in the diffusers layout."""
    import torch
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        FluxPipeline,
        FluxTransformer2DModel,
    )
    from transformers import T5Config, T5EncoderModel

    tokenizer, tokenizer_2 = _tokenizer(77), _t5_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12)  # noqa: TID251 (layers draw from it; the fork gives it back)
        pipeline = FluxPipeline(
            tokenizer=tokenizer,
            text_encoder=_clip(tokenizer, layers=2),
            tokenizer_2=tokenizer_2,
            text_encoder_2=T5EncoderModel(
                T5Config(
                    vocab_size=len(tokenizer_2),
                    d_model=32,
                    d_kv=8,
                    d_ff=64,
                    num_layers=2,
                    num_heads=4,
                    feed_forward_proj="gated-gelu",
                )
            ),
            transformer=FluxTransformer2DModel(
                in_channels=16,
                num_layers=2,
                num_single_layers=3,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=32,
                pooled_projection_dim=32,
                guidance_embeds=True,
                axes_dims_rope=(4, 6, 6),
            ),
            vae=AutoencoderKL(
                block_out_channels=(32, 32),
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                layers_per_block=2,
                latent_channels=4,
                scaling_factor=0.3611,
                shift_factor=0.1159,
                use_quant_conv=False,
                use_post_quant_conv=False,
                sample_size=32,
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        )
    folder = tmp_path_factory.mktemp("flux")
    pipeline.save_pretrained(folder)
    return folder


def _clip(tokenizer: Any, layers: int) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            projection_dim=32,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    )


def _t5_tokenizer() -> Any:
    """Return a T5 tokenizer: a printable letter a token."""
    from transformers import T5TokenizerFast

    letters = [(chr(code), -3.0) for code in range(33, 127)]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), ("\u2581", -2.0)]
    return T5TokenizerFast(vocab=[*special, *letters], extra_ids=0, model_max_length=48)


def _tokenizer(longest: int | None = None) -> Any:
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
    vocabulary = {token: index for index, token in enumerate(tokens)}
    limit = {} if longest is None else {"model_max_length": longest}
    return CLIPTokenizer(vocab=vocabulary, merges=[], **limit)
