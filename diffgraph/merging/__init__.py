"""How do deltas become weights?"""
