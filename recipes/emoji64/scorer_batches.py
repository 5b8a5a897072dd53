"""What does a scorer see in one step of its training?

Groups of images of one prompt with their closeness to the truth, all moved by a pixel or two. Drawn
groups hold images that the base and the experts drew for the prompt, images drawn for others by the
same merge (another subject, the rest as it should be) and freshly degraded ones. Composed groups
come from the bank: the truth, another style, other treatments, other subjects, degraded ones.
Closeness is worked out on the spot where it is not known.
"""

import zlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from diffgraph.families.emoji64.scorers.learned import token_ids
from diffgraph.families.emoji64.scorers.networks import TEXT_TOKENS
from recipes.emoji64.degrading import degraded
from recipes.emoji64.scorer_bank import Bank, BankConfig
from recipes.emoji64.scorer_data import KINDS, ScorerData
from recipes.emoji64.scorer_plans import DRAWN
from recipes.emoji64.truth import as_float, closeness, closeness_among

SHIFT = 2  # pixels an image may be moved by; its closeness stays what it was
SEEN_SHARE = 0.8  # of the prompts, another part for every scorer
SAME_SET, ANY = 3, 1  # mismatched images a group: of the same treatments, of any prompt
TWINS = 3  # of a composed group: the same subject with other treatments
STYLED_SHARE = 0.6  # of composed groups name a style
SPOILT = 3  # freshly degraded images a group
WHOLE = tuple(KINDS.index(kind) for kind in ("right 0.75", "right 1.0", "right 1.25", "truth"))
PART = tuple(KINDS.index(kind) for kind in ("one right", "another right", "lacking"))
"""All that was asked for, and a part of it only: the step from a good image to the right one."""


@dataclass(frozen=True)
class ScorerTraining:
    """How the scorers learn; small numbers make a rehearsal."""

    groups: int = 64  # drawn ones, a step
    composed: int = 48  # groups of the bank, a step
    drawn: int = 8  # images of a drawn group's own, a step; at least `SAME_SET` + 2
    bank: BankConfig = field(default_factory=BankConfig)
    learning_rate: float = 2e-3
    steps: int | None = None  # instead of seconds
    seed: int = 7


