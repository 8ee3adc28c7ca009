"""Public data sets: the official layout gives a manifest, the manifest SI streams on the clock of the video."""

from __future__ import annotations

import csv
import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from imuvid.errors import UserError
from shards.sources.base import Recording
from shards.sources.layouts import LAYOUTS, write_manifest
from shards.sources.paired import PairedConfig, PairedSource
from tests.shards.sources.layouts import official

CONFIGS = Path(__file__).parents[4] / "configs" / "shards"
G = 9.80665


def recordings_of(layout: str, manifest: Path) -> dict[str, Recording]:
    """Open all recordings of a manifest with the example config of its layout."""
    example = OmegaConf.load(CONFIGS / f"{layout}.yaml").source.paired
    config = OmegaConf.merge(OmegaConf.structured(PairedConfig), example, {"manifest": str(manifest)})
    source = PairedSource(OmegaConf.to_object(config))
    return {ref.name: source.open(ref) for ref in source.list()}


def spans(recording: Recording) -> list[tuple[float, float, str]]:
    return [(segment.start_s, segment.end_s, segment.label) for segment in recording.segments]


def near(values: list[float]) -> object:
    return pytest.approx(np.array(values), rel=1e-6, abs=1e-9)


# UESTC-MMEA-CL


def uestc(root: Path) -> None:
    official.write_uestc_clip(root, "27_open_close_door", "27_open_close_door_2022_05_05_16_05_51", 8192)
    official.write_uestc_clip(root, "5_reading", "5_reading_2020_12_22_16_21_49", 16384)


def test_uestc_counts_become_si_by_the_sensitivity_at_which_gravity_is_1_g(tmp_path):
    uestc(tmp_path / "data")
    assert write_manifest("uestc_mmea_cl", tmp_path / "data", tmp_path / "m.csv") == 2
    found = recordings_of("uestc_mmea_cl", tmp_path / "m.csv")
    for name, sensitivity, label in (
        ("27_open_close_door_2022_05_05_16_05_51", 8192, "open_close_door"),
        ("5_reading_2020_12_22_16_21_49", 16384, "reading"),
    ):
        recording = found[name]
        assert recording.subject is None
        assert spans(recording) == [(0.0, pytest.approx(6.0), label)]
        assert recording.camera_position == "head"
        (stream,) = recording.streams
        assert stream.position == "head"
        assert stream.acc.values[100] == near([0.0, 100 / sensitivity * G, G])
        assert stream.gyro.values[100] == near([math.radians(10), 0.0, -math.radians(5)])
        assert stream.acc.times_s[100] == pytest.approx(4.0)
        assert stream.acc_range == pytest.approx(32767 / sensitivity * G, rel=1e-4)
        assert stream.gyro_range == pytest.approx(math.radians(32767 / 16.4), rel=1e-4)


def test_uestc_clip_that_feels_no_gravity_is_left_out(tmp_path, caplog):
    uestc(tmp_path)
    official.write_uestc_clip(tmp_path, "5_reading", "5_reading_dead", 300)
    with caplog.at_level(logging.WARNING):
        assert write_manifest("uestc_mmea_cl", tmp_path, tmp_path / "m.csv") == 2
    assert "left out 1, such as 5_reading_dead: the sensor file cannot be used (implausible_acc)" in caplog.text


# WEAR


def wear(root: Path) -> None:
    official.write_wear_session(root, 3, [("null", 1), ("jogging", 2), ("", 1), ("push-ups (complex)", 2)])
    official.write_wear_session(root, 18, [("null", 2), ("burpees", 2)])


def test_wear_limbs_labels_and_people(tmp_path):
    wear(tmp_path / "data")
    assert write_manifest("wear", tmp_path / "data", tmp_path / "m.csv") == 2
    found = recordings_of("wear", tmp_path / "m.csv")
    recording = found["sbj_3"]
    assert recording.subject == "sbj_3"
    assert found["sbj_18"].subject == "sbj_0"  # recorded again
    assert recording.camera_position is None
    assert recording.duration_s == pytest.approx(6.0)
    assert spans(recording) == [(1.0, 3.0, "jogging"), (4.0, 6.0, "push-ups (complex)")]
    expected = {
        "right_wrist": [0.5 * G, 0.0, G],
        "right_ankle": [0.0, G, 0.0],
        "left_ankle": [-G, 0.0, 0.0],
        "left_wrist": [0.0, 0.0, -G],
    }
    assert {stream.position for stream in recording.streams} == set(expected)
    for stream in recording.streams:
        assert stream.gyro is None
        assert stream.acc.values[-1] == near(expected[stream.position])
        assert stream.acc.times_s[[0, 50]] == near([0.0, 1.0])
        assert stream.acc_range == pytest.approx(8 * G)


def test_wear_session_without_labels_has_no_segment(tmp_path):
    official.write_wear_session(tmp_path, 4, [("null", 2)])
    write_manifest("wear", tmp_path, tmp_path / "m.csv")
    assert recordings_of("wear", tmp_path / "m.csv")["sbj_4"].segments == []


