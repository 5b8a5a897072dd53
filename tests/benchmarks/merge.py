"""How long do reading and merging experts take? `python tests/benchmarks/merge.py [device]`"""

import sys
from collections import defaultdict

from measuring import bundled, readable, seconds, tell

from diffgraph.experts.reading import read_delta


def main() -> None:
    """Print the figures."""
    merger, files = bundled(device=sys.argv[1] if len(sys.argv) > 1 else "cpu")
    deltas = readable(merger, files)
    reading = defaultdict(list)
    for name, delta in deltas.items():
        taken = seconds(lambda name=name: read_delta(files[name], merger.base), times=3)
        reading[delta.format].append(taken)
    merging = {}
    for count in (1, 2, 4, 8, 16):
        chosen = dict.fromkeys(list(deltas)[:: max(1, len(deltas) // count)][:count], 0.5)
        merging[len(chosen)] = seconds(lambda chosen=chosen: merger.apply(chosen, deltas))
    tell(
        "merge",
        {
            "experts": len(deltas),
            "parameters": sum(value.numel() for value in merger.base.values()),
            "read_seconds_by_format": {
                form: round(sum(taken) / len(taken), 4) for form, taken in sorted(reading.items())
            },
            "merge_seconds_by_experts": merging,
            "delta_megabytes": round(sum(delta.bytes for delta in deltas.values()) / 1e6, 1),
        },
    )


if __name__ == "__main__":
    main()
