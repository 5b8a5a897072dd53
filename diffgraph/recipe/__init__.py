"""How was emoji64 made, and is it any good? `python -m diffgraph.recipe` makes it anew."""
