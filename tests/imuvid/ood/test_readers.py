"""HAPT and Daphnet in their published formats, and files that are not as published."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from imuvid.errors import UserError
from imuvid.ood.datasets.daphnet import DaphnetConfig, read_daphnet
from imuvid.ood.datasets.hapt import HAPTConfig, read_hapt
from tests.imuvid.ood.fakes import SEGMENT, write_daphnet, write_hapt


@pytest.mark.parametrize("packed", [False, True])
def test_hapt_windows_lie_inside_segments_in_si_units(tmp_path, packed):
    write_hapt(tmp_path / "hapt", num_subjects=2, packed=packed)
    windows = read_hapt(HAPTConfig(str(tmp_path / "hapt")), rate_hz=50.0, window_s=3.0)
    assert windows.imu.shape == (2 * 6 * 2, 150, 1, 6)  # 8 s segments hold 2 windows of 3 s
    assert windows.imu.dtype == np.float32
    assert windows.valid.all()
    assert np.linalg.norm(windows.imu[..., :3], axis=-1).mean() == pytest.approx(9.8, abs=0.5)
    assert np.abs(windows.imu[..., 3:]).max() == pytest.approx(0.5, abs=0.25)
    assert np.bincount(windows.label).tolist() == [4] * 6
    assert windows.classes[0] == "walking"
    assert windows.start_s[:4].tolist() == [0.0, 3.0, 8.0, 11.0]
    assert len(set(windows.ids.tolist())) == len(windows.label)


def test_hapt_values_of_a_window_are_those_of_the_file(tmp_path):
    folder = write_hapt(tmp_path / "hapt", num_subjects=1)
    windows = read_hapt(HAPTConfig(str(folder)), rate_hz=50.0, window_s=2.0)
    acc = np.loadtxt(folder / "RawData/acc_exp01_user01.txt") * 9.80665
    gyro = np.loadtxt(folder / "RawData/gyro_exp01_user01.txt")
    for row in (0, 5, 23):
        first = round(windows.start_s[row] * 50)
        np.testing.assert_allclose(windows.imu[row, :, 0, :3], acc[first : first + 100], atol=1e-4)
        np.testing.assert_allclose(windows.imu[row, :, 0, 3:], gyro[first : first + 100], atol=1e-4)


def test_hapt_at_another_rate(tmp_path):
    write_hapt(tmp_path / "hapt", num_subjects=1)
    windows = read_hapt(HAPTConfig(str(tmp_path / "hapt")), rate_hz=20.0, window_s=2.0)
    assert windows.imu.shape == (24, 40, 1, 6)
    reference = read_hapt(HAPTConfig(str(tmp_path / "hapt")), rate_hz=50.0, window_s=2.0)
    mean = (array.imu[..., :3].mean(axis=(1, 2)) for array in (windows, reference))
    np.testing.assert_allclose(*mean, atol=0.2)


def damage(path, how):
    text = path.read_text()
    lines = text.splitlines()
    if how == "empty":
        path.write_text("")
    elif how == "column":
        path.write_text("\n".join(line.rsplit(" ", 1)[0] for line in lines))
    elif how == "short":
        path.write_text("\n".join(lines[:-100]))
    elif how == "word":
        path.write_text("\n".join([*lines[:50], "one two three", *lines[50:]]))
    elif how == "nan":
        path.write_text("\n".join([*lines[:50], "nan 0 0", *lines[51:]]))
    elif how == "missing":
        path.unlink()
    elif how == "unit":
        path.write_text("\n".join(" ".join(str(float(x) * 9.81) for x in line.split()) for line in lines))
    elif how == "truncated":
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(text.encode())[:-2000])
        path.unlink()
    elif how == "permuted":
        path.write_text("\n".join(" ".join(reversed(line.split())) for line in lines))


@pytest.mark.parametrize(
    ("file", "how", "message"),
    [
        ("acc_exp01_user01.txt", "empty", "the file is empty"),
        ("acc_exp01_user01.txt", "column", "2 columns, expected 3"),
        ("acc_exp01_user01.txt", "short", "2300 samples of acceleration but 2400"),
        ("acc_exp01_user01.txt", "word", "cannot be read"),
        ("acc_exp01_user01.txt", "nan", "line 51 holds a value that is not a finite number"),
        ("acc_exp01_user01.txt", "unit", "expected about 1 .g."),
        ("acc_exp01_user01.txt", "truncated", "cannot be read"),
        ("gyro_exp02_user02.txt", "missing", "gyro_exp02_user02.txt: the file is missing"),
        ("labels.txt", "permuted", "names exp400_user01, but there is no .* the columns are not experiment"),
        ("acc_exp02_user02.txt", "missing", "names exp02_user02, but there is no acc_exp02_user02.txt"),
        ("labels.txt", "empty", "labels.txt: the file is empty"),
        ("labels.txt", "missing", "labels.txt: the file is missing"),
    ],
)
def test_hapt_damaged_files_give_one_line(tmp_path, file, how, message):
    folder = write_hapt(tmp_path / "hapt", num_subjects=2)
    damage(folder / "RawData" / file, how)
    with pytest.raises(UserError, match=message) as caught:
        read_hapt(HAPTConfig(str(folder)), 50.0, 2.0)
    assert "\n" not in str(caught.value)


def test_hapt_labels_past_the_end_are_refused(tmp_path):
    folder = write_hapt(tmp_path / "hapt", num_subjects=1)
    labels = folder / "RawData/labels.txt"
    labels.write_text(labels.read_text() + f"1 1 1 {6 * SEGMENT} {6 * SEGMENT + 50}\n")
    with pytest.raises(UserError, match="labelled up to sample 2450, but its signals have only 2400"):
        read_hapt(HAPTConfig(str(folder)), 50.0, 2.0)


def test_windows_longer_than_every_segment_are_refused(tmp_path):
    write_hapt(tmp_path / "hapt", num_subjects=1)
    with pytest.raises(UserError, match="no window of 9 s of class 'walking'"):
        read_hapt(HAPTConfig(str(tmp_path / "hapt")), 50.0, 9.0)


def test_a_folder_that_is_not_given_or_not_there(tmp_path, monkeypatch):
    monkeypatch.delenv("IMUVID_REALDATA", raising=False)
    with pytest.raises(UserError, match=r"hapt\.root is not set"):
        read_hapt(HAPTConfig(), 50.0, 2.0)
    with pytest.raises(UserError, match=r"set daphnet.root to the folder"):
        read_daphnet(DaphnetConfig(str(tmp_path / "nowhere")), 50.0, 2.0)
    with pytest.raises(UserError, match=r"no file named like S01R01\.txt"):
        read_daphnet(DaphnetConfig(str(tmp_path)), 50.0, 2.0)


def test_daphnet_has_no_gyroscope_and_labels_by_share(tmp_path):
    folder = write_daphnet(tmp_path / "d")
    windows = read_daphnet(DaphnetConfig(str(folder)), rate_hz=50.0, window_s=2.0)
    assert windows.imu.shape[1:] == (100, 1, 6)
    assert windows.valid[..., 0].all()
    assert not windows.valid[..., 1].any()
    assert (windows.imu[..., 3:] == 0).all()
    assert windows.start_s.min() >= 5.0  # what is not part of the experiment is left out
    assert windows.positive == "freeze"
    # 10 s without, 5 s with freeze, again and again from 5 s on: the window from 15 s on is the first with freeze.
    first = windows.recording == windows.recording[0]
    frozen = dict(zip(windows.start_s[first].tolist(), windows.label[first].tolist(), strict=True))
    assert [frozen[s] for s in (5.0, 13.0, 15.0, 17.0, 21.0)] == [0, 0, 1, 1, 0]
    assert frozen[19.0] == 1  # half of it
    strict = read_daphnet(DaphnetConfig(str(folder), freeze_share=0.9), rate_hz=50.0, window_s=2.0)
    assert strict.label.sum() < windows.label.sum()


def test_daphnet_a_dead_sensor_is_marked_absent(tmp_path):
    folder = write_daphnet(tmp_path / "d", num_subjects=2)
    table = np.loadtxt(folder / "S02R01.txt", dtype=int)
    table[200:, 4:7] = 0
    np.savetxt(folder / "S02R01.txt", table, fmt="%d")
    both = read_daphnet(DaphnetConfig(str(folder), positions=["ankle", "thigh"]), 50.0, 2.0)
    second = both.subject == "S02"
    assert both.valid[~second][..., 0].all()
    assert both.valid[second][..., 0, 0].all()
    assert not both.valid[second][..., 1, 0].any()
    assert "S02R01 thigh" in both.provenance["dead_sensors"]
    alone = read_daphnet(DaphnetConfig(str(folder), positions=["thigh"]), 50.0, 2.0)
    assert set(alone.subject) == {"S01"}
    assert any(f"{second.sum()} windows are left out" in note for note in alone.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[:, ::-1], "the last column must be 0, 1 or 2"),
        (lambda t: np.delete(t, slice(100, 200), axis=0), "line 101: the time in the first column must advance"),
        (lambda t: np.delete(t, 3, axis=1), "10 columns, expected 11"),
        (lambda t: np.column_stack([t[:, :1], t[:, 1:10] // 100, t[:, 10:]]), "expected about 1000 .mg."),
    ],
)
def test_daphnet_files_that_are_not_as_published_give_one_line(tmp_path, change, message):
    folder = write_daphnet(tmp_path / "d", num_subjects=2)
    table = np.loadtxt(folder / "S02R01.txt", dtype=int)
    np.savetxt(folder / "S02R01.txt", change(table), fmt="%d")
    with pytest.raises(UserError, match=message) as caught:
        read_daphnet(DaphnetConfig(str(folder)), 50.0, 2.0)
    assert "S02R01" in str(caught.value)


def test_daphnet_wrong_settings(tmp_path):
    folder = write_daphnet(tmp_path / "d", num_subjects=1)
    with pytest.raises(UserError, match="choose from ankle, thigh, trunk"):
        read_daphnet(DaphnetConfig(str(folder), positions=["wrist"]), 50.0, 2.0)
    with pytest.raises(UserError, match="must lie between 0 and 1"):
        read_daphnet(DaphnetConfig(str(folder), freeze_share=1.5), 50.0, 2.0)
