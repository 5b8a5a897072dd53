"""Which prompts is emoji64 calibrated on, trained on and judged by?

Four disjoint sets, composed from things people ask for, so that the truth of each prompt is known.
Three tenths of the pairs of treatments are held out: `bench` asks for them alone, `reference` and
`train` never do. `freeform` holds sentences as people type them. `train`
is a Parquet file, a tenth as large as its lines would be.
"""

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa

from diffgraph.errors import MissingInput
from diffgraph.families.emoji64 import ASSETS
from diffgraph.tables import write_table
from recipes.emoji64 import captions
from recipes.emoji64.art import STYLES, Art, Subject, load_art
from recipes.emoji64.community import COMMUNITY, experts_for
from recipes.emoji64.freeform import FREEFORM, SUBJECTS
from recipes.emoji64.treatments import TREATMENTS, compatible_sets, ordered

log = logging.getLogger(__name__)

SEED = 20250630
HELD_OUT_SHARE = 0.3
STYLE_SHARES = {"3d": 0.15, "flat": 0.15, "noto": 0.05, "twemoji": 0.05, "high contrast": 0.05}
ATTEMPTS = 400
Row = dict[str, str | list[str] | None]
Pair = tuple[str, ...]


@dataclass(frozen=True)
class SetConfig:
    """How many prompts a set holds: `counts[k]` of them have k treatments."""

    name: str
    counts: tuple[int, ...]

    @property
    def is_held_out(self) -> bool:
        """Whether it asks for the pairs that the others never show."""
        return self.name == "bench"


SETS = (
    SetConfig("bench", (0, 30, 98, 22)),
    SetConfig("reference", (120, 180, 100)),
    SetConfig("train", (60, 420, 1500, 420)),
)


def write_prompt_sets(art: Art, folder: Path, seed: int = SEED) -> dict[str, int]:
    """Write the four sets as Parquet; return their sizes.

    Raises:
        MissingInput: a subject that the sets ask for is not in the art.
    """
    sizes = {}
    for name, rows in prompt_sets(art, seed).items():
        write_table(folder / f"{name}.parquet", pa.Table.from_pylist(rows))
        sizes[name] = len(rows)
    return sizes


def prompt_sets(art: Art, seed: int = SEED) -> dict[str, list[Row]]:
    """Return the rows of all four sets, in a fixed order."""
    composer = PromptComposer(art, seed)
    sets = {"freeform": list(composer.freeform())}
    for config in SETS:
        sets[config.name] = composer.compose(config)
    return sets


