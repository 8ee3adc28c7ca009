"""Resampling against scipy and against sinusoids whose answer is known."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal
from scipy.interpolate import CubicSpline

from imuvid.imu.resample import pieces, resample, sample_numbers

RATE_HZ = 50.0
GRID_S = np.arange(2.0, 18.0, 1 / RATE_HZ)
SOURCE_RATES_HZ = [52.0, 60.0, 64.0, 100.0, 128.0, 197.5, 200.0, 396.9, 1000.0]
ONE_PERCENT_DB = 0.086


def sinusoid(times_s, frequency_hz, phase=0.3):
    return np.sin(2 * np.pi * frequency_hz * times_s + phase)[:, None]


def gain_and_delay(values, grid_s, frequency_hz, phase=0.3):
    """Least-squares gain (dB) and delay (s) of a sinusoid."""
    angle = 2 * np.pi * frequency_hz * grid_s
    sine, cosine = np.linalg.lstsq(np.c_[np.sin(angle), np.cos(angle)], values[:, 0], rcond=None)[0]
    delay_s = (phase - np.arctan2(cosine, sine)) / (2 * np.pi * frequency_hz)
    return 20 * np.log10(np.hypot(sine, cosine)), delay_s


def evenly(source_hz, seconds=20.0, start_s=0.0037):
    return start_s + np.arange(int(seconds * source_hz)) / source_hz


@pytest.mark.parametrize("source_hz", [*SOURCE_RATES_HZ, 25.0, 26.0, 40.0, 50.0, 50.02, 51.0])
@pytest.mark.parametrize("share", [0.02, 0.2, 0.4, 0.7, 1.0])
def test_passband_is_flat_within_one_percent_and_not_delayed(source_hz, share):
    frequency_hz = share * min(20.0, 0.4 * source_hz)
    times_s = evenly(source_hz)
    values, valid = resample(times_s, sinusoid(times_s, frequency_hz), GRID_S, RATE_HZ)
    gain_db, delay_s = gain_and_delay(values, GRID_S, frequency_hz)
    assert valid.all()
    assert abs(gain_db) < ONE_PERCENT_DB
    assert abs(delay_s) < 2e-4
    assert np.abs(values - sinusoid(GRID_S, frequency_hz)).max() < 0.01


@pytest.mark.parametrize("source_hz", SOURCE_RATES_HZ)
def test_what_would_alias_is_suppressed_by_55_db(source_hz):
    times_s = np.arange(int(20 * source_hz)) / source_hz
    for frequency_hz in np.linspace(25.5, 0.49 * source_hz, 12):
        values, _ = resample(times_s, sinusoid(times_s, frequency_hz), GRID_S, RATE_HZ)
        assert 20 * np.log10(np.sqrt(2) * values.std()) < -55, frequency_hz


def band_limited_noise(num_samples, source_hz, edge_hz, seed=0):
    band = signal.firwin(801, edge_hz, fs=source_hz)
    noise = np.random.default_rng(seed).normal(size=(num_samples + 800, 3))
    return signal.oaconvolve(noise, band[:, None], mode="valid", axes=0)


@pytest.mark.parametrize(
    ("source_hz", "up", "down"), [(200, 1, 4), (1000, 1, 20), (25, 2, 1), (64, 25, 32), (50, 1, 1)]
)
def test_agrees_with_resample_poly(source_hz, up, down):
    source = band_limited_noise(20 * source_hz, source_hz, 0.3 * min(source_hz, 50))
    expected = signal.resample_poly(source, up, down, axis=0, window=("kaiser", 8.0))
    values, _ = resample(np.arange(len(source)) / source_hz, source, np.arange(len(expected)) / RATE_HZ, RATE_HZ)
    inner = slice(60, -60)
    assert np.abs(values[inner] - expected[inner]).max() < 0.01 * expected.std()


def test_agrees_with_decimate():
    source = band_limited_noise(4000, 200, 15.0)
    values, _ = resample(np.arange(4000) / 200, source, np.arange(1000) / RATE_HZ, RATE_HZ)
    expected = signal.decimate(source, 4, n=160, ftype="fir", axis=0)
    assert np.abs(values[60:-60] - expected[60:-60]).max() < 0.01 * expected.std()


@pytest.mark.parametrize("shift_s", [0.0, 0.0031, 0.01, 0.0199])
@pytest.mark.parametrize("source_hz", [50.0, 200.0])
def test_phase_of_the_grid_does_not_matter(source_hz, shift_s):
    times_s = evenly(source_hz)
    source = band_limited_noise(len(times_s), source_hz, 8.0)
    values, _ = resample(times_s, source, GRID_S + shift_s, RATE_HZ)
    # So far below half the rate, a spline through the samples is exact to 1 %.
    expected = CubicSpline(times_s, source)(GRID_S + shift_s)
    assert np.abs(values - expected).max() < 0.02 * expected.std()


def test_stamps_in_whole_milliseconds_are_those_of_an_even_clock():
    times_s = evenly(64.0)
    rounded_s = np.round(times_s, 3)
    for frequency_hz in (2.0, 10.0, 20.0):
        values, valid = resample(rounded_s, sinusoid(times_s, frequency_hz), GRID_S, RATE_HZ)
        assert valid.all()
        assert np.abs(values - sinusoid(GRID_S, frequency_hz)).max() < 0.005


def test_clock_that_drifts_is_followed():
    true_s = evenly(50.0, 120.0)
    times_s = true_s + 0.05 * np.sin(2 * np.pi * true_s / 120)  # up to 2600 ppm, back and forth
    grid_s = np.arange(100, 5900) / RATE_HZ
    values, valid = resample(times_s, sinusoid(times_s, 15.0), grid_s, RATE_HZ)
    assert valid.all()
    assert np.abs(values - sinusoid(grid_s, 15.0)).max() < 0.02
    number, even_s = sample_numbers(times_s)
    assert number.tolist() == list(range(len(times_s)))
    assert np.abs(even_s - times_s)[50:-50].max() < 1e-4


@pytest.mark.parametrize("source_hz", [25.0, 50.0, 52.0, 64.0, 100.0, 200.0])
def test_jitter_does_not_dull_the_passband(source_hz):
    rng = np.random.default_rng(5)
    times_s = evenly(source_hz, 24.0)
    times_s += rng.uniform(-0.15, 0.15, times_s.size) / source_hz
    for frequency_hz in np.array([0.25, 0.6, 1.0]) * min(20.0, 0.4 * source_hz):
        values, _ = resample(times_s, sinusoid(times_s, frequency_hz), GRID_S, RATE_HZ)
        assert abs(gain_and_delay(values, GRID_S, frequency_hz)[0]) < 2 * ONE_PERCENT_DB
        assert np.abs(values - sinusoid(GRID_S, frequency_hz)).max() < 0.03


def test_one_lost_sample_costs_its_neighbourhood_alone():
    times_s = evenly(50.0)
    kept = np.ones(len(times_s), dtype=bool)
    kept[500] = False  # at 10.0037 s
    values, valid = resample(times_s[kept], sinusoid(times_s[kept], 6.0), GRID_S, RATE_HZ)
    error = np.abs(values - sinusoid(GRID_S, 6.0))[:, 0]
    assert valid.all()
    assert error.max() < 0.05
    assert error[np.abs(GRID_S - times_s[500]) > 0.5].max() < 0.002


@pytest.mark.parametrize("source_hz", [50.0, 64.0, 197.5, 400.0, 1000.0])
def test_lost_samples_are_counted_whatever_the_resolution_of_the_stamps(source_hz):
    times_s = np.round(evenly(source_hz), 3)
    kept = np.random.default_rng(6).random(len(times_s)) > 0.02
    kept[[0, -1]] = True
    number, even_s = sample_numbers(times_s[kept])
    assert number.tolist() == np.flatnonzero(kept).tolist()
    assert np.abs(even_s - evenly(source_hz)[kept]).max() < 4e-4


def test_an_hour_of_six_axes_takes_less_than_two_seconds():
    times_s = np.arange(720_000) / 200
    source = np.random.default_rng(7).normal(size=(720_000, 6))
    started = time.process_time()
    resample(times_s, source, np.arange(180_000) / RATE_HZ, RATE_HZ)
    assert time.process_time() - started < 2.0


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
