"""What is an expert good at, and who is best at it? Means of what calibration measured."""

from diffgraph.graph.snapshot import GraphSnapshot


def mean_gains(snapshot: GraphSnapshot, ref: str) -> dict[str, float]:
    """Return an expert's mean gain over the base by score, in deviations of the base."""
    means = snapshot.edge_gains([ref])[0].mean(axis=0)
    return {name: float(mean) for name, mean in zip(snapshot.score_names, means, strict=True)}


def strongest(snapshot: GraphSnapshot, count: int) -> dict[str, list[tuple[str, str, float]]]:
    """Return by score the experts with the highest mean gains: reference, name and gain."""
    means = snapshot.edge_gains(snapshot.refs).mean(axis=1)
    return {
        name: [
            (snapshot.refs[row], snapshot.names[row], float(means[row, column]))
            for row in means[:, column].argsort()[::-1][:count]
        ]
        for column, name in enumerate(snapshot.score_names)
    }
