"""The rows of an index that one split uses, in columns of numbers: tens of bytes a sample, and no object."""

from __future__ import annotations

import hashlib
import mmap
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import DTypeLike

from imuvid.data.dataset_json import DATASET_NAME, DatasetInfo
from imuvid.data.dataset_tables import INDEX_NAME, INDEX_SCHEMA
from imuvid.data.format import KEY_PATTERN
from imuvid.data.storage import Store, check_file_name
from imuvid.errors import UserError

T = TypeVar("T")

_DICTIONARIES = ("shard", "recording", "subject", "split", "label", "verdict")
_ROWS = 1 << 16
_BUFFER = 1 << 20
"""Of a column's bytes so many lie in memory at a time, not those of a group of rows."""
_KEY = f"^{KEY_PATTERN.pattern}$"
_REQUIRED = ("key", "shard", "offset", "size", "recording", "split")


class Column(Sequence[T]):
    """A column of the index as a sequence of Python values, each made when it is asked for."""

    def __init__(self, array: pa.Array):
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    @overload
    def __getitem__(self, i: int) -> T: ...
    @overload
    def __getitem__(self, i: slice) -> list[T]: ...
    def __getitem__(self, i: int | slice) -> T | list[T]:
        return self._array[i].to_pylist() if isinstance(i, slice) else self._array[int(i)].as_py()

    def __iter__(self) -> Iterator[T]:
        for start in range(0, len(self), 4096):
            yield from self._array[start : start + 4096].to_pylist()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def unique(self) -> list[T]:
        """Return the values that occur, in the order of their first appearance."""
        return self._array.unique().to_pylist()

    def codes(self) -> np.ndarray:
        """Return a number for each value, equal where the values are, int64 [N], from 0 on."""
        array = self._array
        if not pa.types.is_dictionary(array.type):
            array = array.dictionary_encode()
        return array.indices.fill_null(len(array.dictionary)).to_numpy(zero_copy_only=False).astype(np.int64)


