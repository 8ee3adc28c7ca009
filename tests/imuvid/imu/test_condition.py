"""The paper's conditioning against scipy, and what it does with readings that are not valid."""

from __future__ import annotations

import statistics as standard

import numpy as np
import pytest
import torch
from scipy import signal, stats

from imuvid.imu.condition import ConditionConfig, condition, median_filter, standardise, statistics
from imuvid.models.sensors import normalise_si


def window(steps=250, positions=2, seed=0):
    rng = np.random.default_rng(seed)
    imu = rng.normal([0, 0, 9.8, 0.1, 0, 0], [2, 1, 3, 0.5, 1, 0.2], (steps, positions, 6)).astype(np.float32)
    return imu, np.ones((steps, positions, 2), dtype=bool)


@pytest.mark.parametrize("num_samples", [1, 3, 5, 9])
def test_median_filter_is_that_of_scipy_away_from_the_ends(num_samples):
    imu, valid = window()
    expected = signal.medfilt(imu, (num_samples, 1, 1))
    inner = slice(num_samples // 2, len(imu) - num_samples // 2)
    assert median_filter(imu, valid, num_samples)[inner] == pytest.approx(expected[inner])


def test_median_filter_takes_only_valid_neighbours_and_fills_nothing():
    imu, valid = window(40, 1)
    valid[10:13, 0, 0] = False
    valid[20:, 0, 1] = False
    imu = np.where(np.repeat(valid, 3, axis=-1), imu, np.float32(0))
    filtered = median_filter(imu, valid)
    assert filtered.dtype == np.float32
    for step in range(40):
        for channel in range(6):
            present = valid[:, 0, channel // 3]
            around = [imu[i, 0, channel] for i in range(max(step - 2, 0), min(step + 3, 40)) if present[i]]
            expected = standard.median(around) if present[step] else 0.0
            assert filtered[step, 0, channel] == pytest.approx(expected, abs=1e-6)


def test_median_filter_of_windows_does_not_mix_them():
    imu, valid = (np.stack(pair) for pair in zip(window(seed=1), window(seed=2), strict=True))
    assert (median_filter(imu, valid)[1] == median_filter(*window(seed=2))).all()


def test_z_score_of_a_window_is_that_of_scipy():
    imu, valid = window()
    scores = standardise(imu, valid, *statistics(imu, valid))
    assert scores.dtype == np.float32
    assert scores == pytest.approx(stats.zscore(imu.astype(np.float64), axis=0), abs=1e-5)


def test_z_score_of_a_recording_is_that_of_its_windows_in_a_row():
    imu, valid = (np.stack(pair) for pair in zip(window(seed=3), window(seed=4), strict=True))
    imu[1, ..., 2] -= 5  # lying down in the second window: stays visible, unlike in the z-score of a window
    scores = standardise(imu, valid, *statistics(imu, valid))
    assert scores.reshape(-1, 2, 6) == pytest.approx(
        stats.zscore(imu.reshape(-1, 2, 6).astype(float), axis=0), abs=1e-5
    )
    assert scores[0, ..., 2].mean() - scores[1, ..., 2].mean() > 1


def test_z_score_leaves_out_what_is_not_valid():
    imu, valid = window(100, 1)
    valid[60:] = False
    imu[60:] = 0
    scores = standardise(imu, valid, *statistics(imu, valid))
    assert scores[:60] == pytest.approx(stats.zscore(imu[:60].astype(float), axis=0), abs=1e-5)
    assert (scores[60:] == 0).all()


def test_constant_and_absent_channels_stay_finite():
    imu, valid = window(100, 1)
    imu[:, 0, 0] = 9.80665
    valid[..., 1] = False
    scores = standardise(imu, valid, *statistics(imu, valid))
    assert scores[:, 0, 0] == pytest.approx(0.0, abs=1e-5)
    assert (scores[..., 3:] == 0).all()
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("num_samples", [0, -1, 4])
def test_even_lengths_are_refused(num_samples):
    with pytest.raises(ValueError, match=f"num_samples is {num_samples}, expected an odd number"):
        median_filter(*window(), num_samples)


def test_shapes_that_do_not_fit_are_refused():
    imu, valid = window()
    with pytest.raises(ValueError, match=r"imu is \[250, 2, 6\] and valid \[250, 1, 2\]"):
        statistics(imu, valid[:, :1])


def test_by_default_nothing_is_done():
    imu, valid = window()
    assert (condition(imu, valid, ConditionConfig()) == imu).all()


@pytest.mark.parametrize("normalise", ["window", "recording"])
def test_what_a_tower_gets_is_of_order_one(normalise):
    imu, valid = window()
    config = ConditionConfig(median_samples=5, normalise=normalise)
    recording = (imu.mean(axis=0), imu.std(axis=0))
    conditioned = condition(imu, valid, config, recording)
    assert conditioned.dtype == np.float32
    entered = normalise_si(torch.from_numpy(conditioned), torch.from_numpy(valid)).numpy()
    filtered = median_filter(imu, valid).astype(np.float64)
    expected = stats.zscore(filtered) if normalise == "window" else (filtered - recording[0]) / recording[1]
    assert entered == pytest.approx(expected, abs=1e-4)


def test_normalising_by_a_recording_needs_its_statistics():
    with pytest.raises(ValueError, match="statistics of the recording are missing"):
        condition(*window(), ConditionConfig(normalise="recording"))
