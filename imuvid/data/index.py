"""The rows of an index that one split uses, in columns of numbers: tens of bytes a sample, and no object."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imuvid.data.format import DATASET_NAME, INDEX_NAME, INDEX_SCHEMA, KEY_PATTERN, DatasetInfo
from imuvid.data.storage import Store, check_file_name
from imuvid.errors import UserError

T = TypeVar("T")

_DICTIONARIES = ("shard", "recording", "subject", "split", "label", "verdict")
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
        offsets: int64 [N], bytes.
        sizes: int64 or uint32 [N], bytes.
        weights: float64 [N], 0 to 1.
        num_gated: windows of the split that are left out.

    Raises:
        UserError: the index is missing or damaged, or the split is empty.
    """

    def __init__(self, store: Store, info: DatasetInfo, split: str | None):
        self._store, self._info = store, info
        where = store.where(INDEX_NAME)
        used, shards, offsets, sizes, crc32, has_crc32, weights = ([] for _ in range(7))
        names: dict[str, int] = {}
        num_members = 0
        for table in self._read(("split", "verdict", "shard", "offset", "size", "crc32", "weight")):
            good = _equal(table["verdict"], "") | table["verdict"].is_null().to_numpy()
            member = np.ones(table.num_rows, dtype=bool) if split is None else _equal(table["split"], split)
            num_members += int(member.sum())
            keep = member & good
            used.append(keep)
            shard = table["shard"].combine_chunks()
            numbers = np.array([names.setdefault(name, len(names)) for name in shard.dictionary.to_pylist()], np.int32)
            shards.append(numbers[shard.indices.to_numpy()][keep])
            offsets.append(table["offset"].to_numpy()[keep])
            sizes.append(_narrow(table["size"].to_numpy()[keep]))
            checksums = table["crc32"]
            has_crc32.append(~checksums.is_null().to_numpy()[keep] if checksums.null_count else None)
            crc32.append(pc.fill_null(checksums, 0).to_numpy()[keep].astype(np.uint32))
            weight = np.clip(pc.fill_null(table["weight"], 1.0).to_numpy()[keep], 0.0, 1.0)
            weights.append(None if (weight == 1).all() else weight)
        num = int(sum(len(part) for part in offsets))
        if not num:
            why = "see the split section of its build config"
            if num_members:
                why = f"all {num_members} windows fail a quality gate: see 'imuvid shards inspect'"
            raise UserError(f"{store}: no sample in split '{split}': {why}")
        self.num_gated = num_members - num
        self._used = None if all(part.all() for part in used) else np.concatenate(used)
        self.offsets, self.sizes = np.concatenate(offsets), np.concatenate(sizes)
        self._crc32 = np.concatenate(crc32)
        lengths = [len(part) for part in offsets]
        self._has_crc32 = _joined(has_crc32, lengths, np.bool_)
        # Where all are 1, as in most datasets, one number that is seen N times.
        joined = _joined(weights, lengths, np.float64)
        self.weights = np.broadcast_to(np.float64(1.0), num) if joined is None else joined

        shard_of = np.concatenate(shards)
        starts = np.append(0, np.flatnonzero(np.diff(shard_of)) + 1)
        present = shard_of[starts].tolist()
        listed = list(names)
        self.shards = [listed[number] for number in present]
        if len(set(present)) < len(present):
            raise UserError(f"{store}: the rows of the index are not in the order of the shards: build it again")
        self.shard_starts = np.append(starts, num)
        for name in self.shards:
            # The name comes from a file that someone may have sent us: it must stay inside the folder.
            try:
                check_file_name(name)
            except UserError as error:
                raise UserError(f"{where}: names the shard '{name:.80}', which is no plain file name") from error

    def __len__(self) -> int:
        return len(self.offsets)

    def shard_of(self, sample: int) -> int:
        """Return the number of the shard that has a sample."""
        return int(np.searchsorted(self.shard_starts, sample, side="right")) - 1

    def crc32(self, sample: int) -> int | None:
        """Return the checksum of a sample; None in an index without."""
        known = self._has_crc32 is None or self._has_crc32[sample]
        return int(self._crc32[sample]) if known else None

    def column(self, name: str) -> Column:
        """Read another column of the split.

        Raises:
            UserError: the index is damaged, or has been changed in the meantime.
        """
        parts, start = [], 0
        for table in self._read((name,)):
            part = table[name]
            if self._used is not None:
                part = part.filter(pa.array(self._used[start : start + len(part)]))
            if name == "key" and not pc.all(pc.match_substring_regex(part, _KEY), min_count=0).as_py():
                raise UserError(
                    f"{self._store.where(INDEX_NAME)}: damaged: a key holds more than letters, digits, '_' and '-'"
                )
            start += table.num_rows
            parts += part.chunks
        column = pa.chunked_array(parts).unify_dictionaries().combine_chunks()
        return Column(column)

    def _read(self, names: tuple[str, ...]) -> Iterator[pa.Table]:
        """Yield some columns, as of INDEX_SCHEMA but texts as dictionaries, a group of rows at a time."""
        where = self._store.where(INDEX_NAME)
        try:
            source = self._checked()
            with pq.ParquetFile(source, read_dictionary=[name for name in names if name in _DICTIONARIES]) as file:
                present = [name for name in names if name in file.schema_arrow.names]
                for group in range(file.num_row_groups):
                    yield self._as_schema(file.read_row_group(group, columns=present), names, where)
        except FileNotFoundError as error:
            raise UserError(f"{where}: is missing: build the dataset again") from error
        except pa.ArrowException as error:
            raise UserError(f"{where}: damaged: {str(error).splitlines()[0]}") from error
        except OSError as error:
            raise UserError(f"{where}: cannot be read: {str(error).splitlines()[0]}") from error

    def _as_schema(self, table: pa.Table, names: tuple[str, ...], where: str) -> pa.Table:
        columns = []
        for name in names:
            kind = INDEX_SCHEMA.field(name).type
            kind = pa.dictionary(pa.int32(), kind) if name in _DICTIONARIES else kind
            if name not in table.column_names:
                column = pa.chunked_array([pa.nulls(table.num_rows, INDEX_SCHEMA.field(name).type)]).cast(kind)
            else:
                column = table[name].cast(kind)
            if name in _REQUIRED and column.null_count:
                raise UserError(f"{where}: damaged: no value for {name} in some rows")
            columns.append(column)
        return pa.table(columns, names=list(names))

    def _checked(self) -> Path | pa.BufferReader:
        """Return what the index can be read from, once its checksum is found right."""
        expected, digest = self._info.sha256.get(INDEX_NAME), hashlib.sha256()
        source: Path | pa.BufferReader
        if self._store.local is not None:
            source = self._store.local / INDEX_NAME
            with source.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        else:
            content = self._store.read(INDEX_NAME)
            digest.update(content)
            source = pa.BufferReader(content)
        if digest.hexdigest() != expected:
            raise UserError(
                f"{self._store.where(INDEX_NAME)}: is not that of {DATASET_NAME}: a change was interrupted (give its "
                "command again), or the file is damaged"
            )
        return source


def _equal(column: pa.ChunkedArray, text: str) -> np.ndarray:
    """Which rows of a column of dictionaries hold a text, bool [N]."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.unify_dictionaries().combine_chunks()
    names = array.dictionary.to_pylist()
    if text not in names:
        return np.zeros(len(array), dtype=bool)
    return array.indices.fill_null(-1).to_numpy(zero_copy_only=False) == names.index(text)


def _narrow(values: np.ndarray) -> np.ndarray:
    fits = not len(values) or (values.min() >= 0 and values.max() < 2**32)
    return values.astype(np.uint32) if fits else values


def _joined(parts: list[np.ndarray | None], lengths: list[int], dtype: type) -> np.ndarray | None:
    """The parts as one array, None standing for ones; None where all are."""
    if all(part is None for part in parts):
        return None
    filled = [np.ones(n, dtype) if part is None else part for part, n in zip(parts, lengths, strict=True)]
    return np.concatenate(filled).astype(dtype)
