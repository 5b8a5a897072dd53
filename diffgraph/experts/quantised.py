"""Are the numbers of a checkpoint its weights, or do they want a scale that nobody here knows?

Tools that quantise keep integers or 8-bit floats and, beside them, what these are to be multiplied
by, each under names of its own. Eight bits alone are weights that were rounded; with a key beside
them that is not read, or as integers, they are something else.
"""

from collections.abc import Collection

from diffgraph.errors import UnknownFormat
from diffgraph.experts.weights_file import WeightsFile, shown

WHAT = "quantised weights, whose scales would have to be known to every reader"


def demand_plain_numbers(file: WeightsFile, read: Collection[str]) -> None:
    """Raise `UnknownFormat` if weights are integers, or 8-bit floats with a key left beside them.

    Args:
        file: the open file.
        read: its keys that are taken for weights.
    """
    narrow = []
    for key in read:
        dtype = file.entries[key].dtype
        if not dtype.is_floating_point:
            kind = str(dtype).removeprefix("torch.")
            raise UnknownFormat(f"{file.path.name} is {WHAT} ({shown(key)} is {kind})")
        if dtype.itemsize == 1:
            narrow.append(key)
    if not narrow:
        return
    beside = {}
    for key in file.entries.keys() - set(read):
        name, dot, last = key.rpartition(".")
        while dot and last != "bias":
            beside[name] = key
            name, dot, _ = name.rpartition(".")
    for key in narrow:
        if other := beside.get(key) or beside.get(key.rpartition(".")[0]):
            raise UnknownFormat(f"{file.path.name} is {WHAT} ({shown(other)} beside {shown(key)})")
