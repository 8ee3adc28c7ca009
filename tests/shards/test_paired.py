"""The paired source: every kind of IMU file gives the same recording; every mistake gives one clear line."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io

from imuvid.errors import UserError
from shards.sources.base import RecordingError
from shards.sources.paired import PairedConfig, PairedSource
from tests.shards.recordings import imu_columns, write_csv, write_manifest, write_video

COLUMNS = imu_columns(2.0)
VALUES = np.stack([COLUMNS[name] for name in list(COLUMNS)[1:]], axis=1)


def open_one(folder, row, **defaults):
    manifest = write_manifest(folder / "m.csv", [{"recording": "a", "imu": "a.csv"} | row])
    source = PairedSource(PairedConfig(manifest=str(manifest), **defaults))
    (ref,) = source.list()
    return source.open(ref)


def write_imu(path):
    if path.suffix == ".csv":
        write_csv(path, COLUMNS)
    elif path.suffix == ".tsv":
        write_csv(path, COLUMNS, delimiter="\t")
    elif path.suffix == ".parquet":
        pq.write_table(pa.table(COLUMNS), path)
    elif path.suffix == ".npy":
        np.save(path, np.column_stack([COLUMNS["time"], VALUES]))
    elif path.suffix == ".npz":
        np.savez(path, table=np.column_stack([COLUMNS["time"], VALUES]), other=np.zeros(3))
    elif path.suffix == ".mat":
        scipy.io.savemat(path, {"table": np.column_stack([COLUMNS["time"], VALUES]), "info": "text"})


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".npy", ".npz", ".mat"])
def test_every_kind_of_file_gives_the_same_recording(tmp_path, suffix):
    write_imu(tmp_path / f"a{suffix}")
    row = {"imu": f"a{suffix}", "acc_unit": "g", "gyro_unit": "deg/s", "position": "wrist", "subject": "Ada"}
    if suffix in (".csv", ".tsv", ".parquet"):
        row |= {"time_column": "time"}
    else:
        row |= {"time_column": "0", "acc_columns": "1 2 3", "gyro_columns": "4 5 6"}
    if suffix == ".npz":
        row |= {"key": "table"}
    recording = open_one(tmp_path, row | {"label": "walk", "text": "a walk", "offset_s": "0.5"})
    (stream,) = recording.streams
    assert stream.position == "wrist"
    assert stream.acc is not None
    assert stream.gyro is not None
    assert stream.acc.times_s == pytest.approx(COLUMNS["time"] + 0.5)
    assert stream.acc.values == pytest.approx(VALUES[:, :3] * 9.80665)
    assert stream.gyro.values == pytest.approx(np.deg2rad(VALUES[:, 3:]))
    assert recording.subject == "Ada"
    assert recording.text == "a walk"
    assert recording.sync_offset_s == 0.5
    assert [(s.label, s.start_s) for s in recording.segments] == [("walk", 0.0)]


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_time_units_and_stamps_counted_from_1970(tmp_path, unit, factor):
    stamps = np.round((COLUMNS["time"] + 1_600_000_000) * factor).astype(np.int64)
    if unit == "s":
        stamps = COLUMNS["time"] + 1_600_000_000
    write_csv(tmp_path / "a.csv", COLUMNS | {"time": stamps})
    recording = open_one(tmp_path, {"time_column": "time", "time_unit": unit, "offset_s": "-1600000000"})
    assert recording.streams[0].acc is not None
    assert recording.streams[0].acc.times_s == pytest.approx(COLUMNS["time"], abs=1e-6)


def test_rate_and_defaults_of_the_config(tmp_path):
    np.save(tmp_path / "a.npy", VALUES)
    recording = open_one(tmp_path, {"imu": "a.npy"}, rate_hz=100.0, position="head", offset_s=-0.2)
    assert recording.streams[0].position == "head"
    assert recording.streams[0].acc is not None
    assert recording.streams[0].acc.times_s == pytest.approx(COLUMNS["time"] - 0.2)
    assert recording.duration_s == pytest.approx(1.8)


def test_file_without_header_and_a_files_own_rate(tmp_path):
    np.savetxt(tmp_path / "a.csv", VALUES[:, :3], delimiter=",")
    recording = open_one(tmp_path, {"rate_hz": "50"}, time_column="time")
    assert recording.streams[0].acc is not None
    assert recording.streams[0].gyro is None
    assert recording.streams[0].acc.times_s[-1] == pytest.approx(199 / 50)


def test_rows_of_a_recording_join(tmp_path):
    write_csv(tmp_path / "a.csv", COLUMNS)
    write_video(tmp_path / "a.mp4", 50)
    common = {"recording": "a", "imu": "a.csv", "time_column": "time", "video": "a.mp4"}
    manifest = write_manifest(
        tmp_path / "m.csv",
        [
            common | {"position": "wrist", "acc_columns": "acc_x acc_y acc_z"},
            common | {"position": "wrist", "gyro_columns": "gyro_x gyro_y gyro_z"},
            common | {"position": "ankle"},
        ],
    )
    source = PairedSource(PairedConfig(manifest=str(manifest)))
    (ref,) = source.list()
    recording = source.open(ref)
    assert [(s.position, s.acc is not None, s.gyro is not None) for s in recording.streams] == [
        ("wrist", True, True),
        ("ankle", True, True),
    ]
    assert recording.duration_s == pytest.approx(2.0)


def test_empty_cells_are_missing_values(tmp_path):
    write_csv(tmp_path / "a.csv", COLUMNS)
    lines = (tmp_path / "a.csv").read_text().splitlines()
    cells = lines[11].split(",")
    lines[11] = ",".join([cells[0], "", *cells[2:6], "NaN"])
    (tmp_path / "a.csv").write_text("\n".join(lines))
    (stream,) = open_one(tmp_path, {"time_column": "time"}).streams
    assert stream.acc is not None
    assert stream.gyro is not None
    assert np.argwhere(np.isnan(stream.acc.values)).tolist() == [[10, 0]]
    assert np.argwhere(np.isnan(stream.gyro.values)).tolist() == [[10, 2]]


def spoil(name, row, column, cell):
    def write(folder):
        path = write_csv(folder / name, COLUMNS)
        lines = path.read_text().splitlines()
        cells = lines[row].split(",")
        cells[column] = cell
        lines[row] = ",".join(cells)
        path.write_text("\n".join(lines))

    return write


def whole(folder):
    write_csv(folder / "a.csv", COLUMNS)


TIME = {"time_column": "time"}
MISTAKES = {
    "missing file": (lambda folder: None, TIME, "missing", "there is no such IMU file"),
    "empty file": (lambda folder: (folder / "a.csv").touch(), TIME, "empty", "is empty"),
    "text in numbers": (spoil("a.csv", 7, 2, "abc"), TIME, "not_a_number", "'abc' in row 7 of column 'acc_y'"),
    "NaN in time": (spoil("a.csv", 7, 0, "NaN"), TIME, "bad_time", "row 7 has no time stamp"),
    "time backwards": (spoil("a.csv", 7, 0, "0.01"), TIME, "time_backwards", "goes backwards in row 7"),
    "cut line": (spoil("a.csv", 200, 0, "1,2"), TIME, "unreadable", "cannot be read"),
    "acc unit": (whole, TIME | {"acc_unit": "gees"}, "bad_unit", "acc_unit 'gees' is none of m/s2"),
    "gyro unit": (whole, TIME | {"gyro_unit": "g"}, "bad_unit", "gyro_unit 'g' is none of rad/s"),
    "time unit": (whole, TIME | {"time_unit": "min"}, "bad_unit", "time_unit 'min' is none of s, ms, us, ns"),
    "no time": (whole, {}, "bad_manifest", "give rate_hz or time_column"),
    "both times": (whole, TIME | {"rate_hz": "50"}, "bad_manifest", "not both"),
    "rate": (whole, {"rate_hz": "fast"}, "bad_manifest", "rate_hz 'fast' is not a number"),
    "negative rate": (whole, {"rate_hz": "-5"}, "bad_manifest", "is not above 0"),
    "column": (whole, TIME | {"acc_columns": "ax ay az"}, "no_column", "no column 'ax', only time acc_x"),
    "two columns": (whole, TIME | {"acc_columns": "acc_x acc_y"}, "bad_manifest", "are not three"),
    "format": (lambda f: (f / "a.xyz").write_text("x"), {"imu": "a.xyz"}, "unknown_format", "is none of .csv"),
    "npy": (lambda f: (f / "a.npy").write_bytes(b"\x93NUMPY"), {"imu": "a.npy"}, "unreadable", "cannot be read"),
    "mat": (lambda f: (f / "a.mat").write_bytes(b"x" * 200), {"imu": "a.mat"}, "unreadable", "cannot be read"),
    "parquet": (lambda f: (f / "a.parquet").write_bytes(b"x" * 99), {"imu": "a.parquet"}, "unreadable", "cannot be"),
    "video": (whole, TIME | {"video": "a.mp4"}, "missing", "there is no such video"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line_that_names_the_file(tmp_path, mistake):
    write, row, reason, message = MISTAKES[mistake]
    write(tmp_path)
    with pytest.raises(RecordingError) as error:
        open_one(tmp_path, row)
    assert error.value.reason == reason
    assert message in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_arrays_of_objects_are_not_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[print]], dtype=object), allow_pickle=True)
    with pytest.raises(RecordingError, match="cannot be read"):
        open_one(tmp_path, {"imu": "a.npy", "rate_hz": "50"})


def test_variable_of_a_mat_file_is_asked_for_where_there_are_several(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"left": VALUES, "right": VALUES})
    with pytest.raises(RecordingError, match="name the variable to read as 'key': left right"):
        open_one(tmp_path, {"imu": "a.mat", "rate_hz": "100"})
    with pytest.raises(RecordingError, match="there is no variable 'middle', only left right"):
        open_one(tmp_path, {"imu": "a.mat", "rate_hz": "100", "key": "middle"})
    assert open_one(tmp_path, {"imu": "a.mat", "rate_hz": "100", "key": "left"}).streams[0].gyro is not None


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"subject": "Eva"}, "its rows disagree on subject: Ada / Eva"),
        ({"video": "b.mp4"}, "its rows disagree on video"),
        ({"imu": "b.csv"}, "two files give the acc at 'wrist'"),
    ],
)
def test_rows_of_a_recording_that_contradict_each_other(tmp_path, second, message):
    write_csv(tmp_path / "a.csv", COLUMNS)
    write_csv(tmp_path / "b.csv", COLUMNS)
    write_video(tmp_path / "a.mp4", 50)
    first = {"recording": "a", "imu": "a.csv", "video": "a.mp4", "subject": "Ada", "position": "wrist"} | TIME
    manifest = write_manifest(tmp_path / "m.csv", [first, first | second])
    source = PairedSource(PairedConfig(manifest=str(manifest)))
    with pytest.raises(RecordingError, match=message) as error:
        source.open(source.list()[0])
    assert error.value.reason == "conflicting_rows"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column 'recording'"),
        ("recording,imu\n", "lists no recording"),
        ("recording,imu,postion\na,b,c\n", "unknown column 'postion'"),
        ("recording,imu\na\n", "line 2 does not have the 2 cells"),
        ("recording,imu\na,\n", "line 2 names no recording or no imu file"),
    ],
)
def test_manifests_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        PairedSource(PairedConfig(manifest=str(tmp_path / "m.csv"))).list()
    with pytest.raises(UserError, match="there is no such manifest"):
        PairedSource(PairedConfig(manifest=str(tmp_path / "other.csv"))).list()
