"""Can somebody read a home while a verb writes it, or right after one was killed?"""

import traceback
from pathlib import Path


def troubles(home: Path) -> list[str]:
    """Return what could not be read: all is whole or absent, whenever somebody looks."""
    from diffgraph.experts.library import Library
    from diffgraph.graph.snapshot import open_snapshot
    from diffgraph.homes import family_folder
    from diffgraph.planner.planner import Planner
    from diffgraph.session.planners import champion_folder

    looks = {
        "the snapshot": lambda: open_snapshot(family_folder(home, "emoji64")).scores.num_rows,
        "the library": lambda: len(Library(home).experts()),
        "the planner": lambda: Planner.load(champion_folder(home, "emoji64")),
    }
    told = []
    for name, look in looks.items():
        try:
            look()
        except Exception as error:
            if not _is_absent(name, home):
                last = traceback.extract_tb(error.__traceback__)[-1].name
                told.append(f"a reader of {name} meets {type(error).__name__}: {error} ({last})")
    return told


def _is_absent(name: str, home: Path) -> bool:
    """Return whether no pointer names what was looked for."""
    pointers = {
        "the snapshot": "families/emoji64/current",
        "the planner": "families/emoji64/champion",
    }
    return name in pointers and not (home / pointers[name]).exists()
