"""What stands for windows and classes in the shared space, for the tasks of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from imuvid.data.shard_dataset import ShardDataset
from imuvid.errors import UserError
from imuvid.models.encoder import Encoder
from imuvid.models.text_encoder import TextEncoder
from imuvid.ood.config import OODConfig
from imuvid.ood.embedding import choose_device, conditioned, embed
from imuvid.ood.names import PRETRAINED
from imuvid.ood.paired import Paired, PairEncoder, prototype_samples
from imuvid.ood.predictions import to_table
from imuvid.ood.protocols.task import Task
from imuvid.ood.protocols.zero_shot import ZeroShot, source_prototypes, zero_shot


def zero_shot_table(
    tasks: Sequence[Task], encoder: Encoder, pairs: PairEncoder | None, text: TextEncoder | None, config: OODConfig
) -> list[pa.Table]:
    """Return the predictions of zero-shot classification for each strict task, and note what is not to be had.

    Args:
        tasks: their notes are added to.
        encoder: the pretrained IMU encoder.
        pairs: towers and heads of the checkpoint; None: nothing by video.
        text: of the checkpoint; None: nothing by text.
        config: of the evaluation; ``paired.prototypes`` names the source, ``shards.root`` a target with video.

    Raises:
        UserError: the datasets of the source or of the target cannot be read, or do not fit the towers.
    """
    source = None
    if pairs is not None and config.paired.prototypes is not None:
        source = pairs.embed(*prototype_samples(config.paired))
    tables = []
    for task in tasks:
        if not task.strict:
            continue
        features, given = torch.from_numpy(_features(task, encoder, config)), ZeroShot()
        if text is not None:
            texts = [prompt(name, config) for name in task.windows.classes]
            given.text = text.project(features).numpy(), text.embed(texts).numpy()
        if pairs is not None:
            given.imu = pairs.space.project_imu(features).numpy()
        if source is not None:
            given.source, missing = source_prototypes(task.windows.classes, source.label, source.video)
            if missing:
                lacking = ", ".join(missing)
                task.notes.append(f"No zero-shot classification by video of the source: it has none of {lacking}.")
        if pairs is not None and "shards" in config.datasets and task.domain is None:
            given.video = _target_video(task, pairs, config)
        blocks = [block for fold in task.folds for block in zero_shot(task, fold, given)]
        tables += [to_table(task, blocks)] if blocks else []
    return tables


def prompt(name: str, config: OODConfig) -> str:
    """Return the text that stands for a class: the config's own, or the template with its name in words."""
    return config.prompts.get(name, config.prompt.format(name.replace("_", " ")))


def _features(task: Task, encoder: Encoder, config: OODConfig) -> np.ndarray:
    """Return the features of the windows, all sensors combined as in pretraining, float32 [N, D]."""
    windows = task.windows
    if len(windows.positions) == 1:
        return task.features[PRETRAINED][0]
    seen = conditioned(windows, encoder.config.condition)
    return embed(encoder, seen, config.batch_size, choose_device(config.device), "together")


def _target_video(task: Task, pairs: PairEncoder, config: OODConfig) -> np.ndarray | None:
    """Return the clips of the windows of a dataset in shard format, NaN where a window is no whole sample."""
    assert config.shards.root is not None
    dataset = ShardDataset(config.shards.root, None if config.shards.split == "all" else config.shards.split)
    if dataset.info.name != task.windows.name:
        return None
    if not dataset.info.num_frames and dataset.info.video_embedding is None:
        task.notes.append("No zero-shot classification by video of the target: its shards have no video.")
        return None
    if abs(dataset.info.window_s - task.windows.provenance["window_s"]) > 1e-6:
        raise UserError(
            f"window_s={task.windows.provenance['window_s']:g}: the clips of {config.shards.root} last "
            f"{dataset.info.window_s:g} s: leave window_s out, or paired.root and paired.prototypes"
        )
    number = {name: i for i, name in enumerate(task.windows.ids.tolist())}
    names = [f"{name}@{start:.3f}" for name, start in zip(dataset.recordings, dataset.starts_s, strict=True)]
    # The first of overlapping samples is the one that is a window.
    first = {name: sample for sample, name in reversed(list(enumerate(names))) if name in number}
    samples = sorted(first.values())
    clips: Paired = pairs.embed(dataset, samples)
    video = np.full((len(number), clips.video.shape[1]), np.nan, np.float32)
    video[[number[names[sample]] for sample in samples]] = clips.video
    return video
