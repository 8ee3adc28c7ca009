"""Conditioning of stored windows as in the recipe of Cheshmi et al. (MLHC 2025, section 3.2): median filter, z-score.

Shards hold SI units, so these are transforms of what training and evaluation read. What is not valid neither takes
part nor is made up: it stays 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imuvid.errors import UserError
from imuvid.imu.units import ACC_SCALE_M_S2, GYRO_SCALE_RAD_S

NORMALISE = ("none", "window", "recording")
MEDIAN_SAMPLES = 5
"""Length of the paper's median filter, samples at 50 Hz."""
MIN_DEVIATION = 1e-6
"""A channel that deviates by less than this, m/s^2 or rad/s, is constant: rounding is not blown up to one."""


@dataclass
class ConditionConfig:
    """What is done to every window that the IMU tower gets, after augmentation; by default nothing."""

    median_samples: int = 1
    """Length of a median filter, samples, odd; 1 is none, 5 the paper's (at 50 Hz)."""
    normalise: str = "none"
    """none; or the z-score of each channel, by the mean and deviation of its window, or of all windows of its
    recording (before filter and augmentation). The first erases posture and intensity, the second differences of
    either between recordings."""


def check_condition(config: ConditionConfig, section: str) -> None:
    """Refuse what :func:`condition` cannot do.

    Args:
        config: to look at.
        section: where it stands, for the message: ``data.condition``.

    Raises:
        UserError: a setting makes no sense; names its key.
    """
    if config.median_samples < 1 or config.median_samples % 2 == 0:
        raise UserError(f"{section}.median_samples={config.median_samples} must be odd and at least 1 (1 = no filter)")
    if config.normalise not in NORMALISE:
        raise UserError(f"{section}.normalise={config.normalise}: choose one of {', '.join(NORMALISE)}")


def condition(
    imu: np.ndarray,
    valid: np.ndarray,
    config: ConditionConfig,
    recording: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Return a window as the IMU tower gets it: median filter first, then the z-score.

    Towers divide what they get by typical amplitudes. The z-score is multiplied by these, so that one deviation enters
    them as one, as a typical amplitude does in SI units.

    Args:
        imu: float32 [T, P, 6], m/s^2 and rad/s.
        valid: bool [T, P, 2].
        config: what is done.
        recording: mean and deviation, float [P, 6] each, of :func:`statistics` of the window's recording; needed where
            it is normalised by them.

    Returns:
        float32 array like ``imu``, 0 where not valid; deviations times ``ACC_SCALE_M_S2`` and ``GYRO_SCALE_RAD_S``
        where it is normalised.

    Raises:
        ValueError: the shapes do not fit, or the recording's statistics are missing.
    """
    if config.median_samples > 1:
        imu = median_filter(imu, valid, config.median_samples)
    if config.normalise == "none":
        return imu
    if config.normalise == "window":
        mean, deviation = statistics(imu, valid)
    elif recording is not None:
        mean, deviation = recording
    else:
        raise ValueError("the statistics of the recording are missing")
    return standardise(imu, valid, mean, deviation / np.repeat([ACC_SCALE_M_S2, GYRO_SCALE_RAD_S], 3))


def median_filter(imu: np.ndarray, valid: np.ndarray, num_samples: int = MEDIAN_SAMPLES) -> np.ndarray:
    """Replace each sample by the median of the valid ones around it (Tukey, Exploratory Data Analysis, 1977).

    Args:
        imu: float [..., T, P, 6].
        valid: bool [..., T, P, 2]: accelerometer, gyroscope.
        num_samples: length of the filter, odd; beyond the ends and in gaps there is no sample.

    Returns:
        float array like ``imu``, 0 where not valid.

    Raises:
        ValueError: the length is not odd and positive, or the shapes do not fit.
    """
    if num_samples < 1 or num_samples % 2 == 0:
        raise ValueError(f"num_samples is {num_samples}, expected an odd number above 0")
    channel_valid = _channel_valid(imu, valid)
    half = num_samples // 2
    around = np.full((*imu.shape[:-3], imu.shape[-3] + 2 * half, *imu.shape[-2:]), np.nan, dtype=imu.dtype)
    around[..., half : half + imu.shape[-3], :, :] = np.where(channel_valid, imu, np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(around, num_samples, axis=-3)
    # NaN sorts last, so the valid ones come first.
    ordered = np.sort(windows, axis=-1)
    count = np.maximum(np.isfinite(ordered).sum(axis=-1, keepdims=True), 1)
    low, high = (np.take_along_axis(ordered, index, axis=-1)[..., 0] for index in ((count - 1) // 2, count // 2))
    return np.where(channel_valid, 0.5 * (low + high), 0).astype(imu.dtype)


def statistics(imu: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the standard deviation of each channel over its valid samples.

    Args:
        imu: float [..., T, P, 6]: one window, or all W windows [W, T, P, 6] of a recording, which count as one.
        valid: bool [..., T, P, 2].

    Returns:
        (float64 [P, 6], float64 [P, 6]); 0 and 1 for a channel without a valid sample, and a deviation of 1 for a
        constant one, so that standardising leaves it finite.

    Raises:
        ValueError: the shapes do not fit.
    """
    channel_valid = _channel_valid(imu, valid).reshape(-1, *imu.shape[-2:])
    values = np.where(channel_valid, imu.reshape(-1, *imu.shape[-2:]), 0).astype(np.float64)
    count = np.maximum(channel_valid.sum(axis=0), 1)
    mean = values.sum(axis=0) / count
    deviation = np.sqrt((np.where(channel_valid, values - mean, 0.0) ** 2).sum(axis=0) / count)
    return mean, np.where(deviation > MIN_DEVIATION, deviation, 1.0)


def standardise(imu: np.ndarray, valid: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Return the z-score of each channel by the given statistics [P, 6]: of its window, or of its recording.

    Args:
        imu: float [..., T, P, 6].
        valid: bool [..., T, P, 2].
        mean: float [P, 6], as of :func:`statistics`.
        deviation: float [P, 6], above 0.

    Returns:
        float array like ``imu``, without a unit, 0 where not valid.

    Raises:
        ValueError: the shapes do not fit.
    """
    return np.where(_channel_valid(imu, valid), (imu - mean) / deviation, 0).astype(imu.dtype)


def _channel_valid(imu: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Spread valid [..., T, P, 2] over the channels: bool [..., T, P, 6]."""
    if imu.ndim < 3 or imu.shape[-1] != 6 or valid.shape != (*imu.shape[:-1], 2):
        raise ValueError(f"imu is {list(imu.shape)} and valid {list(valid.shape)}, expected [.., T, P, 6] and [.., 2]")
    return np.repeat(valid, 3, axis=-1)
