"""SPAR in its published form, and files that are not what they should be."""

from __future__ import annotations

import os

import numpy as np
import pytest

from imuvid.errors import UserError
from imuvid.ood.datasets.spar import CHANNELS, SPARConfig, read_spar

EXERCISES = ["PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"]


def table(num_samples=330):
    """A table like the published one: 2 subjects x 7 exercises x 2 sides, a watch that points its x axis upwards."""
    rng = np.random.default_rng(0)
    rows = [(y, subject, side) for subject in (1, 2) for y in range(7) for side in (0.0, 1.0)]
    signals = []
    for y, _, _ in rows:
        signal = rng.normal(0, 0.02, (num_samples, 6))
        signal[:, 0] += 1
        signal[:, 3] += (1 + y) * np.sin(2 * np.pi * 0.5 * np.arange(num_samples) / 50)
        signals.append(signal)
    return {
        "X": signals,
        "y": np.array([y for y, _, _ in rows]),
        "subject": np.array([subject for _, subject, _ in rows]),
        "side": np.array([side for _, _, side in rows]),
        "X_labels": CHANNELS,
        "y_labels": EXERCISES,
    }


def write(path, content, **changes):
    array = np.empty((), dtype=object)
    array[()] = {**content, **changes}
    np.save(path, array, allow_pickle=True)
    return SPARConfig(str(path))


def test_windows_are_those_of_the_file_in_si_units(tmp_path):
    content = table()
    windows = read_spar(write(tmp_path / "watch_dataset.npy", content), rate_hz=50.0, window_s=2.0)
    assert windows.imu.shape == (28 * 3, 100, 1, 6)  # 330 samples hold 3 windows of 100
    assert windows.valid.all()
    assert windows.classes == EXERCISES
    assert np.bincount(windows.label).tolist() == [12] * 7
    assert sorted(set(windows.subject.tolist())) == ["1", "2"]
    assert len(set(windows.ids.tolist())) == len(windows.label)
    expected = content["X"][9][100:200] * np.repeat([9.80665, 1.0], 3)
    np.testing.assert_allclose(windows.imu[9 * 3 + 1, :, 0], expected, atol=1e-5)
    assert windows.label[9 * 3 + 1] == content["y"][9]


def test_what_is_not_as_published_is_said(tmp_path):
    content, path = table(), tmp_path / "watch_dataset.npy"
    for changes, message in (
        ({"X_labels": CHANNELS[::-1]}, "its channels are wz"),
        ({"y": content["y"][:-1]}, "y has 27 entries for 28 recordings"),
        ({"y": content["y"] + 1}, "none of those that it names"),
        ({"X": [9.8 * signal for signal in content["X"]]}, "the median acceleration is 9.8"),
        ({"X": [signal[:, :3] for signal in content["X"]]}, "recording 0 is no table of 6"),
    ):
        with pytest.raises(UserError, match=message):
            read_spar(write(path, content, **changes), rate_hz=50.0, window_s=2.0)
    np.save(path, np.zeros(3))
    with pytest.raises(UserError, match="no array of one object"):
        read_spar(SPARConfig(str(path)), rate_hz=50.0, window_s=2.0)
    whole = write(path, content)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="fetch it again"):
        read_spar(whole, rate_hz=50.0, window_s=2.0)
    with pytest.raises(UserError, match="the file is missing"):
        read_spar(SPARConfig(str(tmp_path / "other.npy")), rate_hz=50.0, window_s=2.0)


class Runs:
    """Unpickled in the usual way this makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_in_the_file_is_run(tmp_path):
    config = write(tmp_path / "watch_dataset.npy", table(), side=Runs(tmp_path / "made"))
    with pytest.raises(UserError, match=r"it holds posix\.mkdir"):
        read_spar(config, rate_hz=50.0, window_s=2.0)
    assert not (tmp_path / "made").exists()


def test_the_published_file():
    root = os.environ.get("IMUVID_REALDATA")
    if not root or not os.path.isfile(f"{root}/spar/watch_dataset.npy"):
        pytest.skip("spar/watch_dataset.npy is not under $IMUVID_REALDATA")
    windows = read_spar(SPARConfig(), rate_hz=50.0, window_s=2.0)
    assert (len(windows.label), len(set(windows.recording.tolist()))) == (2369, 140)
    assert np.median(np.linalg.norm(windows.imu[..., :3], axis=-1)) == pytest.approx(9.8, rel=0.1)
