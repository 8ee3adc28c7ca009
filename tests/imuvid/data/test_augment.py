"""Augmentation: a pure function of the draw, and physically what its options say."""

from __future__ import annotations

import colorsys
import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from imuvid.data.augment import AugmentConfig, augment, choose_frames, mirrored_positions
from imuvid.data.batch import Example
from imuvid.imu.rotation import random_rotation, rotate

NONE = AugmentConfig(
    rotate_share=0,
    scale_range=0,
    noise_acc_m_s2=0,
    noise_gyro_rad_s=0,
    drop_gyro_share=0,
    keep_one_sensor_share=0,
    drop_sensor_share=0,
    drop_channel_share=0,
    mask_range=0,
    shift_range=0,
    flip_share=0,
    crop_area=1,
    brightness=0,
    saturation=0,
    hue=0,
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


EVERYTHING = AugmentConfig(1.0, 0.1, 0.05, 0.01, 0.5, 0.5, 0.3, 0.2, 0.5, 0.3, 0.5, 0.6, 0.2, 0.3, 0.1)


def test_none_of_the_draws_changes_another():
    window = moving()
    whole = augment(window, dataclasses.replace(EVERYTHING, shift_range=0, flip_share=0), 1, 2)
    assert equal(whole, augment(window, dataclasses.replace(EVERYTHING, shift_range=0, flip_share=0), 1, 2))
    without = {"saturation": 0, "hue": 0, "shift_range": 0, "flip_share": 0}
    np.testing.assert_array_equal(augment(window, dataclasses.replace(EVERYTHING, **without), 1, 2).imu, whole.imu)
    without = dict.fromkeys(("drop_sensor_share", "drop_channel_share", "mask_range", "shift_range", "flip_share"), 0)
    np.testing.assert_array_equal(
        augment(window, dataclasses.replace(EVERYTHING, **without), 1, 2).frames, whole.frames
    )


def moving(sample: int = 3, steps: int = 60, frames: int = 6) -> Example:
    """A window in which every reading and every picture says when it was: 1 to 2 from start to end."""
    times = (np.arange(steps) + 0.5) / steps
    places = (np.arange(frames) + 0.5) / frames
    imu = np.tile((1 + times)[:, None, None], (1, 2, 6)).astype(np.float32)
    pictures = np.tile(np.round(100 * (1 + places)).astype(np.uint8)[:, None, None, None], (1, 8, 8, 3))
    valid, frame_valid = np.ones((steps, 2, 2), bool), np.ones(frames, bool)
    return Example(imu, valid, pictures, frame_valid, 1, sample, places)


def test_a_shift_moves_video_and_imu_together_and_marks_what_is_not_there():
    later = []
    for sample in range(40):
        window = augment(moving(sample), only(shift_range=0.5), 0, 0)
        times, present = window.imu[:, 0, 0] - 1, window.valid[:, 0, 0]
        assert (window.valid == present[:, None, None]).all()
        assert not window.imu[~present].any()
        shift = (times - (np.arange(60) + 0.5) / 60)[present]
        assert np.ptp(shift) < 1e-6
        assert present.mean() == pytest.approx(1 - abs(shift[0]), abs=1e-6)
        later.append(shift[0])
        shown = window.frames[:, 0, 0, 0] / 100 - 1
        assert not window.frames[~window.frame_valid].any()
        for part in np.flatnonzero(window.frame_valid):
            # The picture of each part of the window was taken in that part, on the clock of the shifted readings.
            assert part / 6 - 0.006 <= shown[part] - shift[0] <= (part + 1) / 6 + 0.006
        assert abs(window.frame_valid.mean() - present.mean()) <= 1 / 6
    assert -0.5 <= min(later) < -0.35
    assert 0.35 < max(later) <= 0.5


def test_a_shift_of_nothing_changes_nothing():
    window = moving()
    window.frame_valid[2] = False
    window.frames[2] = 0
    assert equal(augment(window, only(shift_range=1e-9), 0, 0), window)


def test_a_flip_is_what_a_mirror_shows():
    # A body that turns and falls, and a sensor on it: mirrored motion, measured by a mirrored mounting.
    rng = np.random.default_rng(0)
    window = example(sensors=2, steps=200)
    window.valid[:] = True
    dt, angles = 0.01, np.cumsum(rng.standard_normal((200, 3)) * 0.1, axis=0)
    mirror = np.diag([-1.0, 1.0, 1.0])
    attitude = Rotation.from_rotvec(angles).as_matrix()  # sensor to world
    place = np.cumsum(np.cumsum(rng.standard_normal((200, 3)), axis=0), axis=0) * dt**2

    def readings(attitude, place):
        force = np.gradient(np.gradient(place, dt, axis=0), dt, axis=0) + np.array([0, 0, 9.81])
        turn = Rotation.from_matrix(np.einsum("tji,tjk->tik", attitude[:-1], attitude[1:])).as_rotvec() / dt
        return np.concatenate([np.einsum("tji,tj->ti", attitude, force), np.vstack([turn, turn[-1:]])], axis=1)

    window.imu[:, 0] = readings(attitude, place)
    window.imu[:, 1] = window.imu[:, 0] * 2
    # The mirrored body; one axis of its sensor's mirror image is turned round, so that they stay a rotation.
    expected = readings(mirror @ attitude @ mirror, place @ mirror)
    flipped = augment(window, only(flip_share=1), 0, 0)
    np.testing.assert_allclose(flipped.imu[:, 0], expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(flipped.frames, window.frames[:, :, ::-1])
    swapped = augment(window, only(flip_share=1), 0, 0, mirrored_positions(["left_wrist", "right_wrist"]))
    np.testing.assert_array_equal(swapped.imu, flipped.imu[:, ::-1])


def test_positions_change_sides():
    names = ["head", "left_wrist", "pocket_left", "right_wrist", "right_ankle"]
    assert mirrored_positions(names).tolist() == [0, 3, 2, 1, 4]


def test_sensors_and_axes_drop_out_and_one_sensor_stays():
    kept, axes = [], []
    for sample in range(200):
        window = augment(example(sample), only(drop_sensor_share=0.4), 0, 0)
        assert not window.imu[~np.repeat(window.valid, 3, axis=-1)].any()
        kept.append(window.valid[20].all(-1))
        broken = augment(example(sample), only(drop_channel_share=0.1), 0, 0)
        np.testing.assert_array_equal(broken.valid, example(sample).valid)
        axes.append(broken.imu[20:].any(0).reshape(-1))
    # All three go at once in 0.064 of the windows, where one of them is put back.
    assert np.mean(kept) == pytest.approx(0.6 + 0.064 / 3, abs=0.05)
    assert np.any(kept, axis=1).all()
    assert np.mean(axes) == pytest.approx(0.9, abs=0.03)
    assert all(augment(example(i), only(drop_sensor_share=1.0), 0, 0).valid[20].all(-1).sum() == 1 for i in range(9))


def test_a_mask_is_one_stretch_of_all_sensors():
    lengths, starts = [], []
    for sample in range(200):
        window = augment(example(sample, steps=100), only(mask_range=0.5), 0, 0)
        masked = ~window.valid[:, 1].all(-1)
        assert (masked == ~window.valid[:, 2].any(-1)).all()
        assert np.abs(np.diff(masked.astype(int))).sum() <= 2
        assert not window.imu[masked].any()
        lengths.append(masked.sum())
        starts += list(np.flatnonzero(masked)[:1])
    assert max(lengths) in range(47, 51)
    assert np.mean(lengths) == pytest.approx(25, abs=3)
    assert min(starts) < 5
    assert max(starts) > 85


def test_colours_change_as_they_are_asked_to_and_greys_do_not():
    window = example(frames=2)
    window.frames[:] = 90
    for sample in range(5):
        window.sample = sample
        changed = augment(window, only(saturation=0.9, hue=0.5), 0, 0).frames
        assert np.abs(changed.astype(int) - 90).max() <= 1
    window.frames[:] = [140, 100, 80]
    hues, distances = [], []
    for sample in range(60):
        window.sample = sample
        turned = augment(window, only(hue=0.2), 0, 0).frames
        assert np.ptp(turned, axis=(0, 1, 2)).max() == 0  # one a clip
        hues.append(colorsys.rgb_to_yiq(*turned[0, 0, 0] / 255.0))
        faded = augment(window, only(saturation=0.5), 0, 0).frames[0, 0, 0] / 255.0
        distances.append(np.hypot(*colorsys.rgb_to_yiq(*faded)[1:]))
    own = colorsys.rgb_to_yiq(140 / 255, 100 / 255, 80 / 255)
    brightness, *chroma = np.transpose(hues)
    assert brightness == pytest.approx(own[0], abs=0.01)
    assert np.hypot(*chroma) == pytest.approx(np.hypot(*own[1:]), abs=0.02)
    angles = np.angle((chroma[0] + 1j * chroma[1]) / (own[1] + 1j * own[2])) / (2 * np.pi)
    assert -0.22 < angles.min() < -0.12
    assert 0.12 < angles.max() < 0.22
    factors = np.array(distances) / np.hypot(*own[1:])
    assert 0.45 < factors.min() < 0.65
    assert 1.35 < factors.max() < 1.55


def test_one_frame_of_each_chunk_and_rather_one_that_is_there():
    valid = np.ones(12, bool)
    valid[[0, 1, 3, 4, 5]] = False
    assert choose_frames(valid, 4, None).tolist() == [2, 4, 7, 10]
    drawn = np.array([choose_frames(valid, 4, np.random.default_rng(seed)) for seed in range(60)])
    assert [set(column) for column in drawn.T] == [{2}, {3, 4, 5}, {6, 7, 8}, {9, 10, 11}]
    assert choose_frames(np.ones(4, bool), 4, np.random.default_rng(0)).tolist() == [0, 1, 2, 3]
