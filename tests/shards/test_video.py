"""Videos: the frame that is shown at a time, whatever the container says, by either decoder, and clear refusals."""

from __future__ import annotations

import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from imuvid.errors import UserError
from shards.sources.base import RecordingError
from shards.video import BACKENDS, Watch, check_backend, probe, read_frames
from tests.shards.recordings import HEIGHT, WIDTH, copy_from, number_of, rotated, trimmed, write_video

both = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "a.mp4", 75, options={"movflags": "faststart"})


def numbers(path, wanted, backend, **options):
    return [number_of(picture) for _, picture in read_frames(path, wanted, 64, "squash", backend=backend, **options)]


def shown_by_pyav(path):
    """(time after the first frame, picture) of every frame, by PyAV with nothing of ours around it."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        frames = [
            (float(f.pts * stream.time_base), np.rot90(f.to_ndarray(format="rgb24"), f.rotation // 90))
            for f in container.decode(stream)
        ]
    return [(time_s - frames[0][0], picture) for time_s, picture in frames]


def shown_by_ffmpeg(path, size=64):
    """(float64 [N] times after the first frame in s, uint8 [N, size, size, 3]) of what the ffmpeg program plays."""
    program = pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg, which holds an ffmpeg, is not installed")
    command = [program.get_ffmpeg_exe(), "-nostdin", "-threads", "1", "-i", str(path)]
    command += ["-vf", f"scale={size}:{size}:flags=bilinear,showinfo", "-fps_mode", "passthrough"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=120)
    times_s = np.array([float(time) for time in re.findall(rb"pts_time:\s*(-?[\d.e+-]+)", done.stderr)])
    pictures = np.frombuffer(done.stdout, np.uint8).reshape(-1, size, size, 3)
    assert len(times_s) == len(pictures) > 0
    return times_s - times_s[0], pictures


def differences(path, wanted, backend, expected, size=64):
    return [
        np.abs(picture.astype(int) - expected[index]).mean()
        for index, picture in read_frames(path, wanted, size, "squash", backend=backend)
    ]


# The frames that are shown


@both
def test_times_size_and_frames_of_a_plain_video(video, backend):
    info = probe(video)
    assert info.times_s == pytest.approx(np.arange(75) / 25)
    assert info.duration_s == pytest.approx(3.0)
    assert (info.width, info.height) == (WIDTH, HEIGHT)
    wanted = [0, 1, 29, 30, 44, 74]
    assert numbers(video, wanted, backend) == wanted
    assert numbers(video, [], backend) == []


@both
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_times_of_a_video_of_variable_rate_are_its_own(tmp_path, suffix, backend):
    times_ms = np.cumsum([0, *([40] * 10), 700, *([20] * 20), *([100] * 9)]).tolist()
    path = write_video(tmp_path / f"variable.{suffix}", len(times_ms), times_ms=times_ms)
    assert probe(path).times_s == pytest.approx(np.array(times_ms) / 1000, abs=1e-6)
    assert numbers(path, [10, 11, 33], backend) == [10, 11, 33]


@both
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_frames_are_right_where_the_first_time_is_not_zero(video, tmp_path, suffix, backend):
    late = copy_from(video, tmp_path / f"late.{suffix}", 1.5)
    info = probe(late)
    assert info.times_s[0] == 0
    assert info.start_s == pytest.approx(1.5, abs=1e-3)
    assert numbers(late, [0, 40], backend) == [0, 40]


@both
def test_frames_hidden_by_an_edit_list_are_not_counted(video, tmp_path, backend):
    """A cut at 1.72 s without re-encoding keeps the frames from the key frame at 1.2 s on, hidden."""
    cut = copy_from(video, tmp_path / "cut.mp4", -1.72)
    expected = shown_by_pyav(cut)
    info = probe(cut)
    assert info.times_s == pytest.approx([time_s for time_s, _ in expected], abs=1e-6)
    found = numbers(cut, range(len(info.times_s)), backend)
    assert found == [number_of(picture) for _, picture in expected]
    assert found[0] == 43
    assert numbers(cut, [5, 20, 30], backend) == [48, 63, 73]


@both
def test_end_trimmed_by_an_edit_list_is_not_taken_for_a_truncated_file(video, tmp_path, backend):
    short = trimmed(video, tmp_path / "short.mp4", 40)
    info = probe(short)
    assert len(info.times_s) == len(shown_by_pyav(short)) < 45
    last = len(info.times_s) - 1
    assert numbers(short, [20, last], backend) == [20, last]


@both
def test_picture_is_turned_as_the_file_says(video, tmp_path, backend):
    turned = rotated(video, tmp_path / "turned.mp4")
    info = probe(turned)
    assert (info.width, info.height) == (HEIGHT, WIDTH)
    (_, picture), *_ = read_frames(turned, [42], WIDTH, "pad", backend=backend)
    _, expected = shown_by_pyav(turned)[42]
    left = (WIDTH - HEIGHT) // 2
    assert np.abs(picture[:, left : left + HEIGHT].astype(int) - expected).mean() < 3
    assert not picture[:, :left].any()


@both
def test_pixels_that_are_not_square_are_shown_in_their_shape(tmp_path, backend):
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 96, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((96, 96, 3), 200, np.uint8))))
        container.mux(stream.encode())
    info = probe(path)
    assert (info.width, info.height) == (192, 96)
    (_, picture), *_ = read_frames(path, [3], 64, "pad", backend=backend)
    rows = np.flatnonzero(picture.mean(axis=(1, 2)) > 100)
    assert (rows[0], rows[-1]) == (16, 47)


@both
@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_fits_show_the_middle_all_of_it_or_all_of_it_squeezed(video, fit, backend):
    _, picture = next(read_frames(video, [33], 48, fit, backend=backend))
    assert picture.shape == (48, 48, 3)
    assert picture.dtype == np.uint8
    bar = WIDTH / 10
    scale, left = {"crop": (48 / HEIGHT, -16), "pad": (48 / WIDTH, 0), "squash": (48 / WIDTH, 0)}[fit]
    centres = ((np.arange(10) + 0.5) * bar * scale + left).astype(int)
    for bit, centre in enumerate(centres):
        if 0 <= centre < 48:
            assert (picture[24, centre].mean() > 127) == bool(33 >> bit & 1), bit
    borders_black = not picture[[0, 1, -1, -2]].any()
    assert borders_black == (fit == "pad")


@both
@pytest.mark.parametrize("size", [8, 31, 48, 63, 64, 65, 150, 224])
def test_pixels_are_right_at_any_width(video, size, backend):
    _, picture = next(read_frames(video, [33], size, "squash", backend=backend))
    with av.open(str(video)) as container:
        frames = list(container.decode(video=0))
    assert np.abs(picture - frames[33].reformat(size, size, "rgb24").to_ndarray().astype(int)).mean() < 6


@both
@pytest.mark.parametrize("threads", [1, 3])
def test_several_threads_give_the_same_frames(video, backend, threads):
    assert numbers(video, [0, 7, 74], backend, num_threads=threads) == [0, 7, 74]


@both
@pytest.mark.parametrize("kind", ["plain", "variable", "cut", "short", "turned", "odd"])
def test_times_and_pictures_are_those_that_ffmpeg_plays(video, tmp_path, kind, backend):
    path = tmp_path / f"{kind}.mp4"
    if kind == "plain":
        path = video
    elif kind == "variable":
        write_video(path, 30, times_ms=np.cumsum([0, *([40] * 10), 700, *([20] * 18)]).tolist())
    elif kind == "cut":
        copy_from(video, path, -1.72)
    elif kind == "short":
        trimmed(video, path, 40)
    elif kind == "turned":
        rotated(video, path)
    else:
        write_odd_size(path)
    times_s, pictures = shown_by_ffmpeg(path)
    assert probe(path).times_s == pytest.approx(times_s, abs=1e-5)
    assert max(differences(path, range(len(times_s)), backend, pictures)) < 3


def write_odd_size(path):
    """A video of 161 x 97 pixels of noise that moves."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 161, 97, "yuv444p"
        for i in range(20):
            picture = np.ascontiguousarray(noise[i : i + 97, 2 * i : 2 * i + 161])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())


