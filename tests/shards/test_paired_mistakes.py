"""The paired source: every mistake in a manifest or in a file gives one clear line that says where."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.io

from imuvid.errors import UserError
from shards.sources.base import RecordingError
from shards.sources.paired import PairedConfig, PairedSource
from tests.shards.recordings import write_csv, write_manifest, write_video
from tests.shards.test_paired import COLUMNS, ISO, TIME, VALUES, open_one
from tests.soak import times


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


def npy(folder):
    np.save(folder / "a.npy", np.column_stack([COLUMNS["time"], VALUES]))


def since_1970(folder):
    write_csv(folder / "a.csv", COLUMNS | {"time": COLUMNS["time"] + 1_600_000_000})


def dates(first, zone="", lost=None):
    """Write a file whose times are text: the first, then as many of each centisecond as there are samples."""

    def write(folder):
        path = write_csv(folder / "a.csv", COLUMNS)
        lines = path.read_text().splitlines()
        for row in range(1, len(lines)):
            stamp = "" if row == lost else f"{first}.{row - 1:03d}{zone}"
            lines[row] = ",".join([stamp, *lines[row].split(",")[1:]])
        path.write_text("\n".join(lines))

    return write


COMMA = "time;acc_x;acc_y;acc_z\n0;0,5;1;9\n1;0,5;1;9\n"
TXT = TIME | {"imu": "a.txt"}
NPY = {"time_column": "0", "acc_columns": "1 2 3"}
START = {"video_start": "2024-05-17T10:30:00Z"}
MISTAKES = {
    "missing file": (lambda folder: None, TIME, "missing", "there is no such IMU file"),
    "empty file": (lambda folder: (folder / "a.csv").touch(), TIME, "empty", "is empty"),
    "text in numbers": (spoil("a.csv", 7, 2, "abc"), TIME, "not_a_number", "'abc' in row 7 of column 'acc_y'"),
    "NaN in time": (spoil("a.csv", 7, 0, "NaN"), TIME, "bad_time", "row 7 has no time stamp"),
    "time backwards": (spoil("a.csv", 7, 0, "0.01"), TIME, "time_backwards", "goes backwards in row 7"),
    "cut line": (spoil("a.csv", 200, 0, "1,2"), TIME, "unreadable", "cannot be read"),
    "acc unit": (whole, TIME | {"acc_unit": "gees"}, "bad_unit", "acc_unit 'gees' is none of m/s2"),
    "gyro unit": (whole, TIME | {"gyro_unit": "g"}, "bad_unit", "gyro_unit 'g' is none of rad/s"),
    "time unit": (whole, TIME | {"time_unit": "min"}, "bad_unit", "time_unit 'min' is none of s, ms, us, ns, iso"),
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
    "mat 7.3": (
        lambda f: (f / "a.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(400)),
        {"imu": "a.mat"},
        "unreadable",
        "version 7.3: save it with '-v7'",
    ),
    "binary": (lambda f: (f / "a.csv").write_bytes(bytes(range(256)) * 9), TIME, "unreadable", "cannot be read"),
    "only comments": (lambda f: (f / "a.csv").write_text("# a\n% b\n"), TIME, "empty", "nothing but comments"),
    "all skipped": (whole, TIME | {"skip_rows": "300"}, "empty", "300 lines to skip"),
    "skip rows": (whole, TIME | {"skip_rows": "1.5"}, "bad_manifest", "skip_rows 1.5 is no number of lines"),
    "decimal comma": (
        lambda f: (f / "a.txt").write_text(COMMA),
        TXT,
        "not_a_number",
        "'0,5' in row 1 of column 'acc_x'",
    ),
    "sensitivity": (whole, TIME | {"acc_sensitivity": "0"}, "bad_manifest", "acc_sensitivity 0 is not above 0"),
    "sensitivity text": (
        whole,
        TIME | {"gyro_sensitivity": "x"},
        "bad_manifest",
        "gyro_sensitivity 'x' is not a number",
    ),
    "range": (whole, TIME | {"gyro_range": "-2000"}, "bad_manifest", "gyro_range -2000 is not above 0"),
    "axes": (whole, TIME | {"axes": "x x z"}, "bad_axes", "axes 'x x z' are not x, y and z"),
    "axes number": (whole, TIME | {"axes": "x y"}, "bad_axes", "axes 'x y' are not x, y and z"),
    "reflection": (
        whole,
        TIME | {"axes": "y x z"},
        "bad_axes",
        "is a reflection: check the signs, or set left_handed yes",
    ),
    "no reflection": (whole, TIME | {"left_handed": "yes"}, "bad_axes", "is a rotation: check the signs"),
    "camera": (whole, TIME | {"camera": "maybe"}, "bad_manifest", "camera 'maybe' is neither yes nor no"),
    "dates as numbers": (
        dates("2024-05-17T10:30:00"),
        TIME,
        "not_a_number",
        "holds dates, not numbers: set time_unit iso",
    ),
    "dates alone": (dates("2024-05-17T10:30:00"), ISO, "bad_time", "its times are dates: set video_start"),
    "numbers as dates": (whole, ISO | START, "bad_time", "column 'time' holds double, no dates and times"),
    "array of dates": (npy, ISO | START | {"imu": "a.npy"} | NPY, "bad_time", "holds no text"),
    "no date": (dates("today"), ISO | START, "bad_time", "row 1 of column 'time': 'today"),
    "lost date": (
        dates("2024-05-17T10:30:00", lost=5),
        ISO | START,
        "bad_time",
        "row 5 of column 'time' has no time stamp",
    ),
    "date of no month": (dates("2024-13-17 10:30:00"), ISO | START, "bad_time", "is no date and time that exists"),
    "zone": (dates("2024-05-17T10:30:00"), ISO | START, "bad_time", "only video_start counts from a known time zone"),
    "no zone": (
        dates("2024-05-17T10:30:00", "Z"),
        ISO | {"video_start": "2024-05-17 10:30:00"},
        "bad_time",
        "only its time stamps count from a known time zone",
    ),
    "start": (whole, TIME | {"video_start": "noon"}, "bad_time", "video_start: 'noon' is no date and time"),
    "start in ms": (whole, TIME | {"video_start": "1715941800000"}, "bad_time", "too large for seconds since 1970"),
    "start of others": (whole, TIME | START, "bad_time", "s after the video: check time_unit"),
    "since 1970": (since_1970, TIME, "bad_time", "set video_start where the time stamps count from 1970"),
    "label twice": (whole, TIME | {"label": "a", "segments": "s.csv"}, "bad_manifest", "a label or segments, not both"),
    "no segments": (whole, TIME | {"segments": "s.csv"}, "missing", "there is no such segments file"),
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


def test_bytes_overwritten_anywhere_give_a_recording_or_a_clean_error(tmp_path):
    """Of text, dates and segments: whatever is wrong, it is said by a RecordingError in one line."""
    dates("2024-05-17T10:30:00", "Z")(tmp_path)
    files = {tmp_path / "a.csv": b"", tmp_path / "s.csv": b"start_s,end_s,label\n0,0.05,sit\n0.05,0.1,walk\n"}
    files[tmp_path / "a.csv"] = (tmp_path / "a.csv").read_bytes()[:2000].rpartition(b"\n")[0]
    generator = np.random.default_rng(0)
    outcomes = set()
    for _ in range(times(300, 5000)):
        for path, content in files.items():
            damaged = bytearray(content)
            for _ in range(generator.integers(3)):
                damaged[generator.integers(len(damaged))] = generator.choice(
                    [*b'\0\n\r,;"#-.9 Z', generator.integers(256)]
                )
            path.write_bytes(damaged)
        try:
            recording = open_one(tmp_path, ISO | START | {"segments": "s.csv"})
        except RecordingError as error:
            outcomes.add(error.reason if "\n" not in str(error) else "several lines")
        else:
            (stream,) = recording.streams  # one sensor is left where the header of the other is damaged
            outcomes.add("read" if len((stream.acc or stream.gyro).times_s) > 1 else "nothing")
    assert not {"several lines", "nothing"} & outcomes
    assert {"read", "bad_time", "bad_segments"} <= outcomes


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


def test_sensors_of_two_positions_are_not_both_on_the_camera(tmp_path):
    write_csv(tmp_path / "a.csv", COLUMNS)
    common = {"recording": "a", "imu": "a.csv", "camera": "yes"} | TIME
    manifest = write_manifest(tmp_path / "m.csv", [common | {"position": "head"}, common | {"position": "wrist"}])
    source = PairedSource(PairedConfig(manifest=str(manifest)))
    with pytest.raises(RecordingError, match="fix sensors at 'head' and 'wrist' to the camera"):
        source.open(source.list()[0])


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
