"""Which version of this package runs?"""

from functools import cache


@cache
def version() -> str:
    """Return what the installed package says of itself; `unknown` where none is installed."""
    from importlib import metadata

    try:
        return metadata.version("diffgraph")
    except metadata.PackageNotFoundError:
        return "unknown"
