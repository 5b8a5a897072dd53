"""Does the planner know too little of the graph in force, so that it is trained again?"""

from pathlib import Path

from diffgraph.errors import MissingInput, SnapshotError
from diffgraph.families import get_family
from diffgraph.graph.snapshot import GraphSnapshot, open_snapshot
from diffgraph.homes import SEEN, family_folder, read_pointer
from diffgraph.planner.planner import Planner
from diffgraph.session.hubs import Hub
from diffgraph.session.planners import champion_folder

DUE_AFTER = 0.1
"""The share of a graph's experts that are news to the planner before it is trained again."""


def is_training_due(
    home: Path, family: str, snapshot_id: str, hub: Hub, is_first: bool
) -> tuple[bool, str]:
    """Return whether training is due, and the reason in words.

    News are counted since the last training, not since the last night: what a night brought that
    was killed, or was too little, is not forgotten.

    Args:
        home: where graphs and planners are.
        family: whose.
        snapshot_id: the graph.
        hub: where its experts come from.
        is_first: whether the home had no graph before.
    """
    place = family_folder(home, family)
    graph = open_snapshot(place, snapshot_id)
    if not graph.refs:
        return False, "training is not due: no expert can be merged"
    try:
        planner = Planner.load(champion_folder(home, family))
    except MissingInput:
        return True, "training is due: there is no planner yet"
    if planner.config.snapshot == snapshot_id:
        return False, "training is not due: the planner was trained on this very graph"
    if is_first and hub == Hub(path=get_family(family).hub):
        return False, "training is not due: the planner that ships was made for this hub"
    news = graph.difference(_graph_seen(place) or _graph(place, planner.config.snapshot))
    share = (len(news.new) + len(news.updated) + len(news.retired)) / len(graph.refs)
    is_due = share >= DUE_AFTER
    told = f"training is {'' if is_due else 'not '}due"
    return is_due, f"{told}: {100 * share:.0f} % of the experts changed"


def _graph_seen(place: Path) -> GraphSnapshot | None:
    """Return the graph that training was last tried on, whether its planner won or not."""
    try:
        seen = read_pointer(place / SEEN)
    except MissingInput:
        return None
    return _graph(place, seen) if seen else None


def _graph(place: Path, snapshot_id: str) -> GraphSnapshot | None:
    """Return a graph of the family; none if it is not there, or is damaged."""
    try:
        return open_snapshot(place, snapshot_id)
    except SnapshotError:
        return None