class PromptComposer:
    """Draws prompts that were not drawn before."""

    def __init__(self, art: Art, seed: int) -> None:
        """Sort out what can be asked for, and which pairs of treatments are held out."""
        self.rng = np.random.default_rng(seed)
        self.by_name = {subject.name: subject for subject in art.subjects}
        self.groups = {group: self._subjects(names) for group, names in SUBJECTS.items()}
        self.drawn = _drawn(art)
        self.held_out = _held_out(self.rng)
        self.used_prompts: set[str] = set()
        self.used_contents: set[tuple[str, str | None, Pair]] = set()

    def compose(self, config: SetConfig) -> list[Row]:
        """Return a set in mixed order, with numbered ids."""
        made = [
            self._new_row(treatments)
            for count, size in enumerate(config.counts)
            for treatments in self._treatments(count, size, config.is_held_out)
        ]
        order = self.rng.permutation(len(made))
        return [
            {"id": f"{config.name}-{number:03d}", **made[place]}
            for number, place in enumerate(order, 1)
        ]

    def freeform(self) -> Iterator[Row]:
        """Yield the sentences written by hand, each with its truth where it has one."""
        for number, (prompt, name, style, treatments) in enumerate(FREEFORM, 1):
            subject = None if name is None else self._subject(name)
            chosen = tuple(treatment.name for treatment in ordered(treatments))
            self.used_prompts.add(_key(prompt))
            if subject is not None:
                self.used_contents.add((subject.name, style, chosen))
            yield {"id": f"freeform-{number:03d}", **_row(prompt, subject, style, chosen)}

    def _treatments(self, count: int, size: int, held_out: bool) -> Iterator[Pair]:
        """Yield sets of treatments, going round them all before any comes again."""
        allowed = [
            names
            for names in compatible_sets(count)
            if count < 2 or self._is_held_out(names) == held_out
        ]
        rarity = dict.fromkeys(TREATMENTS, 0)
        for _ in range(size):
            order = self.rng.permutation(len(allowed))[:64]
            names = min((allowed[place] for place in order), key=lambda key: _use(key, rarity))
            for name in names:
                rarity[name] += 1
            yield names

    def _is_held_out(self, names: Pair) -> bool:
        return any(pair in self.held_out for pair in combinations(names, 2))

    def _new_row(self, treatments: Pair) -> Row:
        for _ in range(ATTEMPTS):
            subject, style = self._subject_at_random(), self._style_at_random()
            if style is not None and (subject.id, style) not in self.drawn:
                continue
            prompt = captions.caption(subject, style, treatments, self.rng, tags=False)
            content = (subject.name, style, treatments)
            if _key(prompt) not in self.used_prompts and content not in self.used_contents:
                self.used_prompts.add(_key(prompt))
                self.used_contents.add(content)
                return _row(prompt, subject, style, treatments)
        raise MissingInput(
            f"no new prompt with {', '.join(treatments) or 'no treatment'} was found"
        )

    def _subject_at_random(self) -> Subject:
        names = list(self.groups)
        group = self.groups[names[self.rng.integers(len(names))]]
        return group[self.rng.integers(len(group))]

    def _style_at_random(self) -> str | None:
        left = self.rng.random()
        for style, share in STYLE_SHARES.items():
            left -= share
            if left < 0:
                return style
        return None

    def _subjects(self, names: str) -> list[Subject]:
        return [self._subject(name.strip()) for name in names.split(",")]

    def _subject(self, name: str) -> Subject:
        if name not in self.by_name:
            raise MissingInput(f"the art has no subject {name!r}, but the prompt sets ask for it")
        return self.by_name[name]


def _held_out(rng: np.random.Generator) -> frozenset[Pair]:
    """Return the pairs kept for the bench: a share of all, and of each treatment's at least two."""
    pairs = compatible_sets(2)
    mixed = [pairs[place] for place in rng.permutation(len(pairs))]
    held: list[Pair] = []
    for name in TREATMENTS:
        missing = 2 - sum(name in pair for pair in held)
        own = [pair for pair in mixed if name in pair and pair not in held]
        held += own[: max(0, missing)]
    rest = [pair for pair in mixed if pair not in held]
    return frozenset(held + rest[: round(HELD_OUT_SHARE * len(pairs)) - len(held)])


def _row(prompt: str, subject: Subject | None, style: str | None, treatments: Pair) -> Row:
    group = "" if subject is None else subject.group
    right = experts_for(treatments, group, style or "")
    return {
        "prompt": prompt,
        "subject": "" if subject is None else subject.name,
        "group": group,
        "style": style,
        "treatments": list(treatments),
        "experts": [recipe.ref for recipe in right],
        "also": [
            recipe.ref
            for recipe in COMMUNITY
            if recipe.quality in ("redundant", "weak")
            and (set(recipe.treatments) & set(treatments) or group in recipe.groups)
        ],
    }


def _use(names: Pair, used: Mapping[str, int]) -> int:
    return sum(used[name] for name in names)


def _key(prompt: str) -> str:
    return " ".join(captions.words(prompt))


def _drawn(art: Art) -> frozenset[tuple[str, str]]:
    pairs: Sequence[tuple[int, int]] = list(
        zip(art.subject.tolist(), art.style.tolist(), strict=True)
    )
    return frozenset((art.subjects[subject].id, STYLES[style]) for subject, style in pairs)


def main() -> None:
    """Write the prompt sets from the packed art."""
    parser = argparse.ArgumentParser(description="Compose emoji64's prompt sets.")
    parser.add_argument("--cache", type=Path, default=Path(".cache/emoji64"))
    parser.add_argument("--folder", type=Path, default=ASSETS / "prompts")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name, size in write_prompt_sets(load_art(given.cache), given.folder).items():
        log.info("%s: %d prompts", name, size)


if __name__ == "__main__":
    main()
