from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from shards.motion import FOCAL, MotionTracker

HEIGHT, WIDTH = 144, 192
FOCAL_PX = 150.0
FPS = 15.0


@pytest.fixture(scope="module")
def texture() -> np.ndarray:
    """A wall at infinity, seen by angle: 500 texels a radian, over +-2 radians each way."""
    rng = np.random.default_rng(0)
    wall = gaussian_filter(rng.standard_normal((2000, 2000)), 6.0) + gaussian_filter(
        rng.standard_normal((2000, 2000)), 2.0
    )
    return np.clip(128.0 + 60.0 * wall / wall.std(), 0.0, 255.0)


def look(texture: np.ndarray, rotation: Rotation, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """What a pinhole camera sees that is turned (camera to world), by exact projection: uint8 [h, w]."""
    height, width = shape
    y, x = np.mgrid[:height, :width] - 0.5 * np.array([height - 1, width - 1])[:, None, None]
    rays = np.stack([x / FOCAL_PX, y / FOCAL_PX, np.ones_like(x)], axis=-1).reshape(-1, 3)
    rays = rotation.apply(rays)
    across = np.arctan2(rays[:, 0], rays[:, 2])
    down = np.arctan2(rays[:, 1], np.hypot(rays[:, 0], rays[:, 2]))
    grey = map_coordinates(texture, [1000.0 + 500.0 * down, 1000.0 + 500.0 * across], order=1, mode="mirror")
    return np.rint(grey).astype(np.uint8).reshape(height, width)


def turned(rates: np.ndarray) -> list[Rotation]:
    """Orientations of a camera that turns by ``rates`` [N, 3] radians, in its own axes, from frame to frame."""
    result = [Rotation.identity()]
    for rate in rates:
        result.append(result[-1] * Rotation.from_rotvec(rate))
    return result


def follow(pictures: list[np.ndarray], fps: float = FPS) -> MotionTracker:
    tracker = MotionTracker()
    for number, picture in enumerate(pictures):
        tracker.add(number / fps, picture)
    return tracker


def wander(num: int, size: float, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rates = gaussian_filter(rng.standard_normal((num, 3)), (2.0, 0.0))
    return size * rates / rates.std()


@pytest.mark.parametrize(("size", "error"), [(0.02, 0.13), (0.05, 0.06)])
def test_rotation_is_that_of_the_camera(texture: np.ndarray, size: float, error: float) -> None:
    rates = wander(40, size)
    track = follow([look(texture, rotation) for rotation in turned(rates)]).track()
    assert len(track.weight) == 40
    np.testing.assert_allclose(track.end_s - track.start_s, 1.0 / FPS)
    assert track.weight.min() > 0.5
    # The assumed focal length is not the true one: x and y are off by that factor, roll is not.
    seen = track.rotation / np.array([FOCAL_PX / (FOCAL * WIDTH)] * 2 + [1.0])
    wrong = np.sqrt(((seen - rates) ** 2).mean(axis=0)) / size
    assert wrong.max() < error, wrong


def test_a_quick_turn_is_followed(texture: np.ndarray) -> None:
    rates = np.zeros((6, 3))
    rates[:, 1] = [0.05, 0.15, 0.25, 0.25, 0.15, 0.05]
    track = follow([look(texture, rotation) for rotation in turned(rates)]).track()
    seen = track.rotation[:, 1] / (FOCAL_PX / (FOCAL * WIDTH))
    np.testing.assert_allclose(seen, rates[:, 1], rtol=0.12)


def test_moving_foreground_and_light_do_not_count(texture: np.ndarray) -> None:
    rates = wander(30, 0.02)
    clean = [look(texture, rotation) for rotation in turned(rates)]
    limb = look(texture, Rotation.from_rotvec([0.4, 0.9, 0.0]))
    disturbed = []
    for number, picture in enumerate(clean):
        left = 10 + 4 * number % 100
        picture = np.clip(picture * (1.0 + 0.2 * np.sin(number)) + 8.0, 0, 255).astype(np.uint8)
        picture[70:, left : left + 50] = limb[70:, :50]
        disturbed.append(picture)
    truth = follow(clean).track().rotation
    wrong = np.sqrt(((follow(disturbed).track().rotation - truth) ** 2).mean(axis=0))
    assert wrong.max() < 0.2 * 0.02, wrong


def test_a_person_before_a_camera_at_rest_is_no_rotation(texture: np.ndarray) -> None:
    wall, person = look(texture, Rotation.identity()), look(texture, Rotation.from_rotvec([0.4, 0.9, 0.0]))
    noise = np.random.default_rng(3)
    pictures = []
    for number in range(30):
        picture = wall.copy()
        left = 20 + 3 * number
        picture[40:, left : left + 40] = person[40:, :40]
        pictures.append(np.clip(picture + noise.normal(0.0, 2.0, picture.shape), 0, 255).astype(np.uint8))
    assert np.abs(follow(pictures).track().rotation).max() < 0.004


def test_portrait_and_landscape_agree(texture: np.ndarray) -> None:
    rates = wander(20, 0.02)
    upright = follow([look(texture, rotation, (WIDTH, HEIGHT)) for rotation in turned(rates)]).track()
    flat = follow([look(texture, rotation) for rotation in turned(rates)]).track()
    assert np.corrcoef(upright.rotation.ravel(), flat.rotation.ravel())[0, 1] > 0.98


@pytest.mark.parametrize("value", [0, 77, 255])
def test_nothing_is_seen_in_blank_pictures(value: int) -> None:
    noise = np.random.default_rng(0)
    pictures = [np.full((128, 128), value, np.uint8) for _ in range(20)]
    for picture in pictures:
        picture[noise.integers(128), noise.integers(128)] ^= 1
    track = follow(pictures).track()
    assert not track.weight.any()
    assert np.isfinite(track.rotation).all()


def test_few_small_and_odd_pictures(texture: np.ndarray) -> None:
    picture = look(texture, Rotation.identity())
    assert len(MotionTracker().track().weight) == 0
    assert follow([picture]).track().rotation.shape == (0, 3)
    assert len(follow([picture[:20, :20], picture[1:21, :20]]).track().weight) == 0
    assert len(follow([picture[:, :1]] * 3).track().weight) == 0
    # From a view, and across a change of size: no pair is made of pictures of two sizes.
    mixed = [picture[::-1], picture[1:][::-1], picture[::-1], picture[:, ::-1], picture[:, ::-1][1:]]
    assert np.isfinite(follow(mixed).track().rotation).all()


def test_times_that_do_not_increase_are_left_out(texture: np.ndarray) -> None:
    tracker = MotionTracker()
    for number, time_s in enumerate([0.0, 0.1, 0.1, 0.05, float("nan"), float("inf"), 0.2]):
        tracker.add(time_s, look(texture, Rotation.from_rotvec([0.0, 0.01 * number, 0.0])))
    track = tracker.track()
    np.testing.assert_allclose(track.start_s, [0.0, 0.1])
    np.testing.assert_allclose(track.end_s, [0.1, 0.2])


def test_repeated_frames_and_long_gaps(texture: np.ndarray) -> None:
    first, second = (look(texture, Rotation.from_rotvec([0.0, angle, 0.0])) for angle in (0.0, 0.02))
    tracker = MotionTracker()
    for time_s, picture in ((0.0, first), (0.07, first), (0.14, second), (0.8, first)):
        tracker.add(time_s, picture)
    track = tracker.track()
    np.testing.assert_allclose(track.start_s, [0.0, 0.14])
    np.testing.assert_allclose(track.end_s, [0.14, 0.8])
    assert track.weight[0] > 0.5
    assert track.weight[1] == 0.0


def test_not_every_frame_of_a_fast_video_is_looked_at(texture: np.ndarray) -> None:
    pictures = [look(texture, rotation) for rotation in turned(wander(120, 0.004))]
    track = follow(pictures, fps=120.0).track()
    assert 12 <= len(track.weight) <= 23
    # Whatever is left out, the motion is whole.
    np.testing.assert_allclose(track.start_s[1:], track.end_s[:-1])


def test_the_track_does_not_depend_on_when_it_is_asked_for(texture: np.ndarray) -> None:
    pictures = [look(texture, rotation) for rotation in turned(wander(50, 0.02))]
    whole, asked = follow(pictures).track(), MotionTracker()
    for number, picture in enumerate(pictures):
        asked.add(number / FPS, picture)
        if number % 7 == 0:
            asked.track()
    np.testing.assert_allclose(asked.track().rotation, whole.rotation, atol=1e-6)
