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

LONGEST_CELL = 10_000  # characters, or bytes; of a longer text, its beginning
LARGEST_PART = 64 << 20  # bytes of a column, inflated, that is always read
LIKELIEST_RATIO = 100  # how many times smaller a larger one may be in the file
LONGEST_LISTS = 100  # values a row, on average; a million in a file are always read
MANY_VALUES = 1 << 20


def bounded_batches(
    path: Path, columns: Collection[str], rows: int, longest: int = LONGEST_CELL
) -> Iterator[pa.RecordBatch]:
    """Yield some columns of a file, so many rows at a time; texts are cut at `longest`.

    Raises:
        MissingInput: It stands for far more than it holds.
        pyarrow.ArrowException: It cannot be read.
    """
    parts = pq.read_metadata(path).schema
    texts = [part.path for part in map(parts.column, range(len(parts)))
             if part.physical_type == "BYTE_ARRAY"]  # fmt: skip
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        _demand_likely(path, file.metadata)
        for batch in file.iter_batches(batch_size=rows, columns=list(columns)):
            cut = [_cut(path, column, longest) for column in batch.columns]
            yield pa.RecordBatch.from_arrays(cut, names=batch.schema.names) if cut else batch


def _cut(path: Path, column: Any, longest: int) -> Any:
    if pa.types.is_nested(column.type):
        for part in column.flatten() if pa.types.is_struct(column.type) else [column.flatten()]:
            if _cut(path, part, longest) is not part:
                raise MissingInput(f"{path}: a list in it holds a text that is too long")
        return column
    if not pa.types.is_dictionary(column.type):
        return column
    if (pc.max(pc.binary_length(column.dictionary)).as_py() or 0) <= longest:
        return column
    is_text = not pa.types.is_binary(column.type.value_type)
    begin = pc.utf8_slice_codeunits if is_text else pc.binary_slice
    return pa.DictionaryArray.from_arrays(column.indices, begin(column.dictionary, 0, longest))


def _demand_likely(path: Path, metadata: Any) -> None:
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group)
        for part in map(rows.column, range(metadata.num_columns)):
            inflated, kept = part.total_uncompressed_size, part.total_compressed_size
            if inflated > max(LARGEST_PART, LIKELIEST_RATIO * kept):
                raise MissingInput(
                    f"{path}: {kept} bytes of its column {part.path_in_schema!r} stand for "
                    f"{inflated}: nobody writes prompts like that"
                )
            if part.num_values > MANY_VALUES + LONGEST_LISTS * rows.num_rows:
                raise MissingInput(
                    f"{path}: {rows.num_rows} rows of its column {part.path_in_schema!r} hold "
                    f"{part.num_values} values: nobody writes lists like that"
                )
