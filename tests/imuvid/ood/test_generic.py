"""Own data by a YAML: the layouts that it knows, and mistakes in it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imuvid.errors import UserError
from imuvid.ood.datasets.catalog import CARDS
from imuvid.ood.datasets.generic import GenericConfig, read_generic
from imuvid.ood.datasets.public_windows import PublicConfig, read_public
from tests.imuvid.ood.official.writer import DEG, G, Writer, clock

REPOSITORY = Path(__file__).parents[3]
SENSOR = "sensors: [{position: left_wrist, acc: [ax, ay, az], acc_unit: g, gyro: [gx, gy, gz], gyro_unit: deg/s}]\n"
LAYOUT = "name: clinic\nfiles: '*/*.csv'\nrate_hz: 100\nsubject_from_name: '(P\\d+)/'\nlabel: state\n" + SENSOR


def write(folder, layout=LAYOUT, unit=1.0):
    """Two patients; 4 s of state 0, 4 s of 1, 2 s that are not labelled."""
    writer, truths = Writer(folder), {}
    for patient in ("P01", "P02"):
        acc, gyro = writer.motion(1000, 100)
        truths[patient] = acc, gyro
        columns = [clock(1000, 100) * 1000, acc * unit / G, gyro / DEG, np.repeat([0, 1, 9], [400, 400, 200])]
        writer.table(f"{patient}/visit.csv", columns, ["t_ms", "ax", "ay", "az", "gx", "gy", "gz", "state"])
    (folder / "dataset.yaml").write_text(layout)
    return truths


def read(folder, **settings):
    return read_generic(GenericConfig(str(folder), **settings), 50.0, 2.0)


def test_the_example_of_the_documentation_reads_what_it_describes(tmp_path):
    example = re.search(r"```yaml\n(.+?)```", (REPOSITORY / "docs/ood_datasets.md").read_text(), re.DOTALL)[1]
    truths = write(tmp_path, example)
    windows = read(tmp_path)
    assert (windows.name, windows.classes, windows.positive) == ("clinic", ["rest", "tremor"], "tremor")
    assert windows.subject.tolist() == ["P01"] * 4 + ["P02"] * 4
    assert windows.label.tolist() == [0, 0, 1, 1] * 2
    acc, gyro = truths["P02"]
    np.testing.assert_allclose(windows.imu[5, :, 0, :3], acc[200:400:2], atol=0.02)
    np.testing.assert_allclose(windows.imu[5, :, 0, 3:], gyro[200:400:2], atol=0.02)


def test_without_names_each_text_is_a_label(tmp_path):
    write(tmp_path)
    assert read(tmp_path).classes == ["0", "1", "9"]
    assert read(tmp_path, activities=["1", "0"]).classes == ["1", "0"]


def test_labels_and_people_may_stand_in_names_or_columns_and_time_in_a_column(tmp_path):
    writer = Writer(tmp_path)
    for label in ("walk", "sit"):
        acc, gyro = writer.motion(1200, 60)
        people = ["a"] * 600 + ["b"] * 600
        stamps = np.tile(clock(600, 60), 2) * 1e6
        table = {"who": people, "us": stamps, **{f"a{i}": acc[:, i] for i in range(3)}}
        table |= {f"g{i}": gyro[:, i] for i in range(3)}
        pq.write_table(pa.table(table), tmp_path / f"x_{label}.parquet")
    layout = (
        "name: p\nfiles: '*.parquet'\ntime: us\ntime_unit: us\nsubject: who\nlabel_from_name: '_(\\w+)\\.'\n"
        "sensors: [{position: waist, acc: [a0, a1, a2], gyro: [g0, g1, g2]}]\n"
    )
    path = tmp_path / "other.yaml"
    path.write_text(layout)
    windows = read(tmp_path, layout=str(path))
    assert windows.classes == ["sit", "walk"]
    assert sorted(set(windows.recording)) == [
        "x_sit.parquet#a",
        "x_sit.parquet#b",
        "x_walk.parquet#a",
        "x_walk.parquet#b",
    ]
    assert np.bincount(windows.label).tolist() == [8, 8]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("name: clinic\n", ""), "no value for name"),
        (("rate_hz: 100\n", ""), "give rate_hz, or time"),
        (("rate_hz: 100", "rate_hz: -1"), "must be above 0"),
        (("rate_hz: 100", "time: t_ms"), r"1 samples a second|published|samples a second"),
        (("rate_hz: 100", "time: t_ms\ntime_unit: h"), "time_unit=h: choose from s, ms, us, ns"),
        (("rate_hz: 100", "rate_hz: 25\ntime: t_ms\ntime_unit: ms"), "100 samples a second .* published are 25"),
        (("left_wrist", "left_rist"), "position 'left_rist' is unknown: .*left_wrist"),
        (("acc_unit: g", "acc_unit: G"), "units are m/s2"),
        (("acc_unit: g", "acc_unit: mg"), "gravity alone is 9.8: the file has another unit"),
        (("acc_unit: g", "acc_unit: m/s2"), "gravity alone is 9.8: the file has another unit"),
        (("gyro_unit: deg/s", "gyro_unit: rad/s"), r"angular rate .* another unit"),
        (("[gx, gy, gz]", "[gx, gy]"), "name three columns each"),
        (("gx, gy, gz", "gx, gy, wz"), "there is no column 'wz'"),
        (("label: state", "label: status"), "there is no column 'status'"),
        (("label: state\n", ""), "give either label, a column, or label_from_name"),
        (("subject_from_name: '(P\\d+)/'\n", ""), "give either subject, a column, or subject_from_name"),
        (("'(P\\d+)/'", "'P\\d+/'"), "has no group in parentheses"),
        (("'(P\\d+)/'", "'(P\\d+'"), "is no regular expression"),
        (("'(P\\d+)/'", "'(Q\\d+)/'"), "finds nothing in P01/visit.csv"),
        (("'*/*.csv'", "'*.csv'"), "no recording of clinic is there"),
        (("'*/*.csv'", "'*.yaml'"), "is not .csv"),
        (("label: state", "label: state\nlabels: {0: rest}\npositive: tremor"), "'tremor' is not among labels"),
        (("label: state", "lable: state"), "did you mean 'label'"),
    ],
)
def test_mistakes_give_one_line(tmp_path, change, message):
    assert change[0] in LAYOUT
    write(tmp_path, LAYOUT.replace(*change))
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def test_no_yaml_gives_one_line(tmp_path):
    write(tmp_path)
    (tmp_path / "dataset.yaml").unlink()
    with pytest.raises(UserError, match=r"dataset\.yaml: there is no such config file"):
        read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nonsense"])
@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_damaged_binary_files_give_one_line(tmp_path, ending, content):
    write(tmp_path, LAYOUT.replace(".csv", f".{ending}"))
    (tmp_path / f"P01/visit.{ending}").write_bytes(content)
    with pytest.raises(UserError, match=rf"visit\.{ending}: cannot be read"):
        read(tmp_path)


@pytest.mark.slow
def test_published_files_of_patients_by_a_yaml_are_what_their_own_reader_makes_of_them(realdata, tmp_path):
    layout = tmp_path / "dataset.yaml"
    layout.write_text(
        "name: own\nfiles: '*.npz'\ntime: time\nrate_hz: 128\nsubject_from_name: '__(pt\\d+)_'\n"
        "label: freeze_label\nlabels: {0: no_freeze, 1: freeze}\npositive: freeze\n"
        "sensors: [{position: lower_back, acc: [imu_lumbar_ax, imu_lumbar_ay, imu_lumbar_az],"
        " gyro: [imu_lumbar_gx, imu_lumbar_gy, imu_lumbar_gz]}]\n"
    )
    folder = str(realdata / "pd_stanford_fog")
    own = read_generic(GenericConfig(folder, layout=str(layout)), 50.0, 2.0)
    published = read_public(CARDS["stanford_fog"], PublicConfig(folder, partial=True), 50.0, 2.0)
    np.testing.assert_array_equal(own.imu, published.imu)
    np.testing.assert_array_equal(own.label, published.label)
    np.testing.assert_array_equal(own.subject, published.subject)
