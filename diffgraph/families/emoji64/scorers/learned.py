"""What do all learned scorers share? Prompts become token ids, a network rates, files hold it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from diffgraph.errors import DamagedFile, InputError, MissingInput
from diffgraph.families.emoji64.scorers.networks import TEXT_TOKENS, prepared

WEIGHTS, CONFIG = "scorer.safetensors", "config.json"
SCALE = ".row_scale"
CHUNK = 64  # images rated together: bounds the memory, does not touch the scores


class ScorerConfig(BaseModel, frozen=True, extra="forbid"):
    """What a scorer's weights need to be read, and how its raw rating becomes a score."""

    name: str
    vocabulary: int = Field(ge=1, description="tokens of the family's tokenizer")
    end: int = Field(ge=0, description="the id of its end token, which also pads")
    offset: float = 0.0
    scale: float = Field(default=1.0, gt=0.0, description="score = offset + scale * rating")
    training: dict[str, Any] = Field(
        default_factory=dict, description="how it was made, how good it is"
    )


class LearnedScorer(ABC):
    """A `Scorer` that is a small network; one subclass a scorer names it and builds the network."""

    name: str = ""

    def __init__(
        self,
        network: nn.Module,
        config: ScorerConfig,
        tokenizer: Any,
        device: str | torch.device = "cpu",
    ):
        self.network = network.to(device).eval().requires_grad_(False)
        self.config = config
        self.tokenizer = tokenizer
        self.device = torch.device(device)

    @staticmethod
    @abstractmethod
    def build(vocabulary: int, end: int) -> nn.Module:
        """Return the network with random weights: `network(images, ids)` gives one rating each."""

    @classmethod
    def load(
        cls, folder: Path, tokenizer: Any, device: str | torch.device = "cpu"
    ) -> "LearnedScorer":
        """Read a scorer from its folder.

        Raises:
            MissingInput: the folder lacks a file.
            DamagedFile: a file does not hold this scorer.
        """
        for path in (folder / CONFIG, folder / WEIGHTS):
            if not path.is_file():
                raise MissingInput(f"scorer {cls.name}: {path} is missing")
        try:
            config = ScorerConfig.model_validate_json((folder / CONFIG).read_text(encoding="utf-8"))
            network = cls.build(config.vocabulary, config.end)
            network.load_state_dict(_unpacked(load_file(folder / WEIGHTS)))
        except (ValidationError, SafetensorError, RuntimeError, KeyError) as error:
            raise DamagedFile(f"scorer {cls.name}: {folder} cannot be read: {error}") from error
        if config.name != cls.name or config.vocabulary != len(tokenizer):
            raise DamagedFile(
                f"scorer {cls.name}: {folder} holds {config.name} for {config.vocabulary} tokens, "
                f"expected {len(tokenizer)}"
            )
        return cls(network, config, tokenizer, device)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return one score per image: (n,), float32, on the CPU.

        Args:
            images: (n, 3, height, width), float, in [0, 1].
            prompts: one per image.
        """
        if images.ndim != 4 or images.shape[1] != 3 or len(images) != len(prompts):
            raise InputError(
                f"scorer {self.name}: images {tuple(images.shape)} for {len(prompts)} prompts, "
                "expected (prompts, 3, height, width)"
            )
        ids = token_ids(self.tokenizer, prompts)
        with torch.no_grad():
            parts = [
                self.network(prepared(part.to(self.device, torch.float32)), own.to(self.device))
                for part, own in zip(
                    torch.split(images, CHUNK), torch.split(ids, CHUNK), strict=True
                )
            ]
            ratings = torch.cat(parts).float().cpu() if len(images) else torch.zeros(0)
        return self.config.offset + self.config.scale * ratings


def _unpacked(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in float32 that a file holds as bytes with a scale a row, or in float16."""
    weights: dict[str, Tensor] = {}
    for name, value in packed.items():
        if name.endswith(SCALE):
            continue
        weights[name] = value.float()
        if value.dtype == torch.int8:
            scale = packed[name + SCALE].float()
            weights[name] *= scale.view(-1, *[1] * (value.ndim - 1))
    return weights


def token_ids(tokenizer: Any, prompts: Sequence[str]) -> Tensor:
    """Return the token ids of prompts: (prompts, 32). Equal prompts are read once."""
    unique = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
    if not unique:
        return torch.zeros(0, TEXT_TOKENS, dtype=torch.long)
    read = tokenizer(
        list(unique),
        padding="max_length",
        truncation=True,
        max_length=TEXT_TOKENS,
        return_tensors="pt",
    )
    ids: Tensor = read.input_ids[[unique[prompt] for prompt in prompts]]
    return ids
