"""How do the files of a model's components become one file?

Diffusers keeps a fine-tune as a folder a component. In one file each component's names stand behind
its own: `unet.conv_in.weight`. The numbers are copied as they are.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffgraph.artifacts import new_file
from diffgraph.errors import DamagedFile
from diffgraph.experts.weights_file import CODES, header_bytes, open_weights, shown
from diffgraph.foreign_files import open_foreign

READ_BYTES = 1 << 20


def join_components(parts: Mapping[str, Sequence[Path]], target: Path) -> None:
    """Write a file that holds all tensors of each component's files, whole or not at all.

    Raises:
        UnsafeFile, DamagedFile: a file cannot be read, or two hold one tensor.
        StorageError: the file cannot be written.
    """
    header: dict[str, object] = {}
    sources: list[tuple[Path, int, int]] = []  # file, where its numbers begin, how many bytes
    end = 0
    for component, paths in parts.items():
        for path in paths:
            file = open_weights(path)
            entries = file.entries
            first = min((entry.start for entry in entries.values()), default=file.size)
            for key, entry in entries.items():
                name = f"{component}.{key}"
                if name in header:
                    raise DamagedFile(f"{path.name}: {shown(key)} is in two files of {component}")
                offsets = [entry.start - first + end, entry.end - first + end]
                dtype, shape = CODES[entry.dtype], list(entry.shape)
                header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
            sources.append((path, first, file.size - first))
            end += file.size - first
    with new_file(target) as part, part.open("wb") as joined:
        joined.write(header_bytes(header))
        for path, first, size in sources:
            with open_foreign(path, first + size) as source:
                source.seek(first)
                shutil.copyfileobj(source, joined, READ_BYTES)
