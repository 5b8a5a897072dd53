"""Making emoji64: a task is a stage of its recipe."""

from recipes.emoji64.workshop import Workshop
from tasks.policies import LOCAL, named, task
from tasks.progress import report


@task(**LOCAL, task_run_name=named(lambda given: given["stage"]))
def run_stage(stage: str, workshop: Workshop) -> float:
    """Run a stage, or find that it was run; return the seconds it took."""
    import time

    from recipes.emoji64 import stages

    started = time.monotonic()
    report(stage, 0, 1)
    stages.run_stage(stage, workshop)
    report(stage, 1, 1)
    return round(time.monotonic() - started, 1)
