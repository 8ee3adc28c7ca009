"""Windows that keep what a frozen video tower makes of their pictures, and no picture: for a build, and in a worker."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shards.config import FramesConfig

if TYPE_CHECKING:
    from imuvid.models.video_encoder import VideoEncoder

BATCH = 8
"""Successive windows that go through the tower together. Bits may depend on it, so it is part of the content."""


def describe_tower(frames: FramesConfig) -> dict[str, Any] | None:
    """Return what the frozen tower of a build is, as ``video_embedding`` of ``dataset.json``; None where there is none.

    It follows from the tower's files, not from where they lie.

    Raises:
        UserError: the tower cannot be loaded, or does not take such frames.
    """
    if frames.embed_with is None:
        return None
    return load_tower(frames.embed_with, frames.num, frames.size).description


def with_fixed_tower(frames: FramesConfig) -> FramesConfig:
    """Return the config with the folder of the tower as of now: ``latest`` names another one tomorrow.

    Raises:
        UserError: there is no tower.
    """
    if frames.embed_with is None:
        return frames
    from imuvid.models.video_encoder import find_video_encoder

    return dataclasses.replace(frames, embed_with=str(find_video_encoder(frames.embed_with).resolve()))


def load_tower(path: str, num_frames: int, size: int) -> VideoEncoder:
    """Return a frozen tower (:func:`imuvid.models.video_encoder.load_video_encoder`); kept for the next call.

    Raises:
        UserError: it cannot be loaded, or does not take such frames.
    """
    # Late, as torch takes seconds, and the processes of other builds do without it.
    from imuvid.models.video_encoder import find_video_encoder

    folder = find_video_encoder(path)
    stamps = [(file.stat().st_ino, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(folder.iterdir())]
    return _load(folder, num_frames, size, hashlib.sha256(repr(stamps).encode()).hexdigest())


def embed(encoder: VideoEncoder, frames: np.ndarray, frame_valid: np.ndarray) -> np.ndarray:
    """Embed a batch on one core, for a worker process: uint8 [B, F, H, W, 3], bool [B, F] -> float16 [B, dim].

    Raises:
        ValueError: a feature is not finite, or too large for float16.
    """
    import torch

    # With several threads sums would depend on the number of cores.
    torch.set_num_threads(1)
    return encoder.embed(frames, frame_valid)


class WindowEmbedder:
    """Embeds the windows of a recording while its pictures come; holds no picture longer than a window needs it.

    Args:
        picks: int64 [W, F], the picture of each frame of each window; windows in the order of time.
        near: bool [W, F], False where there is none and a black one stands in.
        config: of the frames.

    Raises:
        UserError: the tower cannot be loaded.
    """

    def __init__(self, picks: np.ndarray, near: np.ndarray, config: FramesConfig):
        assert config.embed_with is not None
        self._encoder = load_tower(config.embed_with, config.num, config.size)
        self._picks, self._near = picks, near
        self._black = np.zeros((config.size, config.size, 3), dtype=np.uint8)
        self._held: dict[int, np.ndarray] = {}
        self._parts: list[np.ndarray] = []
        self._done = 0
        # Where near frames are missing, a later window can need earlier pictures than the one before it.
        self._last = np.maximum.accumulate(np.where(near, picks, -1).max(axis=1))
        first = np.where(near, picks, np.iinfo(np.int64).max).min(axis=1)
        self._first = np.minimum.accumulate(first[::-1])[::-1]

    def add(self, index: int, picture: np.ndarray) -> None:
        """Take picture number ``index``, uint8 [H, W, 3] RGB; they come in increasing order."""
        self._held[index] = picture
        while self._done + BATCH <= len(self._picks) and self._last[self._done + BATCH - 1] <= index:
            self._embed_next()

    def finish(self) -> np.ndarray:
        """Return the embeddings of the windows, float16 [W, dim], after the last picture."""
        while self._done < len(self._picks):
            self._embed_next()
        return np.concatenate(self._parts)

    def _embed_next(self) -> None:
        part = slice(self._done, self._done + BATCH)
        picks, near = self._picks[part], self._near[part]
        clips = [
            np.stack([self._held[pick] if ok else self._black for pick, ok in zip(*window, strict=True)])
            for window in zip(picks.tolist(), near.tolist(), strict=True)
        ]
        self._parts.append(embed(self._encoder, np.stack(clips), near))
        self._done += len(picks)
        needed = self._first[self._done] if self._done < len(self._first) else np.inf
        self._held = {index: picture for index, picture in self._held.items() if index >= needed}


@functools.lru_cache(maxsize=1)
def _load(folder: Path, num_frames: int, size: int, _stamp: str) -> VideoEncoder:
    from imuvid.models.video_encoder import load_video_encoder

    return load_video_encoder(folder, num_frames, size)
