"""Does the picture follow the pinhole model and move as the gyroscope says?"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from shards.simulate.imu_sensor import ideal_readings
from shards.simulate.motion import CAMERA_AXES
from shards.simulate.record import SimulatedConfig, frame_times, frames, simulate
from shards.simulate.render import Renderer
from shards.simulate.scene import Box, Scene
from shards.simulate.texture import Light, paint_box, paint_room

SIZE = 96


def make_scene(boxes: list[Box]) -> Scene:
    """A room of 6 x 8 x 3 m with random walls, and boxes of plain colour."""
    low, high = np.array([-3.0, -4.0, 0.0]), np.array([3.0, 4.0, 3.0])
    scene = Scene(low, high, boxes, [])
    light = Light(np.array([0.0, 0.0, 2.5]), 5.0, 0.6, np.ones(3))
    paint_room(scene.atlas, low, high, [np.full((64, 64, 3), 0.3, np.float32)], light, np.random.default_rng(0))
    for box in boxes:
        paint_box(scene.atlas, box.centre, box.rotation, box.size, box.material, light)
    scene.atlas.close()
    return scene


def look(renderer: Renderer, position: np.ndarray, yaw: float, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """Picture of a camera that looks along x, turned by yaw (left), pitch (down) and roll."""
    rotation = Rotation.from_euler("ZYX", [yaw, pitch, roll]).as_matrix() @ CAMERA_AXES
    return renderer.render(position, rotation, np.zeros((0, 3)), np.zeros((0, 3, 3)))


def shift_between(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """(right, down) shift in pixels of the picture's middle, by phase correlation with a parabola through the peak."""
    middle = slice(before.shape[0] // 4, 3 * before.shape[0] // 4)
    a, b = (np.float64(p[middle, middle].mean(axis=2)) for p in (before, after))
    taper = np.hanning(len(a))[:, None] * np.hanning(len(a))
    spectra = [np.fft.fft2((p - p.mean()) * taper) for p in (a, b)]
    cross = spectra[1] * np.conj(spectra[0])
    surface = np.fft.ifft2(cross / (np.abs(cross) + 1e-3 * np.abs(cross).max())).real
    peak = np.unravel_index(surface.argmax(), surface.shape)
    result = []
    for axis in (1, 0):
        line = np.roll(surface, (-peak[0], -peak[1]), (0, 1))
        left, centre, right = (line.take(k, axis=axis).take(0) for k in (-1, 0, 1))
        position = peak[axis] + 0.5 * (left - right) / (left - 2.0 * centre + right)
        result.append(float((position + len(a) / 2) % len(a) - len(a) / 2))
    return result[0], result[1]


def test_box_lies_where_the_pinhole_model_puts_it() -> None:
    red = np.zeros((64, 64, 3), np.float32)
    red[..., 0] = 1.0
    turn = Rotation.from_euler("z", 30.0, degrees=True).as_matrix()
    box = Box(np.array([1.5, 0.6, 1.2]), turn, np.array([0.5, 0.4, 0.6]), red)
    renderer = Renderer(make_scene([box]), 256, 80.0)
    eye = np.array([-2.0, -0.3, 1.6])
    yaw, pitch, roll = 0.1, 0.15, 0.05
    picture = look(renderer, eye, yaw, pitch, roll).astype(int)
    rows, columns = np.nonzero((picture[..., 0] > 40) & (picture[..., 1] < 5) & (picture[..., 2] < 5))
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * box.size / 2.0
    body = Rotation.from_euler("ZYX", [yaw, pitch, roll]).inv().apply(corners @ turn.T + box.centre - eye)
    focal = 128.0 / math.tan(math.radians(40.0))
    right = 128.0 - focal * body[:, 1] / body[:, 0]
    down = 128.0 - focal * body[:, 2] / body[:, 0]
    assert columns.min() == pytest.approx(right.min(), abs=1.0)
    assert columns.max() + 1 == pytest.approx(right.max(), abs=1.0)
    assert rows.min() == pytest.approx(down.min(), abs=1.0)
    assert rows.max() + 1 == pytest.approx(down.max(), abs=1.0)


@pytest.mark.parametrize("degrees", [-6.0, -2.0, 2.0, 6.0])
def test_turning_left_moves_the_picture_right_by_the_focal_length_times_the_angle(degrees: float) -> None:
    renderer = Renderer(make_scene([]), SIZE, 60.0)
    eye = np.array([0.0, 0.0, 1.5])
    right, down = shift_between(look(renderer, eye, 0.0), look(renderer, eye, math.radians(degrees)))
    assert right == pytest.approx(renderer.focal_px * math.tan(math.radians(degrees)), abs=0.7)
    assert abs(down) < 0.7


def test_tilting_down_moves_the_picture_up() -> None:
    renderer = Renderer(make_scene([]), SIZE, 60.0)
    eye = np.array([0.0, 0.0, 1.5])
    right, down = shift_between(look(renderer, eye, 0.0), look(renderer, eye, 0.0, math.radians(4.0)))
    assert down == pytest.approx(-renderer.focal_px * math.tan(math.radians(4.0)), abs=0.7)
    assert abs(right) < 0.7


def test_nearer_box_hides_the_farther_one() -> None:
    def plain(channel: int, x: float) -> Box:
        colour = np.zeros((64, 64, 3), np.float32)
        colour[..., channel] = 1.0
        return Box(np.array([x, 0.0, 1.5]), np.eye(3), np.array([0.3, 0.3, 0.3]), colour)

    for boxes in ([plain(0, 1.0), plain(1, 2.0)], [plain(1, 2.0), plain(0, 1.0)]):
        picture = look(Renderer(make_scene(boxes), SIZE, 60.0), np.array([-1.0, 0.0, 1.5]), 0.0)
        centre = picture[SIZE // 2, SIZE // 2]
        assert centre[0] > 50
        assert centre[1] == 0


def test_box_that_reaches_behind_the_camera_is_drawn_in_front_of_it() -> None:
    blue = np.zeros((64, 64, 3), np.float32)
    blue[..., 2] = 1.0
    table = Box(np.array([0.0, 0.0, 0.5]), np.eye(3), np.array([4.0, 1.0, 0.2]), blue)
    renderer = Renderer(make_scene([table]), SIZE, 90.0)
    with_table = look(renderer, np.array([0.0, 0.0, 1.4]), 0.0).astype(int)
    below = SIZE // 2 + np.arange(SIZE // 2)
    # The table's top is 0.8 m below the eye and ends 2 m ahead: 0.4 of the focal length down.
    is_table = (with_table[below, SIZE // 2, 0] == 0) & (with_table[below, SIZE // 2, 2] > 20)
    np.testing.assert_array_equal(is_table, (below + 0.5 - SIZE / 2) / (SIZE / 2) > 0.4)
    assert not (with_table[: SIZE // 2, :, 0] == 0).all(axis=1).any()


@pytest.mark.slow
def test_video_moves_as_the_head_imu_turns() -> None:
    config = SimulatedConfig(num_subjects=1, duration_s=25.0, video_size=96, fps=20, positions=["head"], seed=6)
    recording = simulate(config, 0)
    pictures = list(frames(config, recording, 0))
    times = frame_times(config)
    seen = np.array([shift_between(a, b) for a, b in itertools.pairwise(pictures)])
    middle = 0.5 * (times[1:] + times[:-1])
    _, rate = ideal_readings(recording.sensors["head"], middle)
    to_camera = recording.camera.rotation(middle).transpose(0, 2, 1) @ recording.sensors["head"].rotation(middle)
    rate = np.einsum("nij,nj->ni", to_camera, rate)
    # Of 96 pixels at 90 degrees the focal length is 48. A turn about the camera's downward axis is a turn to the
    # right, which moves the picture left; one about its rightward axis tilts up, which moves the picture down.
    expected = 48.0 / config.fps * np.stack([-rate[:, 1], rate[:, 0]], axis=1)
    for axis in (0, 1):
        assert np.abs(expected[:, axis]).max() > 1.0
        assert np.corrcoef(seen[:, axis], expected[:, axis])[0, 1] > 0.8
        moving = np.abs(expected[:, axis]) > 0.6
        assert np.median(seen[moving, axis] / expected[moving, axis]) == pytest.approx(1.0, abs=0.2)


@pytest.mark.slow
def test_rooms_differ_and_have_detail() -> None:
    config = SimulatedConfig(num_subjects=3, duration_s=1.0, video_size=64, fps=2)
    first = [next(iter(frames(config, simulate(config, i), i))).astype(float) for i in range(3)]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(first[a] - first[b]).mean() > 15.0
    for picture in first:
        assert 40.0 < picture.mean() < 220.0
        assert picture.std() > 20.0
