"""Which community experts should be merged for a prompt, and how strongly?

The rooms are in docs/architecture.md. Nothing is imported here: `import diffgraph` is instant.
"""
