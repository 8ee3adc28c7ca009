"""Tables of IMU files: text as loggers write it. Formats and mistakes are tested through the paired source."""

from __future__ import annotations

import numpy as np
import pytest

from shards.sources.imu_files import read_columns
from tests.shards.recordings import imu_columns

COLUMNS = imu_columns(2.0)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", " ", "   "])
@pytest.mark.parametrize("header", [True, False])
def test_delimiters_comments_and_lines_before_the_header(tmp_path, delimiter, header):
    rows = [list(COLUMNS)] if header else []
    rows += np.column_stack(list(COLUMNS.values())).tolist()
    lines = ["Device: SN 12, firmware 3", "Rate;100"] if header else ["x"]
    lines += ["# comment, with; all | kinds\tof", "% another", *(delimiter.join(map(str, row)) for row in rows)]
    lines.insert(20, "  # comment between")
    (tmp_path / "a.txt").write_text("\ufeff" + "\r\n".join(lines) + "\r\n", newline="", encoding="utf-8")
    found = read_columns(tmp_path / "a.txt", skip_rows=2 if header else 1)
    assert found.names == (list(COLUMNS) if header else [])
    assert found.count == 7
    for i, column in enumerate(COLUMNS.values()):
        np.testing.assert_array_equal(found.column(str(i)), column)
