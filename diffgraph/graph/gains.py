"""What is an expert good at, and which expert is best at it? Means of what calibration measured."""

from diffgraph.graph.snapshot import GraphSnapshot


def mean_gains(snapshot: GraphSnapshot, ref: str) -> dict[str, float]:
    """Return an expert's mean gain over the base by score, in deviations of the base."""
    means = snapshot.edge_gains([ref])[0].mean(axis=0)
    return {name: float(mean) for name, mean in zip(snapshot.score_names, means, strict=True)}


def strongest(snapshot: GraphSnapshot, count: int) -> dict[str, list[tuple[str, str, float]]]:
    """Return by score the experts with the highest mean gains: reference, name and gain."""
    measured = snapshot.calibrated
    if not measured:
        return {}
    means = snapshot.edge_gains(measured).mean(axis=1)
    names = dict(zip(snapshot.refs, snapshot.names, strict=True))
    return {
        name: [
            (measured[row], names[measured[row]], float(means[row, column]))
            for row in means[:, column].argsort()[::-1][:count]
        ]
        for column, name in enumerate(snapshot.score_names)
    }
