"""One way of reading, in a process of its own: ``python stream_ways.py WAY FOLDER BATCH WORKERS``.

Every number that comes in on a line is answered by one JSON line: the core-seconds that so many batches took, over all
threads and worker processes, and the samples in them. benchmarks/stream.py starts one such process a way, in the way's
own environment, and asks them in turns. Every way but the bare loops and the paper's yields the same: imu
[B, T, P, 6], valid [B, T, P, 2] and frames uint8 [B, F, H, W, 3] as tensors, shuffled, for ever. The peers need neither
parse the JSON of a sample nor check anything; each stacks as it does by default, or by ``torch.stack``.
"""

from __future__ import annotations

import io
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

NUM_FRAMES, SHUFFLED = 10, 1000


def decode(sample: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return imu, valid and frames of the members of a sample, by the same decoder for all."""
    imu, valid = (np.load(io.BytesIO(sample[name]), allow_pickle=False) for name in ("imu.npy", "valid.npy"))
    frames = [_decoded(sample[f"{i:02d}.jpg"]) for i in range(NUM_FRAMES)]
    return imu, valid, np.stack(frames)


def limit(folder: Path, batch: int, workers: int) -> Iterator[Any]:
    """The bare loop: the JPEGs lie in memory, each is decoded to its place in a batch; three batches take turns."""
    pictures = _pictures(folder)
    num = batch * NUM_FRAMES
    batches = itertools.cycle([np.empty((num, *_decoded(pictures[0]).shape), np.uint8) for _ in range(3)])
    for start in itertools.cycle(range(0, len(pictures) - num + 1, num)):
        for picture, place in zip(pictures[start : start + num], next(batches), strict=True):
            simplejpeg.decode_jpeg(picture, colorspace="RGB", buffer=place)
        yield None


def forgotten(folder: Path, batch: int, workers: int) -> Iterator[Any]:
    """The same without a batch: each is decoded and forgotten, and the next one lies in the same warm memory."""
    pictures = _pictures(folder)
    for start in itertools.cycle(range(0, len(pictures) - batch * NUM_FRAMES + 1, batch * NUM_FRAMES)):
        for picture in pictures[start : start + batch * NUM_FRAMES]:
            _decoded(picture)
        yield None


def ours(folder: Path, batch: int, workers: int) -> Iterator[Any]:
    """The training stream without augmentation."""
    from imuvid.data.augment import OFF
    from imuvid.data.shard_dataset import ShardDataset
    from imuvid.data.stream import DataConfig, training_stream

    config = DataConfig(path=str(folder), batch_size=batch, num_workers=workers, augment=OFF)
    return training_stream(ShardDataset(folder, "train"), config, 0, 0, 1, 0, False)


def plain_webdataset(folder: Path, batch: int, workers: int) -> Iterator[Any]:
    """webdataset as its documentation shows it."""
    import webdataset

    pipeline = webdataset.WebDataset(_shards(folder), shardshuffle=len(_shards(folder)))
    pipeline = pipeline.shuffle(SHUFFLED).map(decode).batched(batch, partial=False).repeat()
    return iter(webdataset.WebLoader(pipeline, batch_size=None, num_workers=workers))


def energon(folder: Path, batch: int, workers: int) -> Iterator[Any]:
    """Megatron-Energon on the same tars, which ``energon prepare`` has looked through."""
    import torch
    from megatron.energon import Cooker, DefaultTaskEncoder, WorkerConfig, get_loader, get_train_dataset, stateless

    class Encoder(DefaultTaskEncoder):
        decoder = None  # of its own
        cookers = [Cooker(stateless(lambda sample: sample))]  # noqa: RUF012

        @stateless
        def encode_sample(self, sample: Any) -> tuple[torch.Tensor, ...]:
            return tuple(map(torch.from_numpy, decode(sample)))

        def batch(self, samples: list) -> tuple[torch.Tensor, ...]:
            return tuple(torch.stack(arrays) for arrays in zip(*samples, strict=True))

    dataset = get_train_dataset(
        folder,
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=workers),
        batch_size=batch,
        shuffle_buffer_size=SHUFFLED,
        max_samples_per_sequence=100,
        task_encoder=Encoder(),
    )
    return iter(get_loader(dataset, watchdog_timeout_seconds=None))


def streaming(folder: Path, batch: int, workers: int) -> Iterator[Any]:
    """MosaicML Streaming on the same samples, which :func:`convert` has written as MDS."""
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader

    class Windows(StreamingDataset):
        def __getitem__(self, at: Any) -> Any:
            return decode(super().__getitem__(at))

    dataset = Windows(local=str(folder / "mds"), shuffle=True, batch_size=batch)
    loader = DataLoader(dataset, batch_size=batch, num_workers=workers, drop_last=True)
    return itertools.chain.from_iterable(itertools.repeat(loader))


def convert(folder: Path, batch: int, workers: int) -> Iterator[Any]:
    """Write the samples of the tars as MDS (shards of its default size), members as bytes."""
    import webdataset
    from streaming import MDSWriter

    names = ["imu.npy", "valid.npy", *(f"{i:02d}.jpg" for i in range(NUM_FRAMES))]
    with MDSWriter(out=str(folder / "mds"), columns=dict.fromkeys(names, "bytes")) as writer:
        for sample in webdataset.WebDataset(_shards(folder), shardshuffle=False):
            writer.write({name: sample[name] for name in names})
    yield from itertools.repeat(None)


def paper(folder: Path, batch: int, workers: int) -> Iterator[Any]:
    """Open, seek and decode the frames of one window at native size, then scale ten, as the paper's loader does."""
    import decord
    from PIL import Image

    fps, length = 30, 150
    windows = len(decord.VideoReader(str(folder / "video.mp4"))) // length
    for number in itertools.cycle(range(windows)):
        reader = decord.VideoReader(str(folder / "video.mp4"), num_threads=1)
        first = number * 5 * fps
        pictures = reader.get_batch(range(first, first + length)).asnumpy()
        chosen = [Image.fromarray(picture) for picture in pictures[:: length // NUM_FRAMES]]
        yield np.stack([np.asarray(picture.resize((224, 224), Image.Resampling.BILINEAR)) for picture in chosen])


def _decoded(picture: bytes) -> np.ndarray:
    return simplejpeg.decode_jpeg(picture, colorspace="RGB")


def _pictures(folder: Path) -> list[bytes]:
    """The JPEGs of all samples, in memory."""
    import webdataset

    samples = webdataset.WebDataset(_shards(folder), shardshuffle=False)
    return [sample[f"{i:02d}.jpg"] for sample in samples for i in range(NUM_FRAMES)]


def _shards(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.glob("*.tar"))]


def _core_seconds(workers: int) -> float:
    if not workers:
        return time.process_time()
    import psutil

    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


WAYS: dict[str, Callable[[Path, int, int], Iterator[Any]]] = {
    way.__name__: way for way in (limit, forgotten, ours, plain_webdataset, energon, streaming, convert, paper)
}


def main() -> None:
    """Answer each number of batches by their core-seconds, until the input ends."""
    way, folder, batch, workers = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    batches = WAYS[way](folder, batch, workers)
    shape = None
    for _ in range(1 if way == "paper" else 4):
        first = next(batches)
    if way not in ("limit", "forgotten", "convert", "paper"):
        parts = (first.imu, first.valid, first.frames) if way == "ours" else first
        shape = [[*part.shape] for part in parts]
        del first, parts  # what is held cannot be used again
    print(json.dumps({"ready": way, "shape": shape}), flush=True)
    for line in sys.stdin:
        for _ in range(3 if workers else 0):
            next(batches)  # made ahead while the others had their turn
        before = _core_seconds(workers)
        for _ in range(int(line)):
            next(batches)
        took_s = _core_seconds(workers) - before
        print(json.dumps({"core_s": took_s}), flush=True)


if __name__ == "__main__":
    main()
