"""How does docs/emoji64.md come about? From the proofs, the training records and the files."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffgraph.artifacts import write_bytes, write_text
from diffgraph.families.emoji64 import ASSETS, STAND_INS
from diffgraph.scoring import SCORE_NAMES
from recipes.emoji64.proofs import read_proofs
from recipes.emoji64.verdict import verdicts

PICTURES = "emoji64"  # the folder of the document's images, beside it
QUALITY = 15  # of WebP, 0 to 100: sheets of dozens of images stay readable

INTRODUCTION = """# emoji64

emoji64 is a small but genuine Stable Diffusion family that ships with diffgraph: a CLIP text
encoder, a UNet with cross-attention and a KL autoencoder from diffusers' own classes, 64x64 pixels,
with a community of experts, five scorers and four prompt sets. It was trained on openly licensed
emoji art (NOTICE names it; the art itself does not ship) by `make emoji64`, which makes all of it
again on one GPU. Every figure on this page, the verdicts included, comes from
`python -m recipes.emoji64 prove`; none is typed by hand.

What makes it useful for research on merging: the true picture of every composed prompt is known,
since treatments are functions that can be applied to the art. So scorers, experts and planners can
be judged against the truth and not only against each other.
"""

TRUTH = """## Closeness to the truth

A prompt's truth is its subject's art in the style asked for (any of the five if none is), with the
treatments asked for applied. Closeness is 1 minus a weighted sum of root mean square distances: of
colours at 64, 32, 16 and 8 pixels a side (0.18 each), of texture in cells of 8x8 pixels (0.2) and
of colour means and spreads (0.08). 1 is identical. Nothing about it is fitted
(`recipes/emoji64/truth.py`).
"""


def write_document(proofs: Path, docs: Path, assets: Path = ASSETS) -> Path:
    """Write `emoji64.md` and its images into the documentation's folder.

    Args:
        proofs: the folder that `prove` wrote.
        docs: the documentation.
        assets: what ships: its sizes and training records are told too.
    """
    found = read_proofs(proofs)
    sections = [INTRODUCTION, _verdicts(found), _contents(assets)]
    if "sheets" in found:
        sections.append(_sheets(found["sheets"]))
    if "specialisation" in found:
        sections.append(_specialisation(found["specialisation"]))
    sections.append(TRUTH)
    if "scorers" in found:
        sections.append(_scorers(found["scorers"], assets))
    if "headroom" in found:
        sections.append(_headroom(found["headroom"]))
    for proof in found.values():
        for image in proof.get("images", ()):
            write_bytes(docs / PICTURES / _name(image), _small(proofs / image))
    document = docs / "emoji64.md"
    write_text(document, "\n".join(sections))
    return document


def _contents(assets: Path) -> str:
    """Return what ships and how big it is."""
    lines = ["## What ships", ""]
    rows = [
        (part.name, len(files), f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB")
        for part in sorted(assets.iterdir())
        if part.is_dir() and (files := [file for file in part.rglob("*") if file.is_file()])
    ]
    lines.append(_table(("folder", "files", "size"), rows))
    record = assets / "training.json"
    if record.is_file():
        records = json.loads(record.read_text(encoding="utf-8"))
        made = records["base"]
        parts = [
            f"{part}: {own['steps']} steps in {own['train_seconds']:.0f} s"
            for part, own in made.items()
            if isinstance(own, dict) and "steps" in own
        ]
        lines.append(
            f"\nThe base learnt from {made.get('pictures', '?')} pictures; {'; '.join(parts)}."
        )
        lines += _joint(records.get("experts", {}))
    return "\n".join(lines) + "\n"


def _joint(experts: Mapping[str, Any]) -> list[str]:
    """Return how the good adapters learnt together, if they did."""
    told = [own["together"] for own in experts.values() if "together" in own]
    if not told:
        return []
    rounds = ", then ".join(
        f"{own['steps']} steps in {own['train_seconds']:.0f} s" for own in told[0]["rounds"]
    )
    learners = _count(len(told), "good adapter")
    return [
        f"{learners} learnt alone, then together: {rounds}. At every step one to three of them, at "
        "times with a checkpoint under them, were merged into the base and learnt from pictures of "
        "all that they stand for; pairs that the bench asks for never met "
        "([why](decisions/0008-adapters-learn-together.md))."
    ]


def _reached(aims: int, missed: int) -> str:
    if missed:
        return f"{_count(missed, 'aim')} of {aims} not reached."
    return f"All {aims} aims are reached."


def _verdicts(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what is reached and what is not, as the proofs found it."""
    rows = [
        (verdict.aim, verdict.found, "yes" if verdict.reached else "**no**")
        for verdict in verdicts(found)
    ]
    if not rows:
        return ""
    missed = sum(reached != "yes" for *_, reached in rows)
    return "\n".join(
        [
            "## What is reached, and what is not",
            "",
            _table(("aim", "found", "reached"), rows),
            "",
            f"{_reached(len(rows), missed)} Figures in reward are standard deviations.",
            "",
        ]
    )


