"""The shape of emoji64's models: Stable Diffusion 1.5's own classes, small enough to ship.

64 px images, an autoencoder of factor 4 with 4 latent channels, a 3 M parameter UNet with
cross-attention, a CLIP text encoder. The UNet predicts velocity (Salimans and Ho,
https://arxiv.org/abs/2202.00512) on a schedule with zero terminal signal (Lin et al.,
https://arxiv.org/abs/2305.08891), so that night scenes and white paper are both within reach.
"""

from typing import Any

RESOLUTION = 64
LATENT = 16
CONTEXT_TOKENS = 32


def build_unet() -> Any:
    """Return a UNet with random weights."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=LATENT,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64, 104),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,  # the number of heads: diffusers' historic name for it
        norm_num_groups=8,
    )


def build_vae() -> Any:
    """Return an autoencoder with random weights."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=16,
        sample_size=RESOLUTION,
    )


def build_text_encoder(vocabulary: int, bos: int, eos: int) -> Any:
    """Return a text encoder with random weights for a vocabulary of so many tokens."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=128,
            intermediate_size=512,
            projection_dim=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT_TOKENS,
            bos_token_id=bos,
            eos_token_id=eos,
            pad_token_id=eos,
        )
    )


def build_scheduler() -> Any:
    """Return the noise schedule."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # none in effect; diffusers' pipelines warn of any other number
    )
