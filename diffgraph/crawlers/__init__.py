"""Hubs: reading their pages, fetching and judging what they offer."""