def _sheets(found: Mapping[str, Any]) -> str:
    return "\n".join(
        [
            "## 1. What they draw",
            "",
            f"{found['base_samples']} images by the base, 12 steps, guidance 4 (mean closeness to "
            "the truth "
            f"{found['base_closeness']:.3f}):",
            "",
            _image("base.png", "images drawn by the base"),
            "",
            f"The same four seeds with each of the {len(found['experts'])} experts at its "
            "recommended strength, "
            "on prompts that ask for what it is for:",
            "",
            _image("experts.png", "images drawn by every expert"),
            "",
        ]
    )


def _specialisation(found: Mapping[str, Any]) -> str:
    own = found["own_gain_of_expert"]
    quality = found["quality_of_expert"]
    odd = [(slug, quality[slug], f"{own[slug]:+.2f}") for slug in own if quality[slug] != "good"]
    lines = [
        "## 2. Every expert on every skill",
        "",
        "Mean gain of the reward over the base, in standard deviations, on "
        f"{found['prompts_a_skill']} prompts a "
        "skill with the base's own seeds. Red is a gain.",
        "",
        _image("specialisation.png", "experts by skills"),
        "",
        _table(
            ("good experts", "value"),
            [
                ("mean gain on their own skill", f"{found['own_skill_gain']:+.3f}"),
                ("mean gain on the others'", f"{found['other_skills_gain']:+.3f}"),
                ("are best at a skill of their own", _percent(found["experts_best_at_their_own"])),
                (
                    "skills led by an expert of theirs",
                    _percent(found["skills_led_by_an_expert_of_theirs"]),
                ),
            ],
        ),
        "",
        "The community is not all good, as real ones are not. What calibration shows of the rest, "
        "on the skill "
        "they learnt:",
        "",
        _table(("expert", "made to be", "gain"), odd),
        "",
    ]
    return "\n".join(lines)