def test_wear_file_of_other_columns_is_left_out(tmp_path, caplog):
    wear(tmp_path)
    path = tmp_path / "raw" / "inertial" / "50hz" / "sbj_18.csv"
    path.write_text(path.read_text().replace("left_leg_acc_y", "left_leg_y", 1))
    with caplog.at_level(logging.WARNING):
        assert write_manifest("wear", tmp_path, tmp_path / "m.csv") == 1
    assert "such as sbj_18: the sensor file has no column 'left_leg_acc_y'" in caplog.text


# Turning in place


def turning(root: Path) -> None:
    official.write_turning_trial(root, 1, 1, [(2, 3), (5, 8)])
    official.write_turning_trial(root, 1, 2, [])
    official.write_turning_trial(root, 35, 1, [(0, 8)])
    (root / "IMU" / "SUB01_standing.txt").write_bytes((root / "IMU" / "SUB01_1.txt").read_bytes())


def test_turning_trials_and_freezing(tmp_path):
    turning(tmp_path / "data")
    assert write_manifest("turning_in_place", tmp_path / "data", tmp_path / "m.csv") == 3
    found = recordings_of("turning_in_place", tmp_path / "m.csv")
    assert {name: recording.subject for name, recording in found.items()} == {
        "PDFE01_1": "PDFE01",
        "PDFE01_2": "PDFE01",
        "PDFE35_1": "PDFE35",
    }
    recording = found["PDFE01_1"]
    labels = ["no_freeze", "freeze", "no_freeze", "freeze"]
    edges = [0.0, 2.0, 3.0, 5.0, 8.0]
    assert spans(recording) == [*zip(edges[:-1], edges[1:], labels, strict=True)]
    assert spans(found["PDFE01_2"]) == [(0.0, 8.0, "no_freeze")]
    assert spans(found["PDFE35_1"]) == [(0.0, 8.0, "freeze")]
    (stream,) = recording.streams
    assert stream.position == "shank"
    assert recording.camera_position is None
    assert stream.acc.values[5] == near([0.1 * G, -0.2 * G, G])
    assert stream.gyro.values[5] == near([0.0, math.radians(0.5), math.pi / 2])
    assert stream.acc.times_s[[0, 128]] == near([0.0, 1.0])


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("Freezing event [flag]", "FOG", "has not the columns Frame #, Time [s]"),
        ("1.0000\t0.0000", "1,0000\t0,0000", "no table of numbers separated by tabs"),
        ("90.0000\t0", "90.0000\t2", "something else than 0 and 1"),
        ("\t1.0000\t0.1000", "\t1.5000\t0.1000", "time stamps do not go on by 1/128 s"),
    ],
)
def test_turning_file_that_is_otherwise_is_left_out(tmp_path, caplog, old, new, line):
    turning(tmp_path)
    path = tmp_path / "IMU" / "SUB35_1.txt"
    text = path.read_text()
    if "90.0000" in old:
        text = text.replace("90.0000\t1", "90.0000\t0")
    assert old in text
    path.write_text(text.replace(old, new))
    with caplog.at_level(logging.WARNING):
        assert write_manifest("turning_in_place", tmp_path, tmp_path / "m.csv") == 2
    assert "left out 1, such as PDFE35_1: the" in caplog.text
    assert line in caplog.text


# CMU-MMAC


def cmu(root: Path) -> None:
    official.write_cmu_session(root, "S07_Brownie")
    official.write_cmu_session(root, "S28_Eggs", first_frame=1, gravity=G)


@pytest.mark.parametrize("session", ["S07_Brownie", "S28_Eggs"])
def test_cmu_clock_and_unit(tmp_path, session):
    cmu(tmp_path / "data")
    assert write_manifest("cmu_mmac", tmp_path / "data", tmp_path / "m.csv") == 2
    recording = recordings_of("cmu_mmac", tmp_path / "m.csv")[session]
    assert recording.subject == session[:3]
    assert recording.duration_s == pytest.approx(6.0)
    assert [label for _, _, label in spans(recording)] == [session[4:].lower()]
    assert sorted(stream.position for stream in recording.streams) == [
        "back",
        "left_arm",
        "left_leg",
        "right_arm",
        "right_leg",
    ]
    for stream in recording.streams:
        assert stream.gyro is None
        assert np.median(stream.acc.values, axis=0) == pytest.approx([0.0, 0.0, G], rel=1e-4)
        knock = int(np.argmax(stream.acc.values[:, 0]))
        assert stream.acc.values[knock, 0] == pytest.approx(4 * G, rel=1e-4)
        assert stream.acc.times_s[knock] == pytest.approx(2.0, abs=0.005)
        assert stream.acc.times_s[0] <= -12.0  # the sensors run before the camera
        assert np.diff(stream.acc.times_s)[19] == pytest.approx(2 / 125)  # a lost packet leaves a gap
        assert np.delete(np.diff(stream.acc.times_s), 19) == pytest.approx(1 / 125, abs=1e-6)


