"""A finished dataset without its pictures: a frozen video tower's embeddings stand in for the frames."""

from __future__ import annotations

import dataclasses
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import simplejpeg

from imuvid.data.dataset_json import DatasetInfo
from imuvid.data.dataset_tables import INDEX_SCHEMA
from imuvid.data.format import Sample, decode_members, encode_members
from imuvid.data.storage import Store
from imuvid.data.tar import parse_tar
from imuvid.errors import UserError
from shards.assemble import publish
from shards.config import FramesConfig
from shards.embedder import BATCH, describe_tower, embed, load_tower, with_fixed_tower
from shards.operations import OperationReport, existing, making, provenance, report_of
from shards.summary import Progress
from shards.workers import Lost, num_workers, run_jobs
from shards.write import Piece, WrittenShard, tar_members, write_shard


def embed_dataset(location: str | Path, out: str | Path, tower: str | Path, workers: int = 0) -> OperationReport:
    """Make a dataset of embeddings of one of frames: same windows, order, splits and measurements, but no picture.

    No picture is written anywhere. A recording that a build adds later to the old dataset is not in the new one.

    Args:
        location: folder or URL of the dataset with frames.
        out: folder or URL of the new one.
        tower: frozen video tower; see :func:`imuvid.models.video_encoder.load_video_encoder`.
        workers: shards at the same time; 0 = one a core.

    Raises:
        UserError: the dataset has no frames or is damaged, the tower cannot be loaded or takes other frames, or there
            is something at ``out``.
    """
    dataset = existing(location)
    info = dataset.info
    assert info is not None
    if not info.frame_size:
        raise UserError(f"{dataset.store}: holds no frames that could be embedded")
    config = FramesConfig(num=info.num_frames, size=info.frame_size[0], embed_with=str(tower))
    frames = with_fixed_tower(config)
    described = describe_tower(frames)
    assert described is not None
    step = {"embed": {"fingerprint": info.fingerprint, "video_embedding": described}}
    by_shard: dict[str, list[dict[str, Any]]] = {}
    for row in dataset.index.to_pylist():
        by_shard.setdefault(row["shard"], []).append(row)
    with making(out, step) as (new, work):
        jobs = [
            (str(dataset.store), str(new.store), f"{number:05d}.tar", work, rows, info, frames, described)
            for number, rows in enumerate(by_shard.values())
        ]
        shards: dict[int, WrittenShard] = {}
        progress = Progress("shards", len(jobs))
        for job, result in run_jobs(write_embedded_shard, jobs, max(1, min(num_workers(workers), len(jobs)))):
            if isinstance(result, Lost):
                raise RuntimeError(f"{new.store.where(jobs[job][2])}: {result.message}")
            shards[job] = result
            progress.advance()
        new.index = pa.concat_tables(
            _moved(rows, shards[number]) for number, rows in enumerate(by_shard.values())
        ).combine_chunks()
        new.listing = dataset.listing
        new.info = dataclasses.replace(
            info,
            counts=info.counts | {"shards": len(shards)},
            frame_size=[],
            video_embedding=described,
            sha256={shard.name: shard.sha256 for shard in shards.values()},
            config=provenance(info.config, step),
        )
        publish(new, work)
    kind = described["tower"]["kind"]
    note = f"{info.num_frames} frames a window embedded by a frozen {kind} tower, {described['dim']} numbers a window"
    return report_of(new, [note])


def write_embedded_shard(
    source: str,
    target: str,
    name: str,
    scratch: Path,
    rows: list[dict[str, Any]],
    info: DatasetInfo,
    frames: FramesConfig,
    described: dict[str, Any],
) -> WrittenShard:
    """Write the windows of a shard of one dataset, without pictures, as a shard of another.

    Args:
        source: folder or URL of the dataset with frames.
        target: of the other.
        name: of the new shard.
        scratch: folder for the samples on their way; no picture gets there.
        rows: of the index, in order.
        info: of the dataset with frames.
        frames: which frames and which tower.
        described: the tower as it must be.

    Raises:
        UserError: a sample is not what the index says, or the tower is another one by now.
    """
    assert frames.embed_with is not None
    encoder = load_tower(frames.embed_with, frames.num, frames.size)
    if encoder.description != described:
        raise UserError(f"{frames.embed_with}: has changed meanwhile: start again")
    store = Store(source)
    gathered = scratch / f"{name}.gathered"
    pieces: list[Piece] = []
    try:
        with gathered.open("wb") as file:
            for start in range(0, len(rows), BATCH):
                samples, clips = zip(*(_read(store, row, info) for row in rows[start : start + BATCH]), strict=True)
                valid = np.array([sample.meta.frame_valid for sample in samples], dtype=bool)
                for sample, embedding in zip(samples, embed(encoder, np.stack(clips), valid), strict=True):
                    raw = tar_members(encode_members(dataclasses.replace(sample, frames=[], embedding=embedding)))
                    pieces.append(Piece(gathered, file.tell(), len(raw)))
                    file.write(raw)
        return write_shard(
            target, name, scratch, pieces, info.positions, info.num_frames, frames.size, encoder.description["dim"]
        )
    except FileNotFoundError as error:
        raise UserError(f"{source}: a shard is missing: run 'imuvid shards verify {source}'") from error
    finally:
        gathered.unlink(missing_ok=True)


def _read(store: Store, row: dict[str, Any], info: DatasetInfo) -> tuple[Sample, np.ndarray]:
    """Return a sample and its frames, uint8 [F, H, W, 3] RGB; a frame that stands in for none is black."""
    try:
        raw = store.read_range(row["shard"], row["offset"], row["size"])
        if row["crc32"] is not None and row["crc32"] != zlib.crc32(raw):
            raise ValueError(f"{row['key']}: other bytes than the index says (crc32)")
        sample = decode_members(parse_tar(raw))
        pictures = np.stack([simplejpeg.decode_jpeg(frame, colorspace="RGB") for frame in sample.frames])
        if pictures.shape != (info.num_frames, *info.frame_size, 3):
            raise ValueError(f"{row['key']}: frames {list(pictures.shape)}, expected other ones by dataset.json")
        pictures[~np.array(sample.meta.frame_valid, dtype=bool)] = 0
        return sample, pictures
    except ValueError as error:
        raise UserError(
            f"{store.where(row['shard'])}: is damaged: {error}: run 'imuvid shards verify {store}'"
        ) from error


def _moved(rows: list[dict[str, Any]], shard: WrittenShard) -> pa.Table:
    """Return rows of the index for where the samples lie now."""
    moved = [
        row | {"shard": shard.name, "offset": offset, "size": size, "crc32": crc32}
        for row, (offset, size, crc32) in zip(rows, shard.spans, strict=True)
    ]
    return pa.Table.from_pylist(moved, schema=INDEX_SCHEMA)
