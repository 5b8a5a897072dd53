"""What does a scorer see in one step of its training?

Groups of images of one prompt with their closeness to the truth: a group's own, drawn afresh and
moved by a pixel or two, images of other prompts (wrong subject, wrong treatment) and freshly
degraded ones, whose closeness is worked out on the spot.
"""

import zlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffgraph.recipe.degrading import degraded
from diffgraph.recipe.scorer_data import KINDS, ScorerData
from diffgraph.recipe.scorer_plans import DRAWN
from diffgraph.recipe.truth import Truths, as_float, closeness, closeness_to
from diffgraph.scoring.learned import token_ids
from diffgraph.scoring.networks import TEXT_TOKENS

SHIFT = 2  # pixels an image may be moved by; its closeness stays what it was
SEEN_SHARE = 0.8  # of the prompts, another part for every scorer
SAME_SET, ANY = 1, 1  # strangers a group: of the same treatments, of any prompt
SPOILT = 3  # freshly degraded images a group


@dataclass(frozen=True)
class ScorerTraining:
    """How the scorers learn; small numbers make a rehearsal."""

    groups: int = 96
    drawn: int = 8  # images of a group's own, a step
    learning_rate: float = 2e-3
    steps: int | None = None  # instead of seconds
    seed: int = 7


@dataclass(frozen=True)
class Lesson:
    """One step's groups, `g` prompts with `m` images each."""

    images: Tensor  # (g, m, 3, 64, 64), float in [-1, 1]
    ids: Tensor  # (g, tokens)
    closeness: Tensor  # (g, m)
    cleanness: Tensor  # (g, m)
    spread: float  # standard deviation of closeness in the data
    mean: float

    def rate(self, network: nn.Module) -> Tensor:
        """Return the network's ratings of every image for its group's prompt: (g, m)."""
        groups, members = self.images.shape[:2]
        ids = self.ids.unsqueeze(1).expand(-1, members, -1).flatten(0, 1)
        rated: Tensor = network(self.images.flatten(0, 1), ids).float()
        return rated.view(groups, members)


class Teacher:
    """Draws lessons from the data, all of it on the device."""

    def __init__(self, data: ScorerData, tokenizer: Any, name: str, config: ScorerTraining):
        self.data, self.config = data, config
        device = data.images.device
        flat = [wording for own in data.prompts for wording in own]
        self.ids = token_ids(tokenizer, flat).to(device).view(len(data), -1, TEXT_TOKENS)
        chooser = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        seen = torch.randperm(len(data), generator=chooser)[: max(1, round(SEEN_SHARE * len(data)))]
        self.seen = seen.to(device)
        self.spread = float(data.closeness[:, : len(DRAWN)].std())
        self.mean = float(data.closeness[:, : len(DRAWN)].mean())
        self.clean = (
            float(data.cleanness[:, : len(DRAWN)].mean()),
            float(data.cleanness[:, : len(DRAWN)].std()),
        )

    def lesson(self, generator: torch.Generator) -> Lesson:
        """Return a fresh lesson; no branch and no size depends on what is drawn."""
        data, config, device = self.data, self.config, self.data.images.device
        groups = config.groups

        def integers(high: int, *size: int) -> Tensor:
            return torch.randint(high, size, generator=generator, device=device)

        prompt = self.seen[integers(len(self.seen), groups)]
        kind = (
            torch.rand(groups, len(KINDS), generator=generator, device=device)
            .topk(config.drawn)
            .indices
        )
        own = prompt.unsqueeze(1)
        images = [data.images[own, kind]]
        close, clean = [data.closeness[own, kind]], [data.cleanness[own, kind]]

        first = prompt - prompt % data.together
        neighbour = (
            first
            + (prompt - first + 1 + integers(max(1, data.together - 1), groups)) % data.together
        )
        neighbour = neighbour.clamp(max=len(data) - 1)
        strangers = torch.stack(
            [neighbour] * SAME_SET + [self.seen[integers(len(self.seen), groups)]] * ANY, 1
        )
        which = integers(len(KINDS), *strangers.shape)
        truths = data.truths.take(prompt)
        foreign = data.images[strangers, which]
        images.append(foreign)
        clean.append(data.cleanness[strangers, which])
        close.append(_closeness_of_all(foreign, truths))

        source = kind[:, :SPOILT]
        before = data.images[own, source]
        after = degraded(before.flatten(0, 1), generator).view_as(before)
        images.append(after)
        close.append(_closeness_of_all(after, truths))
        lost = 1 - closeness(after.flatten(0, 1), before.flatten(0, 1)).view(source.shape)
        clean.append(data.cleanness[own, source] - lost)

        wording = integers(self.ids.shape[1], groups)
        together = as_float(torch.cat(images, 1)) * 2 - 1
        return Lesson(
            moved(together.flatten(0, 1), generator).view_as(together),
            self.ids[prompt, wording],
            torch.cat(close, 1),
            torch.cat(clean, 1),
            self.spread,
            self.mean,
        )


def moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images (n, 3, h, w) moved by up to `SHIFT` pixels each way, edges repeated."""
    count, _, height, width = images.shape

    def indices(length: int) -> Tensor:
        shift = torch.randint(
            -SHIFT, SHIFT + 1, (count, 1), generator=generator, device=images.device
        )
        return (torch.arange(length, device=images.device) + shift).clamp(0, length - 1)

    rows, columns = indices(height), indices(width)
    which = torch.arange(count, device=images.device)
    channels_last = images.permute(0, 2, 3, 1)[
        which[:, None, None], rows[:, :, None], columns[:, None, :]
    ]
    return channels_last.permute(0, 3, 1, 2)


def _closeness_of_all(images: Tensor, truths: Truths) -> Tensor:
    """Return the closeness of (g, m) images to their group's truth."""
    return torch.stack(
        [closeness_to(images[:, place], truths) for place in range(images.shape[1])], 1
    )