def test_cmu_sensor_whose_unit_gravity_does_not_tell_is_left_out(tmp_path, caplog):
    official.write_cmu_session(tmp_path, "S07_Brownie")
    back = tmp_path / "S07_Brownie_3DMGX1" / "2795_01-30_16_30_49-time.txt"
    back.write_text(back.read_text().replace("\t1.0000\t", "\t512.0000\t"))
    (tmp_path / "S07_Brownie_3DMGX1" / "2796_01-30_16_30_49-time.txt").unlink()
    with caplog.at_level(logging.WARNING):
        assert write_manifest("cmu_mmac", tmp_path, tmp_path / "m.csv") == 1
    assert "S07_Brownie back: the median of |acc| is gravity neither in g nor in m/s2" in caplog.text
    assert "S07_Brownie left_leg: there are 0 files like 2796_*-time*.txt" in caplog.text
    positions = [stream.position for stream in recordings_of("cmu_mmac", tmp_path / "m.csv")["S07_Brownie"].streams]
    assert sorted(positions) == ["left_arm", "right_arm", "right_leg"]


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda folder: (folder / "STime7150991-time-synch.txt").unlink(), "0 files STime7150991-time"),
        (lambda folder: (folder / "STime7150991-time-synch.txt").write_text("FRAME:1 16_31_01_0\n"), "no frame of the"),
        (lambda folder: shutil.rmtree(folder), "there are 0 videos of camera 7150991"),
    ],
)
def test_cmu_session_without_the_time_of_its_first_frame_is_left_out(tmp_path, caplog, spoil, line):
    cmu(tmp_path)
    spoil(tmp_path / "S07_Brownie_Video")
    with caplog.at_level(logging.WARNING):
        assert write_manifest("cmu_mmac", tmp_path, tmp_path / "m.csv") == 1
    assert "left out 1, such as S07_Brownie: " in caplog.text
    assert line in caplog.text


# What all have in common

MAKE: dict[str, Callable[[Path], None]] = {
    "uestc_mmea_cl": uestc,
    "wear": wear,
    "turning_in_place": turning,
    "cmu_mmac": cmu,
}


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_root_that_is_missing_empty_or_another_is_one_line(tmp_path, layout):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other" / "images").mkdir(parents=True)
    for root in ("missing", "empty", "other"):
        with pytest.raises(UserError) as error:
            write_manifest(layout, tmp_path / root, tmp_path / "m.csv")
        assert "\n" not in str(error.value)
        assert str(error.value).startswith(f"{tmp_path / root}: ")
    assert not (tmp_path / "m.csv").exists()


@pytest.mark.parametrize("layout", sorted(MAKE))
def test_partial_download_gives_what_is_complete(tmp_path, caplog, layout):
    MAKE[layout](tmp_path / "data")
    whole = write_manifest(layout, tmp_path / "data", tmp_path / "whole.csv")
    videos = sorted(path for path in (tmp_path / "data").rglob("*") if path.suffix in (".mp4", ".avi"))
    videos[0].unlink()
    with caplog.at_level(logging.WARNING):
        assert write_manifest(layout, tmp_path / "data", tmp_path / "part.csv") == whole - 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "left out 1, such as" in caplog.text
    for video in videos[1:]:
        video.unlink()
    with pytest.raises(UserError, match=f"left out {whole}, such as") as error:
        write_manifest(layout, tmp_path / "data", tmp_path / "none.csv")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("layout", sorted(MAKE))
@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe" * 999, b"\n\n\n", b"a,b\n1,2\n", b"1,2,3,4,5,6\n"])
def test_damaged_sensor_file_costs_itself_alone(tmp_path, caplog, layout, content):
    MAKE[layout](tmp_path / "data")
    whole = write_manifest(layout, tmp_path / "data", tmp_path / "m.csv")
    rows = (tmp_path / "m.csv").read_text().count("\n")
    sensors = [path for path in (tmp_path / "data").rglob("*.*") if path.suffix in (".csv", ".txt")]
    sensor = min(path for path in sensors if path.parent.name != "IMU" or path.suffix == ".txt")
    sensor.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        left = write_manifest(layout, tmp_path / "data", tmp_path / "m.csv")
    assert left == (whole if layout == "cmu_mmac" else whole - 1)  # there, one sensor of five
    assert (tmp_path / "m.csv").read_text().count("\n") == rows - (4 if layout == "wear" else 1)
    assert "left out 1, such as" in caplog.text


def test_unknown_layout_names_the_known(tmp_path):
    with pytest.raises(UserError, match=r"'kinetics' is no layout .* wear"):
        write_manifest("kinetics", tmp_path, tmp_path / "m.csv")


def test_manifest_that_cannot_be_written_is_one_line(tmp_path):
    uestc(tmp_path / "data")
    with pytest.raises(UserError, match="cannot be written"):
        write_manifest("uestc_mmea_cl", tmp_path / "data", tmp_path / "no_such" / "m.csv")


def test_manifest_is_the_same_when_written_again(tmp_path):
    turning(tmp_path / "data")
    contents = []
    for _ in range(2):
        write_manifest("turning_in_place", tmp_path / "data", tmp_path / "m.csv")
        with (tmp_path / "m.csv").open() as file:
            contents.append(list(csv.reader(file)))
    assert contents[0] == contents[1]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["data", "m.csv", "m_files"]
