"""dataset.json and the tables beside it: refused in one line where they are not what they should be."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imuvid.data.dataset_json import DATASET_NAME, read_dataset_info
from imuvid.data.dataset_tables import INDEX_NAME, read_index
from imuvid.errors import UserError


@pytest.fixture
def copied(tiny_dataset, tmp_path):
    return shutil.copytree(tiny_dataset, tmp_path / "copy")


def user_error(function, folder) -> str:
    with pytest.raises(UserError) as caught:
        function(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_dataset_json_that_is_missing_damaged_or_of_another_format(copied):
    path = copied / DATASET_NAME
    fields = json.loads(path.read_text())
    for text in ("", "{", "[]", "{}", json.dumps({**fields, "more": 1}), "\udcff"):
        path.write_bytes(text.encode(errors="surrogateescape"))
        assert DATASET_NAME in user_error(read_dataset_info, copied)
    path.write_text(json.dumps({**fields, "format": 2}))
    assert "format 2" in user_error(read_dataset_info, copied)
    path.unlink()
    assert "shards build" in user_error(read_dataset_info, copied)


def test_index_that_is_missing_damaged_or_of_other_columns(copied):
    path = copied / INDEX_NAME
    raw = path.read_bytes()
    for content in (b"", raw[:-20], raw[: len(raw) // 2], b"PAR1" * 9):
        path.write_bytes(content)
        assert INDEX_NAME in user_error(read_index, copied)
    pq.write_table(pa.table({"key": ["a"], "shard": ["00000.tar"]}), path)
    assert "offset" in user_error(read_index, copied)
    path.unlink()
    assert INDEX_NAME in user_error(read_index, copied)


def test_fingerprint_changes_with_the_content(tiny_dataset):
    info = read_dataset_info(tiny_dataset)
    other = dataclasses.replace(info, sha256={**info.sha256, "00000.tar": "0" * 64})
    assert other.fingerprint != info.fingerprint
    assert dataclasses.replace(info, name="b").fingerprint == info.fingerprint
