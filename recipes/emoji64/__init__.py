"""How was emoji64 made, and is it any good? `python -m recipes.emoji64` makes it anew."""
