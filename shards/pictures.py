"""The pictures of a recording's windows: one pass of decoding, whatever the windows; JPEGs and what they are worth."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import simplejpeg

from shards.config import FramesConfig
from shards.embedder import WindowEmbedder
from shards.motion import MotionTracker
from shards.sources.base import Recording
from shards.video_chapters import probe, read_frames
from shards.watching import motion_watch
from shards.windows import Window, frame_times, pick_frames

SPOOL_BYTES = 64 << 20
"""JPEGs of a recording are kept in memory up to this size, then in an unnamed file."""
BLACK_MEAN, BLACK_SD = 16.0, 4.0
"""A frame is black where its mean and its standard deviation are below these, grey levels of 255."""
FROZEN = 0.25
"""A frame is the same as the one before where no cell of its thumbnail differs by as much, grey levels of 255."""
THUMB = 16


@dataclass
class WindowPictures:
    """The frames of one window."""

    frames: list[bytes]
    """JPEGs; none where they are embedded."""
    times_s: list[float]
    """When each is shown, seconds after the window's start."""
    valid: list[bool]
    """False where the video has no frame and a black one stands in."""
    quality: dict[str, float]
    """frame_share, and where it can be told black_share, frozen_share, frame_change."""
    embedding: np.ndarray | None = None
    """float16 [D], see :class:`shards.embedder.WindowEmbedder`; None where the frames are kept."""


class Pictures:
    """All pictures that the windows of a recording need, read in one pass over its video.

    Where they are embedded, none is kept, and none is written anywhere.

    Args:
        recording: has a video, unless ``config.num`` is 0.
        windows: of the recording.
        length_s: of a window, seconds.
        config: of the frames.
        num_threads: of the decoder.
        tracker: of the camera's motion, is shown the frames that it needs.

    Raises:
        RecordingError: the video cannot be decoded.
        UserError: the tower that is to embed them cannot be loaded.
    """

    def __init__(
        self,
        recording: Recording,
        windows: list[Window],
        length_s: float,
        config: FramesConfig,
        num_threads: int,
        tracker: MotionTracker | None = None,
    ):
        self._windows, self._config = windows, config
        self._wanted_s = np.zeros((len(windows), 0))
        self._spool = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115  # closed by __exit__
        self._spans: dict[int, tuple[int, int]] = {}
        self._thumbs: dict[int, np.ndarray] = {}
        self._embeddings: np.ndarray | None = None
        if not config.num:
            return
        assert recording.video is not None
        info = probe(recording.video)
        times_s = self._times_s = info.times_s
        self._wanted_s = frame_times(windows, length_s, config.num)
        self._picks, self._near = pick_frames(self._wanted_s, times_s, 0.5 * length_s / config.num)
        needed = np.unique(self._picks[self._near]).tolist()
        watch = None if tracker is None else motion_watch(tracker, info)
        embedder = None if config.embed_with is None else WindowEmbedder(self._picks, self._near, config)
        for index, picture in read_frames(
            recording.video, needed, config.size, config.fit, num_threads, config.backend, watch
        ):
            if embedder is not None:
                embedder.add(index, picture)
            else:
                self._keep(index, encode(picture, config.quality))
            self._thumbs[index] = _thumbnail(picture)
        if embedder is not None:
            self._embeddings = embedder.finish()
            return
        self._black = encode(np.zeros((config.size, config.size, 3), dtype=np.uint8), config.quality)

    def __enter__(self) -> Pictures:
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.close()

    def __iter__(self) -> Iterator[WindowPictures]:
        """Yield the frames of each window, in order."""
        before: list[np.ndarray] = []
        for i, window in enumerate(self._windows):
            if not self._config.num:
                yield WindowPictures([], [], [], {"frame_share": 0.0})
                continue
            picks, near = self._picks[i].tolist(), self._near[i]
            frames, embedding = [], None
            if self._embeddings is not None:
                embedding = self._embeddings[i]
            else:
                frames = [self._jpeg(pick) if ok else self._black for pick, ok in zip(picks, near, strict=True)]
            shown_s = np.where(near, self._times_s[self._picks[i]], self._wanted_s[i]) - window.start_s
            thumbs = [self._thumbs[pick] for pick, ok in zip(picks, near, strict=True) if ok]
            quality = {"frame_share": float(near.mean())} | _quality(thumbs, before)
            before = thumbs
            times_s = [round(float(time_s), 6) for time_s in shown_s]
            yield WindowPictures(frames, times_s, near.tolist(), quality, embedding)

    def _keep(self, index: int, jpeg: bytes) -> None:
        self._spans[index] = (self._spool.tell(), len(jpeg))
        self._spool.write(jpeg)

    def _jpeg(self, index: int) -> bytes:
        offset, size = self._spans[index]
        self._spool.seek(offset)
        return self._spool.read(size)


def encode(picture: np.ndarray, quality: int) -> bytes:
    """Return a picture uint8 [h, w, 3] RGB as JPEG with 4:2:0 chroma."""
    return simplejpeg.encode_jpeg(picture, quality=quality, colorspace="RGB", colorsubsampling="420")


def _thumbnail(picture: np.ndarray) -> np.ndarray:
    """Return the SD of a picture's grey levels, then the means of THUMB x THUMB cells (fewer in smaller pictures)."""
    grey = picture.mean(axis=2, dtype=np.float32)
    edges = [np.unique(np.linspace(0, side, THUMB + 1).astype(int)[:-1]) for side in grey.shape]
    sums = np.add.reduceat(np.add.reduceat(grey, edges[0], axis=0), edges[1], axis=1)
    areas = np.outer(*(np.diff([*edge, side]) for edge, side in zip(edges, grey.shape, strict=True)))
    return np.concatenate([[grey.std()], (sums / areas).ravel()])


def _quality(thumbs: list[np.ndarray], before: list[np.ndarray]) -> dict[str, float]:
    """Return the measurements of a window's valid frames, given those of the window before."""
    quality: dict[str, float] = {}
    if thumbs:
        black = [thumb[0] < BLACK_SD and thumb[1:].mean() < BLACK_MEAN for thumb in thumbs]
        quality["black_share"] = float(np.mean(black))
    if len(thumbs) > 1:
        steps = np.abs(np.diff([thumb[1:] for thumb in thumbs], axis=0)).max(axis=1)
        quality["frozen_share"] = float((steps < FROZEN).mean())
    if thumbs and len(thumbs) == len(before):
        quality["frame_change"] = float(np.abs(np.subtract(thumbs, before))[:, 1:].mean())
    return quality
