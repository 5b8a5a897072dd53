"""Describing experts: the agent reads each page once."""

from pathlib import Path

from prefect import task

from tasks.policies import NETWORK
from tasks.progress import report


@task(**NETWORK, task_run_name="describe {refs}")
def describe(refs: list[str], home: Path, family: str, agent: str) -> int:
    """Have the agent describe experts; those it has described before are not asked for again."""
    from diffgraph.experts.library import Library
    from diffgraph.graph.registration import register
    from tasks.studio import Studio

    library = Library(home)
    reader = Studio(home, family, agent_name=agent).agent
    for done, ref in enumerate(refs, 1):
        register(library.listing(ref), reader, home / "cards")
        report("register", done, len(refs), ref)
    return len(refs)
