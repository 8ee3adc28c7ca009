"""Resampling against scipy and against sinusoids whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from imuvid.imu.resample import pieces, resample

RATE_HZ = 50.0
GRID_S = np.arange(2.0, 18.0, 1 / RATE_HZ)
SOURCE_RATES_HZ = [64.0, 100.0, 128.0, 197.5, 200.0, 396.9, 1000.0]


def sinusoid(times_s, frequency_hz, phase=0.3):
    return np.sin(2 * np.pi * frequency_hz * times_s + phase)[:, None]


def gain_and_delay(values, grid_s, frequency_hz, phase=0.3):
    """Least-squares gain (dB) and delay (s) of a sinusoid."""
    angle = 2 * np.pi * frequency_hz * grid_s
    sine, cosine = np.linalg.lstsq(np.c_[np.sin(angle), np.cos(angle)], values[:, 0], rcond=None)[0]
    delay_s = (phase - np.arctan2(cosine, sine)) / (2 * np.pi * frequency_hz)
    return 20 * np.log10(np.hypot(sine, cosine)), delay_s


@pytest.mark.parametrize("source_hz", SOURCE_RATES_HZ)
@pytest.mark.parametrize("frequency_hz", [0.5, 5.0, 12.0, 18.0])
def test_passband_is_flat_and_not_delayed(source_hz, frequency_hz):
    times_s = np.arange(int(20 * source_hz)) / source_hz
    values, valid = resample(times_s, sinusoid(times_s, frequency_hz), GRID_S, RATE_HZ)
    gain_db, delay_s = gain_and_delay(values, GRID_S, frequency_hz)
    assert valid.all()
    assert abs(gain_db) < 0.3
    assert abs(delay_s) < 1e-4


@pytest.mark.parametrize("source_hz", SOURCE_RATES_HZ)
def test_what_would_alias_is_suppressed_by_40_db(source_hz):
    times_s = np.arange(int(20 * source_hz)) / source_hz
    for frequency_hz in np.linspace(25.5, 0.49 * source_hz, 12):
        values, _ = resample(times_s, sinusoid(times_s, frequency_hz), GRID_S, RATE_HZ)
        assert 20 * np.log10(np.sqrt(2) * values.std()) < -40, frequency_hz


def test_agrees_with_resample_poly_on_band_limited_noise():
    rng = np.random.default_rng(0)
    band = signal.firwin(401, 15.0, fs=200.0)
    source = signal.lfilter(band, 1, rng.normal(size=(4000, 3)), axis=0)
    values, _ = resample(np.arange(4000) / 200, source, np.arange(1000) / 50, RATE_HZ)
    expected = signal.resample_poly(source, 1, 4, axis=0)
    inner = slice(50, -50)
    assert np.abs(values[inner] - expected[inner]).max() < 0.02 * expected.std()


@pytest.mark.parametrize(("source_hz", "jitter_s"), [(200.0, 0.001), (200.0, 0.003), (100.0, 0.004), (50.0, 0.004)])
def test_jitter_of_the_stamps_does_not_shift_the_signal(source_hz, jitter_s):
    rng = np.random.default_rng(1)
    times_s = np.arange(int(20 * source_hz)) / source_hz
    times_s += rng.uniform(-jitter_s, jitter_s, times_s.size)
    times_s = np.sort(times_s)
    for frequency_hz in (1.0, 4.0):
        values, valid = resample(times_s, sinusoid(times_s, frequency_hz), GRID_S, RATE_HZ)
        assert valid.all()
        assert np.abs(values - sinusoid(GRID_S, frequency_hz)).max() < 0.02
        assert abs(gain_and_delay(values, GRID_S, frequency_hz)[1]) < 1e-4


def test_samples_that_lie_on_the_grid_come_back_unchanged():
    source = np.random.default_rng(2).normal(size=(500, 3))
    times_s = np.arange(500) / RATE_HZ
    values, valid = resample(times_s, source, times_s[100:200], RATE_HZ)
    assert valid.all()
    assert values == pytest.approx(source[100:200], abs=1e-9)


def test_windows_that_overlap_read_the_same_signal():
    times_s = np.arange(2000) / 200
    source = np.random.default_rng(3).normal(size=(2000, 3))
    grid_s = np.array([1.0, 1.5, 0.0])[:, None] + np.arange(100) / RATE_HZ
    values, valid = resample(times_s, source, grid_s, RATE_HZ)
    assert values.shape == (3, 100, 3)
    assert valid.shape == (3, 100)
    assert values[0, 25:] == pytest.approx(values[1, :75], abs=1e-9)


def test_gap_is_marked_and_not_bridged():
    times_s = np.arange(2000) / 200
    kept = (times_s < 3.999) | (times_s > 4.301)  # sampled until 3.995 s and again from 4.305 s
    grid_s = np.arange(500) / RATE_HZ
    values, valid = resample(times_s[kept], np.ones((kept.sum(), 3)), grid_s, RATE_HZ)
    missing = (grid_s > 3.999) & (grid_s < 4.301)
    assert not valid[missing].any()
    assert valid[~missing].all()
    assert (values[~valid] == 0).all()
    assert values[valid] == pytest.approx(1.0)


def test_values_beside_a_gap_do_not_leak_across_it():
    times_s = np.arange(2000) / 200
    source = np.where(times_s < 5.0, 1.0, 100.0)[:, None]
    kept = (times_s < 4.9) | (times_s > 5.1)
    grid_s = np.arange(500) / RATE_HZ
    values, valid = resample(times_s[kept], source[kept], grid_s, RATE_HZ)
    assert values[valid & (grid_s < 5)] == pytest.approx(1.0)
    assert values[valid & (grid_s > 5)] == pytest.approx(100.0)


def test_few_nans_are_bridged_many_are_a_gap():
    times_s = np.arange(1000) / 200
    source = sinusoid(times_s, 2.0) @ np.ones((1, 3))
    source[300:303, 1] = np.nan  # 20 ms between neighbours
    source[600:640] = np.inf  # 205 ms
    grid_s = np.arange(250) / RATE_HZ
    values, valid = resample(times_s, source, grid_s, RATE_HZ)
    assert np.isfinite(values).all()
    assert valid[(grid_s > 1.4) & (grid_s < 1.6)].all()
    assert not valid[(grid_s > 3.0) & (grid_s < 3.19)].any()
    inner = valid & (grid_s > 0.5) & (grid_s < 2.5)
    assert values[inner] == pytest.approx((sinusoid(grid_s, 2.0) @ np.ones((1, 3)))[inner], abs=0.02)
    assert len(pieces(times_s, source)) == 2


def test_slow_source_has_no_gaps_of_its_own_rate():
    times_s = np.arange(100) / 10
    _, valid = resample(times_s, np.ones((100, 3)), np.arange(400) / RATE_HZ, RATE_HZ)
    assert valid.all()


def test_outside_of_the_signal_is_not_valid():
    times_s = 1.0 + np.arange(200) / 200
    grid_s = np.arange(150) / RATE_HZ
    values, valid = resample(times_s, np.ones((200, 3)), grid_s, RATE_HZ)
    assert (valid == ((grid_s > 0.9975 - 1e-6) & (grid_s < 1.9976))).all()
    assert (values[~valid] == 0).all()


@pytest.mark.parametrize(
    ("times_s", "values"), [([0.0, 0.0], [[1.0], [1.0]]), ([0.0, np.nan], [[1.0], [1.0]]), ([0.0], [[1.0], [1.0]])]
)
def test_bad_times_are_refused(times_s, values):
    with pytest.raises(ValueError, match=r"strictly increasing|expected \[N\]"):
        resample(np.array(times_s), np.array(values), GRID_S, RATE_HZ)


@settings(max_examples=40, deadline=None)
@given(
    source_hz=st.floats(10, 500),
    seconds=st.floats(0.05, 3),
    offset_s=st.floats(-1, 1),
    holes=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.5)), max_size=4),
    seed=st.integers(0, 100),
)
def test_whatever_the_source_the_result_is_finite_marked_and_linear(source_hz, seconds, offset_s, holes, seed):
    rng = np.random.default_rng(seed)
    count = max(int(source_hz * seconds), 1)
    intervals = rng.uniform(0.2, 1.8, count) / source_hz
    times_s = offset_s + np.cumsum(intervals)
    source = rng.normal(9.81, 1.0, (count, 3))
    for start, length in holes:
        source[int(start * count) : int((start + length) * count)] = np.nan
    grid_s = np.arange(-50, 250).reshape(2, 150) / RATE_HZ
    values, valid = resample(times_s, source, grid_s, RATE_HZ)
    assert np.isfinite(values).all()
    assert (values[~valid] == 0).all()
    doubled, valid_again = resample(times_s, 2 * source, grid_s, RATE_HZ)
    assert (valid == valid_again).all()
    assert doubled == pytest.approx(2 * values, rel=1e-9, abs=1e-9)
    assert np.abs(values).max(initial=0.0) < 40
