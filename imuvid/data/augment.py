"""Augmentation of one window: a pure function of (window, seed, epoch, sample), so the same at any world size."""

from __future__ import annotations

import dataclasses
import re
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
    drop_sensor_share: float = 0.0
    """Chance of each sensor to be taken away, both of its kinds; one stays."""
    drop_channel_share: float = 0.0
    """Chance of each axis of a sensor kind to read zero throughout, as a broken one does; it is not marked."""
    mask_range: float = 0.0
    """Longest stretch that is taken away from all sensors, share of the window; its length is uniform up to that."""
    shift_range: float = 0.0
    """Largest shift in time of the window, IMU and video alike, share of it. Nothing is stored beyond its ends: what
    would come from there is marked absent."""
    flip_share: float = 0.0
    """Share of windows that are mirrored, left and right: the frames, and the IMU with them."""
    crop_area: float = 0.6
    """Smallest share of the picture that a random crop keeps; 1 switches it off. One crop a clip."""
    brightness: float = 0.2
    """Contrast factor and brightness offset (of 255), uniform in +- this. One a clip."""
    saturation: float = 0.0
    """Factor of the colours' distance from grey, uniform in 1 +- this. One a clip."""
    hue: float = 0.0
    """Rotation of the colours about grey, of a full turn, uniform in +- this. One a clip."""


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


def augment(
    example: Example, config: AugmentConfig, seed: int, epoch: int, mirror: np.ndarray | None = None
) -> Example:
    """Return an augmented copy; the draw depends on (seed, epoch, example.sample) alone.

    Where everything is off, that is the example itself.

    Args:
        example: a window in SI units. It needs ``frame_places`` where windows are shifted.
        config: what is done to it.
        seed: of the run.
        epoch: in which it is drawn.
        mirror: :func:`mirrored_positions` of its sensors; None where no two sensors are each other's mirror image.
    """
    if config == OFF:
        return example
    rng = np.random.default_rng(np.random.SeedSequence([seed, epoch, example.sample]))
    # Draws of their own, so that none of them changes what the others draw.
    shift, flip, drop, colour = (
        np.random.default_rng(np.random.SeedSequence([seed, epoch, example.sample, number])) for number in range(1, 5)
    )
    if config.shift_range > 0:
        example = _shifted(example, shift.uniform(-config.shift_range, config.shift_range))
    if flip.random() < config.flip_share:
        example = _mirrored(example, mirror)
    imu, valid = _augment_imu(example.imu, example.valid, config, rng)
    imu, valid = _drop(imu, valid, config, drop)
    frames = _augment_frames(example.frames, example.frame_valid, config, rng, _colours(config, colour))
    return dataclasses.replace(example, imu=imu, valid=valid, frames=frames)


