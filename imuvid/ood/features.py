"""Hand-made features: the baseline that a pretrained encoder has to beat."""

from __future__ import annotations

import itertools

import numpy as np

BANDS_HZ = (0.3, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0)
"""Edges of the spectral bands: gait cadence, tremor and freezing lie apart."""


def handmade_features(imu: np.ndarray, valid: np.ndarray, rate_hz: float) -> np.ndarray:
    """Return mean, SD, minimum, maximum and spectrum of each channel and of the norm of each sensor.

    Instants at which a sensor is absent are left out of the moments and replaced by the mean in the spectrum. The
    features of a sensor that is absent throughout a window are 0.

    Args:
        imu: float32 [N, T, P, 6], m/s^2 and rad/s.
        valid: bool [N, T, P, 2].
        rate_hz: of the samples; bands above half of it are left out.

    Returns:
        float32 [N, P * 2 * 4 * (4 + number of bands)].
    """
    num_windows, num_steps, num_positions, _ = imu.shape
    sensors = imu.astype(np.float64).reshape(num_windows, num_steps, num_positions, 2, 3)
    channels = np.concatenate([sensors, np.linalg.norm(sensors, axis=-1, keepdims=True)], axis=-1)
    present = valid[..., None]
    count = np.maximum(present.sum(axis=1), 1)
    mean = (channels * present).sum(axis=1) / count
    centred = (channels - mean[:, None]) * present
    deviation = np.sqrt((centred**2).sum(axis=1) / count)
    low, high = centred.min(axis=1) + mean, centred.max(axis=1) + mean
    features = np.concatenate([np.stack([mean, deviation, low, high], axis=-1), _bands(centred, rate_hz)], axis=-1)
    there = np.expand_dims(present.any(axis=1), -1)
    return (features * there).reshape(num_windows, -1).astype(np.float32)


def _bands(centred: np.ndarray, rate_hz: float) -> np.ndarray:
    """Return the logarithm of the power in each band, float64 [N, P, 2, 4, bands], of signals [N, T, P, 2, 4]."""
    num_steps = centred.shape[1]
    window = np.hanning(num_steps)[:, None, None, None]
    power = np.abs(np.fft.rfft(centred * window, axis=1)) ** 2 / (window**2).sum()
    frequency = np.fft.rfftfreq(num_steps, 1.0 / rate_hz)
    bands = []
    for low, high in itertools.pairwise(BANDS_HZ):
        inside = (frequency >= low) & (frequency < high)
        if inside.any():
            bands.append(np.log(power[:, inside].mean(axis=1) + 1e-6))
    return np.stack(bands, axis=-1)
