"""What runs, in what order: Prefect flows and the `diffgraph` command. No arithmetic."""