class Index:
    """Where the samples of one split lie, in the order of the index; windows that fail a gate are left out.

    Args:
        store: of the dataset.
        info: of the dataset; the index must be the one that it speaks of.
        split: train, val or test; None for all.

    Attributes:
        shards: file names of the shards that have any sample of the split.
        shard_starts: int64 [S + 1], the first sample of each of them, and the number of all.
        weights: float64 [N], 0 to 1.
        num_gated: windows of the split that are left out.

    Raises:
        UserError: the index is missing or damaged, or the split is empty.
    """

    def __init__(self, store: Store, info: DatasetInfo, split: str | None):
        self._store, self._info = store, info
        self._fetched: mmap.mmap | bytes | None = None
        where = store.where(INDEX_NAME)
        offsets, sizes, crc32, weights = _Numbers(9), _Numbers(9), _Numbers(), _Numbers(even=1)
        used: list[np.ndarray | int] = []  # a number stands for so many rows that are all used
        starts: list[int] = []
        self.shards: list[str] = []
        num = num_members = 0
        for batch in self._read(("split", "verdict", "shard", "offset", "size", "crc32", "weight")):
            verdict = batch["verdict"]
            good = _equal(verdict, "")
            if verdict.null_count:
                good |= verdict.is_null().to_numpy(zero_copy_only=False)
            member = np.ones(len(good), dtype=bool) if split is None else _equal(batch["split"], split)
            num_members += int(member.sum())
            keep = member & good
            rows = None if keep.all() else np.flatnonzero(keep)
            used.append(len(keep) if rows is None else keep)
            for name, numbers, null in (
                ("offset", offsets, 0),
                ("size", sizes, 0),
                ("crc32", crc32, -1),
                ("weight", weights, 1),
            ):
                numbers.add(batch[name], rows, null, self._num_rows)
            shards = batch["shard"].indices.to_numpy()
            shards = shards if rows is None else shards[rows]
            for row in np.append(0, np.flatnonzero(np.diff(shards)) + 1)[: len(shards)].tolist():
                name = batch["shard"].dictionary[int(shards[row])].as_py()
                if not self.shards or self.shards[-1] != name:
                    self.shards.append(name)
                    starts.append(num + row)
            num += len(shards)
        if not num:
            why = "see the split section of its build config"
            if num_members:
                why = f"all {num_members} windows fail a quality gate: see 'imuvid shards inspect'"
            raise UserError(f"{store}: no sample in split '{split}': {why}")
        self.num_gated = num_members - num
        self._used = None
        if not all(isinstance(part, int) for part in used):
            parts = [np.ones(part, dtype=bool) if isinstance(part, int) else part for part in used]
            self._used = np.concatenate(parts)
        self._offsets, self._sizes, self._crc32 = offsets.joined(), sizes.joined(), crc32.joined()
        self._units = offsets.unit, sizes.unit
        # Where all are 1, as in most datasets, one number that is seen N times.
        weight = weights.joined()
        even = np.broadcast_to(np.float64(1.0), num)
        self.weights = even if weight is None else np.clip(weight.astype(np.float64), 0.0, 1.0)
        pa.default_memory_pool().release_unused()
        if len(set(self.shards)) < len(self.shards):
            raise UserError(f"{store}: the rows of the index are not in the order of the shards: build it again")
        self.shard_starts = np.array([*starts, num])
        for name in self.shards:
            # The name comes from a file that someone may have sent us: it must stay inside the folder.
            try:
                check_file_name(name)
            except UserError as error:
                raise UserError(f"{where}: names the shard '{name:.80}', which is no plain file name") from error

    def __len__(self) -> int:
        return len(self._offsets)

    def shard_of(self, sample: int) -> int:
        """Return the number of the shard that has a sample."""
        return int(np.searchsorted(self.shard_starts, sample, side="right")) - 1

    def span(self, sample: int) -> tuple[int, int]:
        """Return offset and size of a sample in its shard, bytes."""
        return int(self._offsets[sample]) * self._units[0], int(self._sizes[sample]) * self._units[1]

    def crc32(self, sample: int) -> int | None:
        """Return the checksum of a sample; None in an index without."""
        value = int(self._crc32[sample])
        return value if value >= 0 else None

    def column(self, name: str) -> Column:
        """Read another column of the split.

        Raises:
            UserError: the index is damaged, or has been changed in the meantime.
        """
        parts: list[pa.Array] = []
        start = 0
        for batch in self._read((name,)):
            part = batch[name]
            start += len(part)
            if self._used is not None:
                part = part.filter(pa.array(self._used[start - len(part) : start]))
            if name == "key" and not pc.all(pc.match_substring_regex(part, _KEY), min_count=0).as_py():
                raise UserError(
                    f"{self._store.where(INDEX_NAME)}: damaged: a key holds more than letters, digits, '_' and '-'"
                )
            parts.append(part)
        return Column(pa.chunked_array(parts).unify_dictionaries().combine_chunks())

    def _fetch(self) -> mmap.mmap | bytes:
        """Return an index at a URL. It comes once: its columns are asked for when the store may not answer any more."""
        if self._fetched is None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / INDEX_NAME
                self._store.fetch(INDEX_NAME, path)
                with path.open("rb") as file:
                    # On the disk, under no name: it takes no memory, goes with the process, and forks share it.
                    self._fetched = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) if path.stat().st_size else b""
        return self._fetched

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_fetched": None}

    def _read(self, names: tuple[str, ...]) -> Iterator[dict[str, pa.Array]]:
        """Yield some columns, as of INDEX_SCHEMA but texts as dictionaries, a stretch of rows at a time."""
        where = self._store.where(INDEX_NAME)
        try:
            local = self._store.local
            content = self._fetch() if local is None else local / INDEX_NAME
            source = content if isinstance(content, Path) else pa.BufferReader(content)
            # Beside the reading, which it takes as long as: both leave Python's lock alone.
            with ThreadPoolExecutor(1) as pool:
                digest = pool.submit(_sha256, content)
                try:
                    texts = [name for name in names if name in _DICTIONARIES]
                    with pq.ParquetFile(source, read_dictionary=texts, buffer_size=_BUFFER) as file:
                        self._num_rows = file.metadata.num_rows
                        present = [name for name in names if name in file.schema_arrow.names]
                        # By groups: otherwise all of the columns' bytes are read ahead.
                        for group in range(file.num_row_groups):
                            for batch in file.iter_batches(_ROWS, [group], present, use_threads=False):
                                yield {name: _column(batch, name, where) for name in names}
                finally:
                    if digest.result() != self._info.sha256.get(INDEX_NAME):
                        raise UserError(
                            f"{where}: is not that of {DATASET_NAME}: a change was interrupted (give its command "
                            "again), or the file is damaged"
                        )
        except FileNotFoundError as error:
            raise UserError(f"{where}: is missing: build the dataset again") from error
        except pa.ArrowException as error:
            raise UserError(f"{where}: damaged: {str(error).splitlines()[0]}") from error
        except OSError as error:
            raise UserError(f"{where}: cannot be read: {str(error).splitlines()[0]}") from error


