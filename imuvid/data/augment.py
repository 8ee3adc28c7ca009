"""Augmentation of one window: a pure function of (window, seed, epoch, sample), so the same at any world size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from imuvid.data.batch import Example
from imuvid.imu.rotation import random_rotation, rotate


@dataclass
class AugmentConfig:
    """Each is switched off by its zero (or one) value. Magnitudes are of one window."""

    rotate_share: float = 0.5
    """Share of windows whose sensors are each turned by a random rotation in SO(3): mountings vary."""
    scale_range: float = 0.1
    """Amplitude factor, uniform in 1 +- this, one a sensor kind."""
    noise_acc_m_s2: float = 0.05
    """Standard deviation of white noise on the accelerometer."""
    noise_gyro_rad_s: float = 0.01
    """Standard deviation of white noise on the gyroscope."""
    drop_gyro_share: float = 0.1
    """Share of windows whose gyroscopes are taken away: many target data sets have none."""
    keep_one_sensor_share: float = 0.0
    """Share of windows of which only one sensor, drawn at random, is kept: targets often have one."""
    crop_area: float = 0.6
    """Smallest share of the picture that a random crop keeps; 1 switches it off. One crop a clip."""
    brightness: float = 0.2
    """Contrast factor and brightness offset (of 255), uniform in +- this. One a clip."""


OFF = AugmentConfig(
    rotate_share=0.0,
    scale_range=0.0,
    noise_acc_m_s2=0.0,
    noise_gyro_rad_s=0.0,
    drop_gyro_share=0.0,
    crop_area=1.0,
    brightness=0.0,
)
"""Nothing is done."""


def augment(example: Example, config: AugmentConfig, seed: int, epoch: int) -> Example:
    """Return an augmented copy; the draw depends on (seed, epoch, example.sample) alone.

    Where everything is off, that is the example itself.
    """
    if config == OFF:
        return example
    rng = np.random.default_rng(np.random.SeedSequence([seed, epoch, example.sample]))
    imu, valid = _augment_imu(example.imu, example.valid, config, rng)
    frames = _augment_frames(example.frames, example.frame_valid, config, rng)
    return Example(imu, valid, frames, example.frame_valid, example.recording, example.sample)


def _augment_imu(
    imu: np.ndarray, valid: np.ndarray, config: AugmentConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    imu, valid = imu.copy(), valid.copy()
    sensors = np.flatnonzero(valid.any((0, 2)))
    if len(sensors) > 1 and rng.random() < config.keep_one_sensor_share:
        kept = rng.choice(sensors)
        valid[:, sensors[sensors != kept]] = False
    if rng.random() < config.drop_gyro_share and valid[..., 0].any():
        valid[..., 1] = False
    if rng.random() < config.rotate_share:
        for sensor in sensors:
            imu[:, sensor] = rotate(imu[:, sensor], random_rotation(rng))
    factor = 1 + rng.uniform(-config.scale_range, config.scale_range, 2)
    noise = np.repeat([config.noise_acc_m_s2, config.noise_gyro_rad_s], 3)
    imu = imu * np.repeat(factor, 3) + rng.standard_normal(imu.shape) * noise
    return (imu * np.repeat(valid, 3, axis=-1)).astype(np.float32), valid


def _augment_frames(
    frames: np.ndarray, frame_valid: np.ndarray, config: AugmentConfig, rng: np.random.Generator
) -> np.ndarray:
    # Of an embedding there is nothing to crop or to brighten.
    if frames.ndim == 1 or not frames.size or (config.crop_area >= 1 and config.brightness == 0):
        return frames
    height, width = frames.shape[1:3]
    side = np.sqrt(rng.uniform(config.crop_area, 1.0))
    h, w = max(1, round(height * side)), max(1, round(width * side))
    top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    crop = torch.from_numpy(np.ascontiguousarray(frames[:, top : top + h, left : left + w])).permute(0, 3, 1, 2)
    clip = crop.float()
    if (h, w) != (height, width):
        clip = torch.nn.functional.interpolate(clip, (height, width), mode="bilinear", antialias=False)
    contrast, offset = 1 + rng.uniform(-1, 1) * config.brightness, 255 * rng.uniform(-1, 1) * config.brightness
    clip = ((clip - 127.5) * contrast + 127.5 + offset).clamp(0, 255)
    clip *= torch.from_numpy(frame_valid)[:, None, None, None]
    return clip.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
