"""How is a Parquet file read that strangers may have made? With a bound on what a cell may hold.

A file of a kilobyte can stand for gigabytes: one long text, and thousands of rows that refer to it.
Texts are read as such references and cut before they become rows.
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diffgraph.errors import MissingInput

LONGEST_CELL = 10_000  # characters; of a longer text, its beginning
LARGEST_PART = 64 << 20  # bytes of a column, inflated, that is always read
LIKELIEST_RATIO = 100  # how many times smaller a larger one may be in the file


def bounded_batches(path: Path, columns: Collection[str], rows: int) -> Iterator[pa.RecordBatch]:
    """Yield some columns of a file, so many rows at a time; texts are cut after `LONGEST_CELL`.

    Raises:
        MissingInput: It stands for far more than it holds.
        pyarrow.ArrowException: It cannot be read.
    """
    schema = pq.read_schema(path)
    texts = [name for name in columns if _is_text(schema.field(name).type)]
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        _demand_likely(path, file.metadata)
        for batch in file.iter_batches(batch_size=rows, columns=list(columns)):
            cut = [_cut(column) for column in batch.columns]
            yield pa.RecordBatch.from_arrays(cut, names=batch.schema.names)


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _cut(column: Any) -> Any:
    if not pa.types.is_dictionary(column.type):
        return column
    longest = pc.max(pc.binary_length(column.dictionary)).as_py() or 0
    if longest <= LONGEST_CELL:
        return column
    begun = pc.utf8_slice_codeunits(column.dictionary, 0, LONGEST_CELL)
    return pa.DictionaryArray.from_arrays(column.indices, begun)


def _demand_likely(path: Path, metadata: Any) -> None:
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            part = metadata.row_group(group).column(number)
            inflated, kept = part.total_uncompressed_size, part.total_compressed_size
            if inflated > max(LARGEST_PART, LIKELIEST_RATIO * kept):
                raise MissingInput(
                    f"{path}: {kept} bytes of its column {part.path_in_schema!r} stand for "
                    f"{inflated}: nobody writes prompts like that"
                )