class _Numbers:
    """A column that is collected in two or four bytes a row, if its values fit.

    Args:
        shift: the values are multiples of 2 to this, if they are.
        even: the value that most columns have in all rows; None = no such value. Where it is so, nothing is kept.
    """

    def __init__(self, shift: int = 0, even: int | None = None):
        self._shift, self.unit, self._even = shift, 1 << shift, even
        self._values: np.ndarray | None = None
        self._num = 0

    def add(self, column: pa.Array, rows: np.ndarray | None, null: int, num_rows: int) -> None:
        """Collect the given rows of a stretch of a column (None = all), nulls as the number ``null``.

        Args:
            column: the stretch.
            rows: int64, which of it.
            null: stands for nulls.
            num_rows: of the whole column; so much is set aside at once.
        """
        values = (column.fill_null(null) if column.null_count else column).to_numpy(zero_copy_only=False)
        values = values if rows is None else values[rows]
        if self._values is None and self._even is not None and (values == self._even).all():
            self._num += len(values)
            return
        if self._values is None:
            self._values = np.empty(num_rows, np.uint16 if values.dtype.kind == "i" else values.dtype)
            self._values[: self._num] = self._even or 0
        if values.dtype.kind == "i":
            bits = int(np.bitwise_or.reduce(values))
            if bits < 0 or bits % self.unit:
                self._widen(np.int64)
                self._values[: self._num] <<= self._shift
                self._shift, self.unit = 0, 1
            values = values >> self._shift if self._shift else values
            self._widen(np.int64 if not 0 <= bits >> self._shift < 1 << 32 else np.min_scalar_type(bits >> self._shift))
        self._values[self._num : self._num + len(values)] = values
        self._num += len(values)

    def _widen(self, kind: DTypeLike) -> None:
        assert self._values is not None
        wide = np.promote_types(self._values.dtype, kind)
        if wide != self._values.dtype:
            before, self._values = self._values, np.empty(len(self._values), wide)
            self._values[: self._num] = before[: self._num]

    def joined(self) -> Any:
        """Return what was collected; None where all is ``even``."""
        return None if self._values is None else self._values[: self._num]


def _column(batch: pa.RecordBatch, name: str, where: str) -> pa.Array:
    kind = INDEX_SCHEMA.field(name).type
    column = batch.column(name) if name in batch.schema.names else pa.nulls(batch.num_rows, kind)
    if name in _DICTIONARIES:
        kind = pa.dictionary(pa.int32(), kind)
    column = column if column.type == kind else column.cast(kind)
    if name in _REQUIRED and column.null_count:
        raise UserError(f"{where}: damaged: no value for {name} in some rows")
    return column


def _sha256(source: Path | mmap.mmap | bytes) -> str:
    if not isinstance(source, Path):
        return hashlib.sha256(source).hexdigest()
    digest, buffer = hashlib.sha256(), bytearray(1 << 20)
    with source.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
    return digest.hexdigest()


def _equal(column: pa.DictionaryArray, text: str) -> np.ndarray:
    """Which rows of a column hold a text, bool [N]."""
    names = column.dictionary.to_pylist()
    indices = column.indices.fill_null(-1) if column.null_count else column.indices
    if len(names) == 1 and names[0] == text and not column.null_count:
        return np.ones(len(column), dtype=bool)
    return indices.to_numpy(zero_copy_only=False) == (names.index(text) if text in names else -2)
