"""How is a table kept so that damage to it is found? Parquet with a checksum a page.

What is found damaged is set aside under another name and told, and counts as not there: whoever
made the table makes it again, and nobody is stuck with it.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffgraph.artifacts import new_file, set_aside
from diffgraph.errors import DamagedTable, StorageError

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)


def write_table(path: Path, table: "pa.Table") -> None:
    """Write a table whole, or not at all; raises `StorageError`."""
    import pyarrow.parquet as pq

    with new_file(path) as part:
        pq.write_table(table, part, compression="zstd", write_page_checksum=True)


def read_table(path: Path, schema: "pa.Schema") -> Any:
    """Return a table as it was written.

    Raises:
        DamagedTable: it is cut, changed, or has other columns.
        FileNotFoundError: it is not there.
        StorageError: the disk does not give it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:  # a disk that does not answer says nothing of what is on it
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise DamagedTable(f"{path} cannot be read as a table: {error}") from error
    if not table.schema.equals(schema):
        raise DamagedTable(f"{path} has other columns than it should")
    return table


def find_table(path: Path, schema: "pa.Schema") -> Any | None:
    """Return a table; None if there is none, or a damaged one: that is set aside, and told."""
    try:
        return read_table(path, schema)
    except FileNotFoundError:
        return None
    except DamagedTable as error:
        log.warning("%s; it is set aside as %s and made again", error, set_aside(path).name)
        return None
