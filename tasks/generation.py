"""Drawing files of prompts: a task is a shard of rows."""

from diffgraph.session import batches
from tasks.policies import LOCAL, named, task

draw_shard = task(
    **LOCAL, name="draw_shard", task_run_name=named(lambda given: f"draw {given['shard'].id}")
)(batches.draw)
collect = task(**LOCAL)(batches.collect)
