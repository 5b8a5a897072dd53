"""Building a graph: experts are registered in parts, measured in shards, and written down."""

from diffgraph.session import building, in_place, registering
from tasks.policies import LOCAL, NETWORK, named, task

PAGES_A_TASK = {"offline": 500, "claude": 5_000}
"""A task costs a fifth of a second, whatever it does; a batch of a language model up to an hour."""

register = task(**NETWORK, task_run_name=named(lambda given: f"register {given['part']}"))(
    building.register
)
read_files_in_place = task(**LOCAL)(in_place.read_files_in_place)
register_library = task(**LOCAL)(registering.register_library)
choose_reference_prompts = task(**LOCAL)(building.choose_reference_prompts)
calibrate_shard = task(
    **LOCAL, task_run_name=named(lambda given: f"calibrate {given['shard'].id}")
)(building.calibrate_shard)
write = task(**LOCAL)(building.write)