@dataclass(frozen=True)
class ScorerBatch:
    """One step's groups, `g` prompts with `m` images each."""

    images: Tensor  # (g, m, 3, 64, 64), float in [-1, 1]
    ids: Tensor  # (g, tokens)
    closeness: Tensor  # (g, m)
    cleanness: Tensor  # (g, m)
    matched: Tensor  # (g, k, 2): pairs of members of which only one thing differs
    spread: float  # standard deviation of closeness in the data
    mean: float

    def pairs(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values (g, m) of the two images of every matched pair: (g, k) each."""
        first, second = self.matched.unbind(2)
        return values.gather(1, first), values.gather(1, second)

    def rate(self, network: nn.Module) -> Tensor:
        """Return the network's ratings of every image for its group's prompt: (g, m)."""
        groups, members = self.images.shape[:2]
        ids = self.ids.unsqueeze(1).expand(-1, members, -1).flatten(0, 1)
        rated: Tensor = network(self.images.flatten(0, 1), ids).float()
        return rated.view(groups, members)


@dataclass(frozen=True)
class _Groups:
    """Some of a batch's groups."""

    images: Tensor  # (g, m, 3, 64, 64), uint8
    ids: Tensor
    closeness: Tensor
    cleanness: Tensor


class BatchSource:
    """Draws batches from the data and the bank, all of it on the device."""

    def __init__(
        self, data: ScorerData, bank: Bank, tokenizer: Any, name: str, config: ScorerTraining
    ):
        self.data, self.bank, self.config = data, bank, config
        device = data.images.device
        flat = [wording for own in data.prompts for wording in own]
        self.ids = token_ids(tokenizer, flat).to(device).view(len(data), -1, TEXT_TOKENS)
        chooser = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        self.seen = _share(len(data), chooser).to(device)
        self.sets = _share(len(bank.images), chooser).to(device)
        self.spread = float(data.closeness[:, : len(DRAWN)].std())
        self.mean = float(data.closeness[:, : len(DRAWN)].mean())
        self.clean = (
            float(data.cleanness[:, : len(DRAWN)].mean()),
            float(data.cleanness[:, : len(DRAWN)].std()),
        )

        self.whole, self.part = (torch.tensor(own, device=device) for own in (WHOLE, PART))
        self.matched = self._matched().to(device)

    def _matched(self) -> Tensor:
        """Return the pairs of which one has another subject, is spoilt, or lacks a part."""
        last = range(self.members - SPOILT, self.members)
        drawn = [(place, self.config.drawn + place) for place in range(SAME_SET)]
        drawn += [(place, spoilt) for place, spoilt in enumerate(last)]
        drawn += [(self.config.drawn - 2, self.config.drawn - 1)]
        mismatched = range(2, 2 + SAME_SET)
        twin = self.members - SPOILT - ANY - TWINS
        composed = [(0, other) for other in (*mismatched, *last, twin)]
        groups = [drawn] * self.config.groups + [composed] * self.config.composed
        return torch.tensor(groups)

    @property
    def members(self) -> int:
        """Images a group."""
        return self.config.drawn + SAME_SET + ANY + SPOILT

    def batch(self, generator: torch.Generator) -> ScorerBatch:
        """Return a fresh batch; no branch and no size depends on what is drawn."""
        parts = [self._drawn(generator), self._composed(generator)]
        together = as_float(torch.cat([part.images for part in parts])) * 2 - 1
        return ScorerBatch(
            moved(together.flatten(0, 1), generator).view_as(together),
            torch.cat([part.ids for part in parts]),
            torch.cat([part.closeness for part in parts]),
            torch.cat([part.cleanness for part in parts]),
            self.matched,
            self.spread,
            self.mean,
        )

    def _drawn(self, generator: torch.Generator) -> _Groups:
        data, config, groups = self.data, self.config, self.config.groups
        draw = _Draw(generator)
        prompt = self.seen[draw.below(len(self.seen), groups)]
        kind = draw.share(groups, len(KINDS)).topk(config.drawn - 2).indices
        whole, part = (own[draw.below(len(own), groups, 1)] for own in (self.whole, self.part))
        kind = torch.cat([kind, whole, part], 1)
        own = prompt.unsqueeze(1)
        images = [data.images[own, kind]]
        close, clean = [data.closeness[own, kind]], [data.cleanness[own, kind]]

        truths = data.truths.take(prompt)
        first = (prompt - prompt % data.together).unsqueeze(1)
        further = draw.below(max(1, data.together - 1), groups, SAME_SET)
        neighbours = first + (own - first + 1 + further) % data.together
        anyone = self.seen[draw.below(len(self.seen), groups, ANY)]
        mismatched = torch.cat([neighbours.clamp(max=len(data) - 1), anyone], 1)
        # the same merge for another subject: nothing but the subject tells the two apart
        which = torch.cat([kind[:, :SAME_SET], draw.below(len(KINDS), groups, ANY)], 1)
        foreign = data.images[mismatched, which]
        images.append(foreign)
        clean.append(data.cleanness[mismatched, which])
        close.append(closeness_among(foreign, truths))

        source = kind[:, :SPOILT]
        before = data.images[own, source]
        after, lost = _spoilt(before, generator)
        images.append(after)
        close.append(closeness_among(after, truths))
        clean.append(data.cleanness[own, source] - lost)

        wording = draw.below(self.ids.shape[1], groups)
        return _Groups(
            torch.cat(images, 1),
            self.ids[prompt, wording],
            torch.cat(close, 1),
            torch.cat(clean, 1),
        )

    def _composed(self, generator: torch.Generator) -> _Groups:
        bank, groups = self.bank, self.config.composed
        draw = _Draw(generator)
        chosen = self.sets[draw.below(len(self.sets), groups)].unsqueeze(1)
        subjects, styles = bank.drawn.shape[1:]
        subject = draw.below(subjects, groups, 1)
        exists = bank.drawn[chosen, subject].squeeze(1)
        ranked = (draw.share(groups, styles) + exists).topk(2).indices
        style, another = ranked[:, :1], ranked[:, 1:]
        is_named = draw.share(groups) < STYLED_SHARE
        wording = torch.where(is_named, 1 + style.squeeze(1), 0)

        mismatched = self.members - 2 - TWINS - ANY - SPOILT
        others = (subject + 1 + draw.below(max(1, subjects - 1), groups, mismatched)) % subjects
        alike = draw.share(groups, mismatched) < STYLED_SHARE
        other_styles = torch.where(alike, style, draw.below(styles, groups, mismatched))
        first = chosen - chosen % bank.together
        further = draw.below(max(1, bank.together - 1), groups, TWINS)
        twins = first + (chosen - first + 1 + further) % bank.together
        images = torch.cat(
            [
                bank.images[chosen, subject, torch.cat([style, another], 1)],
                bank.images[chosen, others, other_styles],
                bank.images[twins, subject, style],
                bank.images[
                    draw.below(len(bank.images), groups, ANY),
                    draw.below(subjects, groups, ANY),
                    draw.below(styles, groups, ANY),
                ],
            ],
            1,
        )
        after, lost = _spoilt(images[:, :1].expand(-1, SPOILT, -1, -1, -1), generator)
        clean = torch.cat([torch.ones(images.shape[:2], device=lost.device), 1 - lost], 1)
        images = torch.cat([images, after], 1)
        where = chosen.squeeze(1), subject.squeeze(1), wording
        close = closeness_among(images, bank.truths(*where))
        return _Groups(images, bank.ids[where], close, clean)


class _Draw:
    """Draws numbers on a generator's device."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator

    def below(self, high: int, *size: int) -> Tensor:
        """Return whole numbers from 0 to `high` - 1."""
        device = self.generator.device
        return torch.randint(high, size, generator=self.generator, device=device)

    def share(self, *size: int) -> Tensor:
        """Return numbers from 0 to 1."""
        return torch.rand(size, generator=self.generator, device=self.generator.device)


def _share(count: int, chooser: torch.Generator) -> Tensor:
    """Return the part of so many things that one scorer sees."""
    return torch.randperm(count, generator=chooser)[: max(1, round(SEEN_SHARE * count))]


def _spoilt(before: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return images (g, m, 3, 64, 64) degraded, and what each lost of its closeness to itself."""
    flat = before.flatten(0, 1)
    after = degraded(flat, generator)
    return after.view_as(before), 1 - closeness(after, flat).view(before.shape[:2])


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
