"""Which community experts should be merged for a prompt, and how strongly?

    import diffgraph

    diffgraph.open().draw("a fox, sepia")[0].image

docs/python.md is for who uses it, docs/architecture.md for who changes it. Nothing is imported
before it is used: `import diffgraph` takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from os import PathLike

    from diffgraph import errors
    from diffgraph.errors import (
        DiffgraphError,
        ExpertError,
        InputError,
        MissingPackage,
        PlanError,
    )
    from diffgraph.merging.plan import MergePlan
    from diffgraph.session import Session
    from diffgraph.session.drawn import Drawn

    __version__: str

__all__ = [
    "DiffgraphError",
    "Drawn",
    "ExpertError",
    "InputError",
    "MergePlan",
    "MissingPackage",
    "PlanError",
    "Session",
    "errors",
    "open",
]

_MODULES = {
    "Drawn": "diffgraph.session.drawn",
    "MergePlan": "diffgraph.merging.plan",
    "Session": "diffgraph.session",
}
"""Where a name is that is imported when it is asked for; the others are errors."""


def open(
    home: "str | PathLike[str] | None" = None,
    family: str | None = None,
    device: str | None = None,
) -> "Session":
    """Return what plans, draws and merges with the experts of a home.

    What else there is to say is said by settings (docs/operations.md): who reads prompts, where
    bases are, a file of configs.

    Args:
        home: the folder where everything is kept; `DIFFGRAPH_HOME`, or a folder in the user's data
            directory. One that is not there yet has the experts and the planner that ship.
        family: the model family; `DIFFGRAPH_FAMILY`, or `emoji64`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`; `DIFFGRAPH_DEVICE`, or `auto`.

    Raises:
        UnknownFamily: there is no such family.
        InputError: there is no such device, the home cannot be read, or a setting cannot be used.
        MissingPackage: a package that is needed is not installed.
    """
    from diffgraph.errors import packages_demanded

    with packages_demanded():
        from diffgraph.session.opening import open_session

        return open_session(home, family, device)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from diffgraph.version import version

        return version()
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    errors = import_module("diffgraph.errors")
    if name == "errors":
        return errors
    with errors.packages_demanded():
        return getattr(import_module(_MODULES.get(name, "diffgraph.errors")), name)


def __dir__() -> list[str]:
    return sorted((*__all__, "__version__"))
