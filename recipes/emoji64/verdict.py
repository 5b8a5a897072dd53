"""What was emoji64 to reach, and does it? Every aim with the figure that was found."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from recipes.emoji64.community import recipe_of

CORRELATION = 0.6
"""The least rank correlation of a scorer with closeness to the truth."""
PREFERENCE = 0.9
"""The least share of pairs in which the right image is preferred."""
KINDS = ("wrong subject", "wrong treatment", "degraded")
"""What the right image must be preferred to."""
BLIND = "aesthetic_score"
"""It never sees the prompt, so nothing that depends on one is asked of it."""


class Verdict(NamedTuple):
    """An aim, what was found, and whether it is reached."""

    aim: str
    found: str
    reached: bool


def verdicts(proofs: Mapping[str, Mapping[str, Any]]) -> Iterator[Verdict]:
    """Yield a verdict for each aim of the proofs that were run."""
    if "specialisation" in proofs:
        yield from _of_experts(proofs["specialisation"])
    if "scorers" in proofs:
        yield from _of_scorers(proofs["scorers"])
    if "headroom" in proofs:
        yield from _of_headroom(proofs["headroom"])


def _of_experts(found: Mapping[str, Any]) -> Iterator[Verdict]:
    own, others = found["own_skill_gain"], found["other_skills_gain"]
    yield Verdict(
        "experts gain more on their own skill than on the others'",
        f"{own:+.2f} against {others:+.2f}",
        own > others,
    )
    gains = {
        slug: gain
        for slug, gain in found["own_gain_of_expert"].items()
        if found["quality_of_expert"][slug] == "good"
    }
    for kind, name in (("peft", "adapter"), ("checkpoint", "checkpoint")):
        of_kind = {slug: gain for slug, gain in gains.items() if recipe_of(slug).kind == kind}
        if of_kind:
            lost = [f"`{slug}`" for slug, gain in of_kind.items() if gain <= 0]
            yield Verdict(
                f"every good {name} is better than the base at its own skill",
                f"{len(of_kind) - len(lost)} of {len(of_kind)}"
                + (f"; not {', '.join(lost)}" if lost else ""),
                not lost,
            )


def _of_scorers(found: Mapping[str, Any]) -> Iterator[Verdict]:
    seeing = {name: own for name, own in found["scorers"].items() if name != BLIND}
    within = {name: own["within_prompt"] for name, own in seeing.items()}
    if BLIND in found["scorers"]:
        within[BLIND] = found["scorers"][BLIND]["pooled_with_cleanness"]
    yield Verdict(
        f"each scorer's rank correlation with its truth is at least {CORRELATION}",
        _listed(within, "{:.2f}"),
        min(within.values()) >= CORRELATION,
    )
    shaped = [name for name, own in seeing.items() if own["rises_and_falls"]]
    yield Verdict(
        "scores rise up to the right strength and fall beyond",
        f"{len(shaped)} of {len(seeing)} scorers that see the prompt",
        len(shaped) == len(seeing),
    )
    for kind in KINDS:
        shares = {name: own["preferences"][kind]["decided"] for name, own in seeing.items()}
        yield Verdict(
            f"the right image is preferred to a {kind} one in {PREFERENCE:.0%} of the pairs that "
            "the truth decides",
            _listed(shares, "{:.0%}"),
            min(shares.values()) >= PREFERENCE,
        )


def _of_headroom(found: Mapping[str, Any]) -> Iterator[Verdict]:
    for name, own in found["steps"].items():
        lower, upper = name.split(" -> ")
        yield Verdict(
            f"on the bench, {upper} is significantly better than {lower}",
            f"{own['gain']:+.2f} ({own['low']:+.2f} to {own['high']:+.2f})",
            own["significant"],
        )


def _listed(values: Mapping[str, float], form: str) -> str:
    return ", ".join(f"`{name}` {form.format(value)}" for name, value in values.items())
