"""Comparing methods, and writing the report that shows it."""

from diffgraph.session import comparison
from tasks.policies import LOCAL, task

compare = task(**LOCAL)(comparison.compare)
