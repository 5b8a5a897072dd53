"""What rates emoji64's images? Five small networks, each in the place of a published score."""

from collections.abc import Mapping

from diffgraph.families.emoji64.scorers.aesthetic_score import AestheticScore
from diffgraph.families.emoji64.scorers.clip_score import ClipScore
from diffgraph.families.emoji64.scorers.hps import HumanPreferenceScore
from diffgraph.families.emoji64.scorers.image_reward import ImageReward
from diffgraph.families.emoji64.scorers.learned import LearnedScorer
from diffgraph.families.emoji64.scorers.pick_score import PickScore

__all__ = ["SCORERS", "LearnedScorer"]

SCORERS: Mapping[str, type[LearnedScorer]] = {
    scorer.name: scorer
    for scorer in (ClipScore, ImageReward, AestheticScore, PickScore, HumanPreferenceScore)
}
"""By name; the family says what each stands for."""