# Watching


@both
@pytest.mark.parametrize("watched", [list(range(75)), [0, 2, 3, 39, 41, 70]])
def test_watch_sees_its_frames_before_they_are_cut(video, backend, watched):
    seen = []
    wanted = [3, 40]
    watch = Watch(watched, lambda i, picture: seen.append((i, picture)))
    found = read_frames(video, wanted, 48, "crop", 1, backend, watch)
    assert [index for index, _ in found] == wanted
    assert [index for index, _ in seen] == watched
    assert {picture.shape for _, picture in seen} == {(48, 80) if backend == "decord" else (96, 160)}
    assert [number_of(picture[..., None]) for _, picture in seen] == watched


@pytest.mark.parametrize(
    ("pixels", "aspect"),
    [("yuv420p", 1), ("yuv444p", 1), ("gray", 1), ("yuv420p10le", 1), ("rgb24", 1), ("yuv420p", 2)],
)
def test_watched_pictures_are_upright_whole_and_have_square_pixels(pixels, aspect, tmp_path):
    """The brightness rises from left to right and, less, from the top to the bottom, whatever the pixel format."""
    path = tmp_path / ("a.mp4" if pixels != "rgb24" else "a.mkv")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264" if pixels != "rgb24" else "libx264rgb", rate=25)
        stream.width, stream.height, stream.pix_fmt = 290, 170, pixels
        stream.codec_context.sample_aspect_ratio = Fraction(aspect, 1)
        ramp = np.linspace(40, 180, 290)[None] + np.linspace(0, 50, 170)[:, None]
        picture = np.rint(ramp).astype(np.uint8)[..., None].repeat(3, axis=2)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    paths = [path] if pixels == "rgb24" else [path, rotated(path, tmp_path / "turned.mp4")]
    for number, shown in enumerate(paths):
        seen = []
        watch = Watch([0], lambda _, picture, seen=seen: seen.append(picture.astype(float)))
        assert list(read_frames(shown, [], 160, "crop", watch=watch)) == []
        # As the RGB picture, which is compared with ffmpeg's above.
        ((_, expected),) = read_frames(shown, [0], 50, "squash")
        (found,) = seen
        wide = 290 * aspect / 170
        assert found.shape[1] / found.shape[0] == pytest.approx(1 / wide if number else wide, rel=0.02)
        rows, columns = (np.linspace(0, side - 1, 50).round().astype(int) for side in found.shape)
        assert np.corrcoef(found[rows][:, columns].ravel(), expected[..., 1].ravel())[0, 1] > 0.99


