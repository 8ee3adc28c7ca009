"""Augmentation: a pure function of the draw, and physically what its options say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from imuvid.data.augment import AugmentConfig, augment
from imuvid.data.batch import Example
from imuvid.imu.rotation import random_rotation, rotate

NONE = AugmentConfig(
    rotate_share=0,
    scale_range=0,
    noise_acc_m_s2=0,
    noise_gyro_rad_s=0,
    drop_gyro_share=0,
    keep_one_sensor_share=0,
    crop_area=1,
    brightness=0,
)


def only(**changes) -> AugmentConfig:
    return dataclasses.replace(NONE, **changes)


def example(sample: int = 3, sensors: int = 3, steps: int = 40, frames: int = 4) -> Example:
    rng = np.random.default_rng(sample)
    imu = rng.standard_normal((steps, sensors, 6)).astype(np.float32)
    valid = np.ones((steps, sensors, 2), bool)
    valid[5:9, 0, 1] = False
    imu[5:9, 0, 3:] = 0
    pictures = rng.integers(0, 256, (frames, 24, 32, 3), dtype=np.uint8)
    frame_valid = np.ones(frames, bool)
    return Example(imu, valid, pictures, frame_valid, recording=1, sample=sample)


def equal(a: Example, b: Example) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def test_everything_off_changes_nothing():
    assert equal(augment(example(), NONE, 1, 2), example())


def test_the_draw_depends_on_seed_epoch_and_sample_alone():
    config = AugmentConfig(rotate_share=1.0)
    first = augment(example(), config, 1, 2)
    np.random.seed(0)  # noqa: NPY002
    assert equal(augment(example(), config, 1, 2), first)
    other = Example(**{**vars(example()), "sample": 4})
    for changed in (augment(example(), config, 2, 2), augment(example(), config, 1, 3), augment(other, config, 1, 2)):
        assert not np.array_equal(changed.imu, first.imu)
        assert not np.array_equal(changed.frames, first.frames)


def test_the_window_itself_stays_untouched():
    window = example()
    augment(window, AugmentConfig(rotate_share=1, drop_gyro_share=1, keep_one_sensor_share=1), 0, 0)
    assert equal(window, example())


def test_rotation_is_one_and_the_same_for_both_sensors_of_a_housing_and_keeps_lengths():
    window = example()
    window.imu[:, :, 3:] = 2 * window.imu[:, :, :3]
    window.valid[:] = True
    imu = augment(window, only(rotate_share=1), 0, 0).imu
    np.testing.assert_allclose(imu[..., 3:], 2 * imu[..., :3], atol=1e-5)
    before, after = (np.linalg.norm(x[..., :3], axis=-1) for x in (window.imu, imu))
    np.testing.assert_allclose(after, before, 1e-4)
    # One rotation a sensor, and not the same for all: solve for it by least squares and look at its determinant.
    found = [np.linalg.lstsq(window.imu[:, p, :3], imu[:, p, :3], rcond=None)[0].T for p in range(3)]
    for rotation in found:
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-4)
        assert np.linalg.det(rotation) == pytest.approx(1, abs=1e-4)
    assert np.abs(found[0] - found[1]).max() > 0.05


def test_rotations_are_uniform():
    # A fixed vector must land uniformly on the sphere: mean 0, covariance I/3 (standard errors about 0.01).
    rng = np.random.default_rng(0)
    vector = np.array([[0.6, 0.0, 0.8, 1.0, 0.0, 0.0]])
    rotated = np.stack([rotate(vector, random_rotation(rng))[0] for _ in range(4000)])
    for columns in (rotated[:, :3], rotated[:, 3:]):
        assert np.abs(columns.mean(0)).max() < 0.04
        assert np.abs(columns.T @ columns / 4000 - np.eye(3) / 3).max() < 0.03
    # The angle of a uniform rotation has the density (1 - cos a) / pi: mean pi/2 + 2/pi.
    traces = np.array([np.trace(random_rotation(rng)) for _ in range(4000)])
    assert np.arccos((traces - 1) / 2).mean() == pytest.approx(np.pi / 2 + 2 / np.pi, abs=0.05)


def test_dropping_the_gyroscope_marks_it_absent():
    window = augment(example(), only(drop_gyro_share=1), 0, 0)
    assert not window.valid[..., 1].any()
    assert window.valid[..., 0].all()
    assert not window.imu[..., 3:].any()
    np.testing.assert_array_equal(window.imu[..., :3], example().imu[..., :3])


def test_a_gyroscope_that_is_all_there_is_stays():
    window = example()
    window.valid[..., 0] = False
    window.imu[..., :3] = 0
    assert equal(augment(window, only(drop_gyro_share=1), 0, 0), window)


def test_keeping_one_sensor_keeps_each_now_and_then():
    kept = set()
    for sample in range(40):
        window = augment(example(sample), only(keep_one_sensor_share=1), 0, 0)
        present = np.flatnonzero(window.valid.any((0, 2)))
        assert len(present) == 1
        kept |= set(present)
        np.testing.assert_array_equal(window.imu[:, present], example(sample).imu[:, present])
        assert not np.delete(window.imu, present, axis=1).any()
    assert kept == {0, 1, 2}


def test_a_sensor_that_is_absent_is_never_the_one_kept():
    for sample in range(20):
        window = example(sample)
        window.valid[:, 2] = False
        assert augment(window, only(keep_one_sensor_share=1), 0, 0).valid[:, :2].any()


def test_shares_are_shares_of_the_windows():
    dropped = [not augment(example(i), only(drop_gyro_share=0.3), 0, 0).valid[..., 1].any() for i in range(300)]
    assert 0.2 < np.mean(dropped) < 0.4


def test_noise_and_scale_have_the_size_that_is_asked_for_and_spare_what_is_absent():
    window = example(steps=4000)
    noisy = augment(window, only(noise_acc_m_s2=0.5, noise_gyro_rad_s=0.1), 0, 0).imu
    present = np.repeat(window.valid, 3, axis=-1)
    assert not noisy[~present].any()
    difference = noisy - window.imu
    assert difference[..., :3].std() == pytest.approx(0.5, rel=0.05)
    assert difference[10:, :, 3:].std() == pytest.approx(0.1, rel=0.05)
    factors = []
    for sample in range(100):
        scaled = augment(example(sample), only(scale_range=0.2), 0, 0).imu[20]
        factors.append((scaled / example(sample).imu[20]).reshape(3, 2, 3))
    assert np.ptp(factors, axis=(1, 3)).max() < 1e-4  # one a window and sensor kind
    assert np.min(factors) >= 0.8 - 1e-4
    assert np.max(factors) <= 1.2 + 1e-4
    assert np.std(factors) == pytest.approx(0.4 / np.sqrt(12), rel=0.2)


def test_a_crop_is_the_same_in_every_frame():
    window = example(frames=3)
    window.frames[:] = window.frames[0]
    cropped = augment(window, only(crop_area=0.3), 0, 0).frames
    assert cropped.shape == window.frames.shape
    assert (cropped == cropped[0]).all()
    assert not np.array_equal(cropped[0], window.frames[0])


def test_a_crop_is_a_window_of_the_picture():
    # Pictures whose value is the place: a crop resized to the whole is a straight line over a part of it.
    window = example(frames=1)
    rows, columns = np.mgrid[0:24, 0:32]
    window.frames[0] = np.stack([rows * 10, columns * 8, np.zeros_like(rows)], axis=-1)
    spans = []
    for sample in range(60):
        window.sample = sample
        out = augment(window, only(crop_area=0.4), 0, 0).frames[0].astype(float)
        assert (np.diff(out[:, 5, 0]) >= 0).all()
        assert (np.diff(out[5, :, 1]) >= 0).all()
        spans.append((np.ptp(out[..., 0]) / 10 + 1) * (np.ptp(out[..., 1]) / 8 + 1) / (24 * 32))
    assert 0.33 < min(spans) < 0.55
    assert 0.85 < max(spans) <= 1.01


def test_brightness_is_one_a_clip_and_stays_within_range():
    window = example(frames=3)
    window.frames[:] = 100
    means = []
    for sample in range(60):
        window.sample = sample
        frames = augment(window, only(brightness=0.2), 0, 0).frames
        assert np.ptp(frames) == 0
        means.append(frames.mean())
    assert 100 - 51 - 6 <= min(means) < 80
    assert 120 < max(means) <= 100 + 51 + 6
    window.frames[:] = 250
    assert augment(window, only(brightness=1.0), 0, 0).frames.dtype == np.uint8


def test_frames_that_are_not_there_stay_black():
    window = example()
    window.frame_valid[[0, 3]] = False
    window.frames[[0, 3]] = 0
    for sample in range(10):
        window.sample = sample
        frames = augment(window, AugmentConfig(brightness=1.0), 0, 0).frames
        assert not frames[[0, 3]].any()
        assert frames[[1, 2]].any()


def test_a_window_without_video_goes_through():
    window = example()
    window.frames, window.frame_valid = np.zeros((0, 0, 0, 3), np.uint8), np.zeros(0, bool)
    assert augment(window, AugmentConfig(), 0, 0).frames.shape == (0, 0, 0, 3)