def choose_frames(frame_valid: np.ndarray, num: int, rng: np.random.Generator | None) -> np.ndarray:
    """Return one frame of each of ``num`` equal chunks of a window's frames, int64 [num], as Cheshmi et al. (2025) do.

    Args:
        frame_valid: bool [F], F at least ``num``; a frame that is there is preferred.
        num: of chunks.
        rng: draws the frame; without it the one in the middle is taken.
    """
    chosen = []
    for chunk in np.array_split(np.arange(len(frame_valid)), num):
        there = chunk[frame_valid[chunk]]
        there = there if len(there) else chunk
        chosen.append(there[len(there) // 2] if rng is None else rng.choice(there))
    return np.array(chosen, dtype=np.int64)


def mirrored_positions(positions: list[str]) -> np.ndarray:
    """Return for each sensor position the number of that on the other side of the body, its own where there is none."""
    swap = {"left": "right", "right": "left"}
    other = [re.sub("left|right", lambda side: swap[side[0]], name) for name in positions]
    return np.array([positions.index(name) if name in positions else i for i, name in enumerate(other)], dtype=np.int64)


def _shifted(example: Example, share: float) -> Example:
    """Let the window begin ``share`` of its length later; what lies beyond its ends is absent."""
    steps, num_frames = len(example.imu), len(example.frame_valid)
    offset = round(share * steps)
    source = np.arange(steps) + offset
    inside = (source >= 0) & (source < steps)
    imu, valid = np.zeros_like(example.imu), np.zeros_like(example.valid)
    imu[inside], valid[inside] = example.imu[source[inside]], example.valid[source[inside]]
    # Frame f of F stands for the f-th part of the window: of those that are there now, the one nearest its middle.
    places = example.frame_places - offset / steps
    part = np.floor(places * num_frames).astype(np.int64)
    frames, frame_valid = np.zeros_like(example.frames), np.zeros_like(example.frame_valid)
    middles = (np.arange(num_frames) + 0.5) / num_frames
    for f, middle in enumerate(middles):
        there = np.flatnonzero((part == f) & example.frame_valid)
        if len(there):
            nearest = there[np.abs(places[there] - middle).argmin()]
            frames[f], frame_valid[f], middles[f] = example.frames[nearest], True, places[nearest]
    return dataclasses.replace(
        example, imu=imu, valid=valid, frames=frames, frame_valid=frame_valid, frame_places=middles
    )


def _mirrored(example: Example, mirror: np.ndarray | None) -> Example:
    """Return the window as a mirror shows it.

    A mirror turns round the component across it of an acceleration, and those along it of an angular velocity, which
    is an axial vector. Which of the sensor's axes lies across is arbitrary: the choices differ by a rotation of the
    sensor in its mounting.
    """
    imu, valid = example.imu * np.array([-1, 1, 1, 1, -1, -1], dtype=np.float32), example.valid
    if mirror is not None:
        imu, valid = imu[:, mirror], valid[:, mirror]
    return dataclasses.replace(example, imu=imu, valid=valid, frames=np.ascontiguousarray(example.frames[:, :, ::-1]))


def _drop(
    imu: np.ndarray, valid: np.ndarray, config: AugmentConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Take away sensors, axes and a stretch of time."""
    steps, num_sensors = imu.shape[:2]
    sensors, axes = rng.random((num_sensors,)), rng.random((num_sensors, 6))
    longest, place = rng.random(2)
    present = np.flatnonzero(valid.any((0, 2)))
    dropped = present[sensors[present] < config.drop_sensor_share]
    if len(dropped) and len(dropped) == len(present):
        dropped = dropped[dropped != present[sensors[present].argmax()]]
    if len(dropped):
        valid[:, dropped] = False
    length = round(longest * config.mask_range * steps)
    start = int(place * (steps - length + 1))
    valid[start : start + length] = False
    imu *= np.repeat(valid, 3, axis=-1) & (axes >= config.drop_channel_share)
    return imu, valid


def _colours(config: AugmentConfig, rng: np.random.Generator) -> np.ndarray | None:
    """Draw the matrix [3, 3] that changes saturation and hue of RGB; None where neither is asked for.

    Hue is a rotation, saturation a factor, of the plane of I and Q in YIQ (the NTSC colour space, FCC 1953).
    """
    factor = 1 + rng.uniform(-1, 1) * config.saturation
    angle = 2 * np.pi * rng.uniform(-1, 1) * config.hue
    if config.saturation == 0 and config.hue == 0:
        return None
    yiq = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    turned = np.eye(3)
    turned[1:, 1:] = factor * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.linalg.inv(yiq) @ turned @ yiq


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
    frames: np.ndarray,
    frame_valid: np.ndarray,
    config: AugmentConfig,
    rng: np.random.Generator,
    colours: np.ndarray | None,
) -> np.ndarray:
    # Of an embedding there is nothing to crop or to brighten.
    unchanged = config.crop_area >= 1 and config.brightness == 0 and colours is None
    if frames.ndim == 1 or not frame_valid.any() or unchanged:
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
    if colours is not None:
        clip = torch.einsum("ij,fjhw->fihw", torch.from_numpy(colours).float(), clip)
    clip = ((clip - 127.5) * contrast + 127.5 + offset).clamp(0, 255)
    clip *= torch.from_numpy(frame_valid)[:, None, None, None]
    return clip.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
