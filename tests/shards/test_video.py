"""Videos: the frame that is shown at a time, whatever the container says, and clear refusals."""

from __future__ import annotations

import av
import numpy as np
import pytest

from shards.sources.base import RecordingError
from shards.video import probe, read_frames
from tests.shards.recordings import HEIGHT, WIDTH, copy_from, number_of, rotated, trimmed, write_video


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "a.mp4", 75, options={"movflags": "faststart"})


def shown_by_pyav(path):
    """(time after the first frame, picture) of every frame, by an independent decoder that honours edit lists."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        frames = [
            (float(f.pts * stream.time_base), np.rot90(f.to_ndarray(format="rgb24"), f.rotation // 90))
            for f in container.decode(stream)
        ]
    return [(time_s - frames[0][0], picture) for time_s, picture in frames]


def test_times_size_and_frames_of_a_plain_video(video):
    info = probe(video)
    assert info.times_s == pytest.approx(np.arange(75) / 25)
    assert info.duration_s == pytest.approx(3.0)
    assert (info.width, info.height) == (WIDTH, HEIGHT)
    wanted = [0, 1, 29, 30, 44, 74]
    assert [number_of(picture) for _, picture in read_frames(video, wanted, 64, "squash")] == wanted


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_times_of_a_video_of_variable_rate_are_its_own(tmp_path, suffix):
    times_ms = np.cumsum([0, *([40] * 10), 700, *([20] * 20), *([100] * 9)]).tolist()
    path = write_video(tmp_path / f"variable.{suffix}", len(times_ms), times_ms=times_ms)
    assert probe(path).times_s == pytest.approx(np.array(times_ms) / 1000, abs=1e-6)
    assert [number_of(picture) for _, picture in read_frames(path, [10, 11, 33], 64, "squash")] == [10, 11, 33]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_frames_are_right_where_the_first_time_is_not_zero(video, tmp_path, suffix):
    late = copy_from(video, tmp_path / f"late.{suffix}", 1.5)
    info = probe(late)
    assert info.times_s[0] == 0
    assert info.start_s == pytest.approx(1.5, abs=1e-3)
    assert [number_of(picture) for _, picture in read_frames(late, [0, 40], 64, "squash")] == [0, 40]


def test_frames_hidden_by_an_edit_list_are_not_counted(video, tmp_path):
    """A cut at 1.72 s without re-encoding keeps the frames from the key frame at 1.2 s on, hidden."""
    cut = copy_from(video, tmp_path / "cut.mp4", -1.72)
    expected = shown_by_pyav(cut)
    info = probe(cut)
    assert info.times_s == pytest.approx([time_s for time_s, _ in expected], abs=1e-6)
    numbers = [number_of(picture) for _, picture in read_frames(cut, range(len(info.times_s)), 64, "squash")]
    assert numbers == [number_of(picture) for _, picture in expected]
    assert numbers[0] == 43
    assert [number_of(picture) for _, picture in read_frames(cut, [5, 20, 30], 64, "squash")] == [48, 63, 73]


def test_end_trimmed_by_an_edit_list_is_not_taken_for_a_truncated_file(video, tmp_path):
    short = trimmed(video, tmp_path / "short.mp4", 40)
    info = probe(short)
    assert len(info.times_s) == len(shown_by_pyav(short)) < 45
    last = len(info.times_s) - 1
    assert [number_of(picture) for _, picture in read_frames(short, [20, last], 64, "squash")] == [20, last]


def test_picture_is_turned_as_the_file_says(video, tmp_path):
    turned = rotated(video, tmp_path / "turned.mp4")
    info = probe(turned)
    assert (info.width, info.height) == (HEIGHT, WIDTH)
    (_, picture), *_ = read_frames(turned, [42], WIDTH, "pad")
    _, expected = shown_by_pyav(turned)[42]
    left = (WIDTH - HEIGHT) // 2
    assert np.abs(picture[:, left : left + HEIGHT].astype(int) - expected).mean() < 3
    assert not picture[:, :left].any()


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_fits_show_the_middle_all_of_it_or_all_of_it_squeezed(video, fit):
    _, picture = next(read_frames(video, [33], 48, fit))
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


@pytest.mark.parametrize("size", [8, 31, 48, 63, 64, 65, 150, 224])
def test_pixels_are_right_at_any_width(video, size):
    _, picture = next(read_frames(video, [33], size, "squash"))
    with av.open(str(video)) as container:
        frames = list(container.decode(video=0))
    assert np.abs(picture - frames[33].reformat(size, size, "rgb24").to_ndarray().astype(int)).mean() < 6


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


@pytest.mark.slow
def test_real_videos_of_many_containers_give_the_frames_of_an_independent_decoder(realdata):
    paths = sorted(p for p in (realdata / "videos").iterdir() if p.suffix in (".mp4", ".avi", ".mkv"))
    assert len(paths) >= 12
    for path in paths:
        with av.open(str(path)) as container:
            stream = container.streams.best("video")
            few = []
            for frame in container.decode(stream):
                few.append((frame.pts * stream.time_base, frame.reformat(64, 64, "rgb24").to_ndarray()))
                if len(few) == 60:
                    break
        info = probe(path)
        # AVI holds no presentation times, and the decoder hands on those of the packets, which are not in order.
        times_s = sorted(float(time - few[0][0]) for time, _ in few)
        assert info.times_s[: len(few) - 3] == pytest.approx(times_s[:-3], abs=1e-6), path.name
        wanted = [i for i in (0, 7, 31, 59) if i < len(few)]
        for i, picture in read_frames(path, wanted, 64, "squash"):
            assert np.abs(picture.astype(int) - few[i][1]).mean() < 4, (path.name, i)
