"""The paired source: every kind of IMU file gives the same recording; every mistake gives one clear line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
from omegaconf import OmegaConf
from scipy.spatial.transform import Rotation

from shards.sources.paired import PairedConfig, PairedSource
from tests.shards.recordings import imu_columns, write_csv, write_manifest, write_video

REPOSITORY = Path(__file__).parents[2]
COLUMNS = imu_columns(2.0)
TIME = {"time_column": "time"}
ISO = TIME | {"time_unit": "iso"}
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


def test_the_sensor_fixed_to_the_camera_is_known(tmp_path):
    write_csv(tmp_path / "a.csv", COLUMNS)
    common = {"recording": "a", "imu": "a.csv"} | TIME
    rows = [common | {"position": "head", "camera": "Yes"}, common | {"position": "wrist", "camera": "no"}]
    source = PairedSource(PairedConfig(manifest=str(write_manifest(tmp_path / "m.csv", rows))))
    assert source.open(source.list()[0]).camera_position == "head"
    assert open_one(tmp_path, TIME).camera_position is None
    assert open_one(tmp_path, TIME, position="chest", camera=True).camera_position == "chest"


def test_raw_counts_and_ranges(tmp_path):
    counts = {name: np.round(column * 1000).astype(np.int64) for name, column in COLUMNS.items()}
    write_csv(tmp_path / "a.csv", counts | {"time": COLUMNS["time"]})
    row = {"acc_unit": "g", "acc_sensitivity": "16384", "gyro_unit": "deg/s", "gyro_sensitivity": "16.4"}
    (stream,) = open_one(tmp_path, TIME | row | {"acc_range": "2", "gyro_range": "2000"}).streams
    raw = np.stack([counts[name] for name in list(counts)[1:]], axis=1)
    np.testing.assert_allclose(stream.acc.values, raw[:, :3] / 16384 * 9.80665)
    np.testing.assert_allclose(stream.gyro.values, np.deg2rad(raw[:, 3:] / 16.4))
    assert stream.acc_range == pytest.approx(2 * 9.80665)
    assert stream.gyro_range == pytest.approx(np.deg2rad(2000))
    assert open_one(tmp_path, TIME).streams[0].acc_range is None


def test_axes_turn_both_sensors_as_a_rotation_matrix_does(tmp_path):
    write_csv(tmp_path / "a.csv", COLUMNS)
    (stream,) = open_one(tmp_path, TIME | {"axes": "-y x z"}).streams
    turn = Rotation.from_euler("z", 90, degrees=True)
    np.testing.assert_allclose(stream.acc.values, turn.apply(VALUES[:, :3]), atol=1e-12)
    np.testing.assert_allclose(stream.gyro.values, turn.apply(VALUES[:, 3:]), atol=1e-12)
    (mirrored,) = open_one(tmp_path, TIME | {"axes": "-x -y -z", "left_handed": "yes"}).streams
    np.testing.assert_allclose(mirrored.acc.values, -VALUES[:, :3])


def test_sensors_of_one_position_in_files_of_their_own_rate_and_unit(tmp_path):
    acc, gyro = imu_columns(2.0, 128.0), imu_columns(2.0, 400.0)
    write_csv(tmp_path / "acc.csv", {name: acc[name] for name in ("time", "acc_x", "acc_y", "acc_z")})
    np.save(tmp_path / "gyro.npy", np.stack([gyro[f"gyro_{axis}"] for axis in "xyz"], axis=1))
    common = {"recording": "a", "position": "shank"}
    rows = [
        common | {"imu": "acc.csv", "time_column": "time", "acc_unit": "mg", "axes": "y z x", "offset_s": "0.5"},
        common | {"imu": "gyro.npy", "rate_hz": "400", "gyro_columns": "0 1 2", "gyro_unit": "dps"},
    ]
    source = PairedSource(PairedConfig(manifest=str(write_manifest(tmp_path / "m.csv", rows))))
    (stream,) = source.open(source.list()[0]).streams
    np.testing.assert_allclose(stream.acc.times_s, acc["time"] + 0.5)
    np.testing.assert_allclose(stream.acc.values[:, 0], acc["acc_y"] * 9.80665e-3)
    np.testing.assert_allclose(stream.gyro.times_s, gyro["time"])
    np.testing.assert_allclose(stream.gyro.values[:, 0], np.deg2rad(gyro["gyro_x"]))


STARTS = ["1715941800.25", "2024-05-17T10:30:00.25Z", "2024-05-17 12:30:00,25+02:00", "2024-05-17T06:00:00.250-0430"]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9), ("iso", 10**9)])
def test_absolute_times_count_from_the_start_of_the_video(tmp_path, start, unit, factor):
    late_s = COLUMNS["time"] + 0.75
    stamps = 1715941800 * factor + np.round(late_s * factor).astype(np.int64)
    if unit == "s":
        stamps = 1715941800 + late_s
    if unit == "iso":
        stamps = np.array([f"{stamp}Z" for stamp in stamps.astype("datetime64[ns]")])
    write_csv(tmp_path / "a.csv", COLUMNS | {"time": stamps})
    (stream,) = open_one(tmp_path, TIME | {"time_unit": unit, "video_start": start, "offset_s": "-0.1"}).streams
    tolerance_s = 1e-6 if unit == "s" else 1e-9
    np.testing.assert_allclose(stream.acc.times_s, COLUMNS["time"] + 0.4, rtol=0, atol=tolerance_s)


def test_dates_of_mixed_length_and_of_other_types_are_read(tmp_path):
    whole_s = np.arange(200) * 0.5
    texts = [f"2024-05-17 10:{int(s) // 60:02d}:{s % 60:04.1f}".removesuffix(".0") for s in whole_s]
    write_csv(tmp_path / "a.csv", COLUMNS | {"time": np.array(texts)})
    table = pa.table(COLUMNS | {"time": np.array(texts, dtype="datetime64[us]")})
    pq.write_table(table, tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        (stream,) = open_one(tmp_path, ISO | {"imu": name, "video_start": "2024-05-17 10:00:00"}).streams
        np.testing.assert_allclose(stream.acc.times_s, whole_s)


def test_segments_label_stretches(tmp_path):
    write_csv(tmp_path / "a.csv", COLUMNS)
    (tmp_path / "s.csv").write_text("start_s,end_s,label,by\n1.0,1.5,sit,me\n0,1.0,walk,me\n")
    recording = open_one(tmp_path, TIME | {"segments": "s.csv"})
    assert [(s.start_s, s.end_s, s.label) for s in recording.segments] == [(0, 1, "walk"), (1, 1.5, "sit")]
    manifest = tmp_path / "m.csv"
    (ref,) = PairedSource(PairedConfig(manifest=str(manifest))).list()
    assert str(tmp_path / "s.csv") in ref.payload["files"], "a changed file is read again"


def test_the_example_config_fits_the_dataclass():
    text = (REPOSITORY / "configs" / "shards" / "paired.yaml").read_text()
    words = OmegaConf.to_container(OmegaConf.create(text).source.paired)
    assert OmegaConf.merge(OmegaConf.structured(PairedConfig), words).manifest == "recordings.csv"