@pytest.fixture(scope="module")
def half_damaged(video, tmp_path_factory) -> Path:
    """The index promises 75 frames, but the bytes of the later ones are gone."""
    content = bytearray(video.read_bytes())
    data = content.index(b"mdat")
    half = data + (len(content) - data) // 2
    content[half:] = bytes(len(content) - half)
    path = tmp_path_factory.mktemp("damaged") / "half.mp4"
    path.write_bytes(content)
    return path


def test_damage_after_the_last_wanted_frame_costs_nothing_where_nobody_watches(half_damaged):
    """Decord may fail here, as it decodes ahead."""
    assert numbers(half_damaged, [0, 5], "pyav") == [0, 5]


# Refusals


@both
def test_decoding_that_ends_early_is_an_error_that_says_where(half_damaged, backend):
    with pytest.raises(RecordingError, match=r"half\.mp4: decoding fails after \d+ of 75 frames") as error:
        list(read_frames(half_damaged, range(75), 32, "squash", backend=backend))
    assert error.value.reason == "damaged_video"
    with pytest.raises(RecordingError):
        list(
            read_frames(
                half_damaged, [0], 32, "squash", backend=backend, watch=Watch(range(75), lambda i, picture: None)
            )
        )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "missing"),
        (b"", "empty"),
        (b"these are words, not a video" * 50, "not_a_video"),
        ("two thirds", "truncated"),
    ],
)
def test_files_that_are_no_video_are_refused_in_one_line(video, tmp_path, content, reason):
    path = tmp_path / "bad.mp4"
    if content == "two thirds":
        whole = video.read_bytes()
        content = whole[: 2 * len(whole) // 3]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecordingError) as error:
        probe(path)
    assert error.value.reason == reason
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_file_without_its_index_is_refused(tmp_path):
    whole = write_video(tmp_path / "end.mp4").read_bytes()
    path = tmp_path / "noindex.mp4"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordingError, match="cannot be read as a video"):
        probe(path)


def test_an_unknown_decoder_is_refused(video):
    with pytest.raises(UserError, match=r"frames\.backend=opencv: must be one of decord, pyav"):
        next(read_frames(video, [0], 64, "crop", backend="opencv"))


def test_without_decord_all_but_decord_works_and_the_message_names_pyav(video):
    """As on a platform for which decord has no wheel: there every import of it fails."""
    program = f"""
import importlib.abc, sys
from pathlib import Path
class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "decord":
            raise ModuleNotFoundError("No module named 'decord'", name="decord")
sys.meta_path.insert(0, Hidden())
import shards.build
from imuvid.errors import UserError
from shards.video import Watch, read_frames
video = Path({str(video)!r})
assert [index for index, _ in read_frames(video, [4], 32, "crop", backend="pyav")] == [4]
try:
    next(read_frames(video, [4], 32, "crop", backend="decord"))
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert "frames.backend=decord: decord cannot be imported" in done.stdout
    assert "frames.backend=pyav" in done.stdout
    check_backend("pyav")


# Memory, and real files


@pytest.mark.slow
@both
def test_memory_does_not_grow_with_the_number_of_videos_read(video, backend):
    def used():
        list(read_frames(video, [0, 5], 64, "crop", backend=backend))
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4096 / 2**20

    start = max(used() for _ in range(30))
    end = min(used() for _ in range(200))
    assert end - start < 10


@pytest.mark.slow
@both
def test_real_videos_of_many_containers_are_as_ffmpeg_plays_them(realdata, backend):
    paths = sorted(p for p in (realdata / "videos").iterdir() if p.suffix in (".mp4", ".avi", ".mkv"))
    assert len(paths) >= 12
    for path in paths:
        times_s, pictures = shown_by_ffmpeg(path)
        assert probe(path).times_s == pytest.approx(times_s, abs=1e-5), path.name
        wanted = sorted({*range(0, len(times_s), 23), len(times_s) - 1})
        assert max(differences(path, wanted, backend, pictures)) < 3, path.name


@pytest.mark.slow
def test_both_decoders_give_nearly_the_same_pictures_of_real_videos(realdata):
    for path in sorted(p for p in (realdata / "videos").iterdir() if p.suffix in (".mp4", ".avi", ".mkv")):
        wanted = range(0, len(probe(path).times_s), 31)
        expected = dict(read_frames(path, wanted, 64, "squash", backend="decord"))
        assert max(differences(path, wanted, "pyav", {i: p.astype(int) for i, p in expected.items()})) < 3, path.name
