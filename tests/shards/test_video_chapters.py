"""Chapters of a video are read as if they were one file."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from shards import video
from shards.sources.base import RecordingError
from shards.video import Watch
from shards.video_chapters import Chapters, chapter_starts, probe, read_frames
from tests.shards.recordings import number_of, write_video


@pytest.fixture
def chapters(tmp_path):
    return Chapters(tuple(write_video(tmp_path / f"{i}.mp4", num) for i, num in enumerate((20, 7, 13))))


def test_times_go_on_over_the_chapters(chapters):
    np.testing.assert_allclose(chapter_starts(chapters), [0, 20 / 25, 27 / 25])
    info = probe(chapters)
    np.testing.assert_allclose(info.times_s, np.arange(40) / 25, atol=1e-9)
    assert info.duration_s == pytest.approx(40 / 25)
    assert (info.width, info.height, info.start_s) == (160, 96, video.probe(chapters.paths[0]).start_s)


@pytest.mark.parametrize("backend", ["decord", "pyav"])
def test_frames_are_those_of_the_files(chapters, backend):
    wanted = [0, 18, 19, 20, 26, 27, 39]
    found = [(i, number_of(picture)) for i, picture in read_frames(chapters, wanted, 96, "squash", backend=backend)]
    assert found == [(0, 0), (18, 18), (19, 19), (20, 0), (26, 6), (27, 0), (39, 12)]


@pytest.mark.parametrize("watched", [list(range(40)), [1, 19, 20, 28, 39]])
def test_frames_are_watched_over_the_chapters(chapters, watched):
    seen: list[tuple[int, int]] = []
    watch = Watch(watched, lambda i, picture: seen.append((i, number_of(picture[..., None]))))
    assert [i for i, _ in read_frames(chapters, [21], 96, "squash", watch=watch)] == [21]
    numbers = [*range(20), *range(7), *range(13)]
    assert seen == [(i, numbers[i]) for i in watched]


def test_chapters_without_wanted_frames_are_not_decoded(chapters):
    probe(chapters)
    whole = chapters.paths[0].read_bytes()
    chapters.paths[0].write_bytes(whole[: len(whole) // 2] + bytes(len(whole) // 4) + whole[3 * len(whole) // 4 :])
    assert [i for i, _ in read_frames(chapters, [22], 96, "squash")] == [22]


def test_one_file_is_read_as_before(chapters):
    path = chapters.paths[2]
    assert probe(path) is video.probe(path)
    assert [number_of(picture) for _, picture in read_frames(path, [3, 12], 96, "squash")] == [3, 12]


def test_chapters_of_other_rates_are_refused(tmp_path):
    paths = write_video(tmp_path / "a.mp4", 20), write_video(tmp_path / "b.mp4", 20, fps=50)
    with pytest.raises(RecordingError, match=r"b.mp4: has 160x96 pixels at 50 frames/s, but a.mp4 has .* 25 frames/s"):
        probe(Chapters(paths))


def test_chapters_go_to_worker_processes(chapters):
    assert pickle.loads(pickle.dumps(chapters)) == chapters
    assert str(chapters.paths[0]) in str(chapters)
