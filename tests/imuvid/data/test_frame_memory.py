"""Frames that are decoded into their batch are those that plain decoding gives, whatever was there before."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import simplejpeg

from imuvid.data.batch import Example, collate
from imuvid.data.frame_memory import FrameMemory, ReadMemory, decode_frames


def jpegs(seed: int, num: int = 3, size: int = 24) -> list[bytes]:
    rng = np.random.default_rng(seed)
    return [
        simplejpeg.encode_jpeg(rng.integers(0, 256, (size, size, 3)).astype(np.uint8), quality=90) for _ in range(num)
    ]


def plain(pictures: list[bytes]) -> np.ndarray:
    return np.stack([simplejpeg.decode_jpeg(picture, colorspace="RGB") for picture in pictures])


def example(frames: np.ndarray, sample: int) -> Example:
    imu, valid = np.full((4, 1, 6), sample, np.float32), np.ones((4, 1, 2), bool)
    return Example(imu, valid, frames, np.ones(len(frames), bool), 0, sample)


def batch_of(memory: FrameMemory, seeds: list[int], **kind: int) -> list[Example]:
    examples = []
    for seed in seeds:
        frames = memory.decode(jpegs(seed, **kind))
        memory.keep(frames)
        examples.append(example(frames, seed))
    return examples


def test_a_batch_is_not_copied_and_holds_its_windows_in_order():
    memory = FrameMemory(4)
    examples = batch_of(memory, [5, 1, 9, 2])
    batch = collate(examples)
    assert batch.frames.data_ptr() == examples[0].frames.__array_interface__["data"][0]
    for row, seed in zip(batch.frames.numpy(), [5, 1, 9, 2], strict=True):
        np.testing.assert_array_equal(row, plain(jpegs(seed)))


def test_batches_that_someone_still_holds_are_left_alone():
    memory = FrameMemory(2)
    held = [(seeds, collate(batch_of(memory, seeds)).frames[1:]) for seeds in ([2 * i, 2 * i + 1] for i in range(8))]
    for (_, last), frames in held:
        np.testing.assert_array_equal(frames[0].numpy(), plain(jpegs(last)))


def test_memory_of_a_batch_that_was_let_go_is_used_again():
    memory, places = FrameMemory(2), set()
    for number in range(12):
        batch = collate(batch_of(memory, [number, number + 1]))
        places.add(batch.frames.data_ptr())
        np.testing.assert_array_equal(batch.frames[0].numpy(), plain(jpegs(number)))
    assert len(places) <= 3


def test_windows_that_are_left_out_or_changed_on_the_way_do_not_disturb_the_batch():
    memory = FrameMemory(3)
    kept = batch_of(memory, [1])
    memory.decode(jpegs(2))  # never kept, as of a window that turns out to be damaged
    with pytest.raises(ValueError):
        memory.decode([*jpegs(3)[:2], b"no picture"])
    changed = 255 - memory.decode(jpegs(4))  # an augmentation makes a new array
    memory.keep(changed)
    kept += [example(changed, 4), *batch_of(memory, [5])]
    batch = collate(kept).frames.numpy()
    for row, expected in zip(batch, [plain(jpegs(1)), 255 - plain(jpegs(4)), plain(jpegs(5))], strict=True):
        np.testing.assert_array_equal(row, expected)


def test_windows_in_another_order_than_they_were_decoded_in_are_stacked_in_theirs():
    examples = batch_of(FrameMemory(3), [1, 2, 3])
    shuffled = [examples[i] for i in (2, 0, 1)]
    for row, seed in zip(collate(shuffled).frames.numpy(), (3, 1, 2), strict=True):
        np.testing.assert_array_equal(row, plain(jpegs(seed)))
    np.testing.assert_array_equal(collate(examples[:2]).frames.numpy(), np.stack([plain(jpegs(i)) for i in (1, 2)]))


@pytest.mark.parametrize("kind", [{"num": 2}, {"size": 16}, {"size": 40}])
def test_windows_of_another_kind_get_memory_of_their_own(kind):
    memory = FrameMemory(4)
    first = batch_of(memory, [1])
    (other,) = batch_of(memory, [2], **kind)
    np.testing.assert_array_equal(other.frames, plain(jpegs(2, **kind)))
    np.testing.assert_array_equal(first[0].frames, plain(jpegs(1)))


def test_pictures_of_two_sizes_in_one_window_are_refused():
    mixed = [*jpegs(1, 1), *jpegs(1, 1, size=16)]
    for decode in (decode_frames, FrameMemory(2).decode):
        with pytest.raises(ValueError, match="same shape"):
            decode(mixed)


def test_it_goes_to_another_process_without_its_memory():
    memory = FrameMemory(2)
    batch_of(memory, [1])
    sent = pickle.dumps(memory)
    assert len(sent) < 500
    np.testing.assert_array_equal(pickle.loads(sent).decode(jpegs(2)), plain(jpegs(2)))


def test_windows_without_pictures():
    assert FrameMemory(2).decode([]).shape == (0, 0, 0, 3)


def test_what_is_read_stays_until_as_many_samples_were_read():
    memory, held = ReadMemory(3), []
    for number in range(30):
        size = 7 * (number * 11 % 13) + 1
        room = memory.take(size)
        assert len(room) == size
        room[:] = bytes([number]) * size
        held = [*held[-2:], (number, room)]
        assert all(bytes(view) == bytes([own]) * len(view) for own, view in held)
    assert pickle.loads(pickle.dumps(memory)).take(5).nbytes == 5