def _scorers(found: Mapping[str, Any], assets: Path) -> str:
    rows = []
    for name in SCORE_NAMES:
        own = found["scorers"][name]
        rows.append(
            (
                f"`{name}`",
                STAND_INS[name],
                _parameters(assets, name),
                f"{own['within_prompt']:.2f}",
                f"{own['pooled']:.2f}",
                f"{own['peak_strength']:g}",
            )
        )
    reward = found["reward"]
    rows.append(
        (
            "reward",
            "mean of z-scores",
            "",
            f"{reward['within_prompt']:.2f}",
            f"{reward['pooled']:.2f}",
            "",
        )
    )
    kinds = list(found["scorers"][SCORE_NAMES[0]]["preferences"])
    preferences = [
        (f"`{name}`", *(_preference(found["scorers"][name]["preferences"][kind]) for kind in kinds))
        for name in SCORE_NAMES
    ]
    aesthetic = found["scorers"]["aesthetic_score"]["pooled_with_cleanness"]
    return "\n".join(
        [
            "## 3. The scorers",
            "",
            "Five small networks trained on groups of images of one prompt, ranked by closeness: "
            "merges at right, wrong, "
            "partial and excessive strengths, wrong subjects, degraded images and true "
            "compositions. Networks, losses, "
            f"seeds and the prompts seen differ. Tested on {found['prompts']} prompts with pairs "
            "of treatments that "
            "no scorer was trained on, images drawn afresh; rank correlations with closeness "
            "within a prompt's "
            f"{len(found['strengths'])} strengths and other merges, and over all images.",
            "",
            _table(
                (
                    "scorer",
                    "stands for",
                    "parameters",
                    "within prompt",
                    "over all",
                    "peak strength",
                ),
                rows,
            ),
            "",
            f"Closeness itself peaks at strength {found['closeness_peak_strength']:g}. "
            "`aesthetic_score` never sees the "
            "prompt: its measure is closeness to the nearest composition that anybody could have "
            "meant, with "
            f"which its rank correlation over all images is {aesthetic:.2f}.",
            "",
            "How often the image of the right merge is preferred; in brackets, of the pairs in "
            "which it is nearer to "
            "the truth by more than 0.02:",
            "",
            _table(("scorer", *kinds), preferences),
            "",
            _image("strength.png", "mean scores by strength"),
            "",
            "One prompt a row, one kind of merge a column:",
            "",
            _image("groups.png", "groups of images"),
            "",
        ]
    )


def _headroom(found: Mapping[str, Any]) -> str:
    rewards, close = found["reward"], found["closeness"]
    steps = [
        (
            name,
            f"{own['gain']:+.3f}",
            f"{own['low']:+.3f} to {own['high']:+.3f}",
            "yes" if own["significant"] else "no",
            f"{own['closeness_gain']:+.4f}",
        )
        for name, own in found["steps"].items()
    ]
    return "\n".join(
        [
            "## 4. What a planner can earn",
            "",
            f"On {found['prompts']} bench prompts. *best single*: the right expert that served the "
            "prompt best alone. "
            "*equal shares*: 1/n of each kind. *uniform*: all right experts at their recommended "
            "strengths. *oracle*: "
            f"the best of {found['plans']} random plans over the right experts. Whatever had to be "
            "chosen was "
            f"chosen on {_count(found['seeds'], 'seed')} and judged on "
            f"{_count(found['judged'], 'other')}.",
            "",
            _table(
                ("method", "reward", "closeness"),
                [(name, f"{rewards[name]:+.3f}", f"{close[name]:.4f}") for name in rewards],
            ),
            "",
            _table(("step", "gain", "95 % interval", "significant", "gain of closeness"), steps),
            "",
            "From left to right: base, best single, equal shares, uniform, oracle.",
            "",
            _image("headroom.png", "bench prompts by method"),
            "",
        ]
    )


def _parameters(assets: Path, name: str) -> str:
    config = assets / "scorers" / name / "config.json"
    if not config.is_file():
        return ""
    return f"{json.loads(config.read_text(encoding='utf-8'))['training']['parameters'] / 1e6:.2f} M"


def _preference(own: Mapping[str, float]) -> str:
    return f"{_percent(own['all'])} ({_percent(own['decided'])})"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _image(name: str, description: str) -> str:
    return f"![{description}]({PICTURES}/{_name(name)})"


def _name(image: str) -> str:
    return Path(image).with_suffix(".webp").name


def _small(path: Path) -> bytes:
    """Return a picture as WebP, with or without loss, whichever is smaller."""
    from PIL import Image

    forms: list[dict[str, Any]] = [{"quality": QUALITY}, {"lossless": True}]
    made = []
    with Image.open(path) as image:
        for form in forms:
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "WEBP", method=6, **form)
            made.append(buffer.getvalue())
    return min(made, key=len)


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join(lines)
