"""Held-out windows of paired shards in the space that IMU and video share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from imuvid.data.shard_dataset import ShardDataset
from imuvid.data.stream import evaluation_batches
from imuvid.errors import UserError
from imuvid.models.encoder import Encoder
from imuvid.models.shared_space import FOLDER_NAME, SharedSpace, find_beside, load_shared_space
from imuvid.models.video_encoder import load_video_encoder
from imuvid.ood.protocols.folds import check_not_pretrained


@dataclass
class PairedConfig:
    """Windows with video that were held out of the pretraining."""

    root: str | None = None
    """Folder of a dataset in shard format, with pictures or stored embeddings; None: no retrieval."""
    split: str = "test"
    """train, val, test or all; its people must not be those of the pretraining."""
    max_windows: int = 2000
    """Windows that are compared, spread evenly over the split; 0: all."""
    max_offset_s: float = 5.0
    """Video is looked for this far before and after its window in the same recording."""
    prototypes: str | None = None
    """Folder of a labelled dataset with video whose clips stand for the activities: source recordings, usually those of
    the pretraining; None: no zero-shot classification by video of the source."""
    prototypes_split: str = "train"
    """Of that dataset."""
    clips: int = 50
    """Clips of an activity that are averaged at most."""


@dataclass
class Paired:
    """N windows."""

    name: str
    """Of the dataset."""
    imu: np.ndarray
    """float32 [N, E], unit length."""
    video: np.ndarray
    """float32 [N, E], unit length."""
    label: np.ndarray
    """str [N], empty where unlabelled."""
    subject: np.ndarray
    """str [N]; the recording where the subject is not known."""
    recording: np.ndarray
    """str [N]."""
    start_s: np.ndarray
    """float64 [N], in the recording."""


class PairEncoder:
    """Encoder, video tower and heads of one checkpoint.

    Args:
        checkpoint: its folder.
        encoder: its IMU encoder.
        batch_size: windows at once.
        device: of the IMU encoder.

    Raises:
        UserError: the checkpoint has no heads.
    """

    def __init__(self, checkpoint: Path, encoder: Encoder, batch_size: int, device: torch.device):
        folder = find_beside(checkpoint, FOLDER_NAME)
        if folder is None:
            raise UserError(
                f"{checkpoint}: holds no shared_space/, the heads between IMU and video: paired.root and "
                "paired.prototypes need a checkpoint of a run that has them"
            )
        self.space: SharedSpace = load_shared_space(folder)
        self.checkpoint, self.encoder, self.batch_size, self.device = folder.parent, encoder, batch_size, device

    @torch.inference_mode()
    def embed(self, dataset: ShardDataset, samples: list[int]) -> Paired:
        """Return the samples of a dataset, in order.

        Raises:
            UserError: the dataset has another rate or other pictures than the towers, or a sample is damaged.
        """
        info, config = dataset.info, self.encoder.config
        if info.imu_rate_hz != config.imu_rate_hz:
            raise UserError(
                f"{dataset.store.location}: its IMU has {info.imu_rate_hz:g} Hz, the encoder wants "
                f"{config.imu_rate_hz:g}: build the shards with imu.rate_hz={config.imu_rate_hz:g}"
            )
        video_encoder = None
        if info.video_embedding is None:
            video_encoder = load_video_encoder(self.checkpoint, info.num_frames, info.frame_size[0])
        imu, video = [], []
        self.encoder.to(self.device).tower.wear(info.positions)
        try:
            for batch in evaluation_batches(dataset, samples, self.batch_size, config.condition):
                features = self.encoder(batch.imu.to(self.device), batch.valid.to(self.device)).cpu()
                imu.append(self.space.project_imu(features))
                clips = batch.frames
                if video_encoder is not None:
                    clips = torch.from_numpy(video_encoder.embed(clips.numpy(), batch.frame_valid.numpy()))
                video.append(self.space.project_video(clips))
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{dataset.store.location}: {str(error).splitlines()[0]}") from error
        return Paired(
            name=info.name,
            imu=torch.cat(imu).numpy(),
            video=torch.cat(video).numpy(),
            label=np.array([dataset.labels[i] or "" for i in samples]),
            subject=np.array([dataset.subjects[i] or dataset.recordings[i] for i in samples]),
            recording=np.array([dataset.recordings[i] for i in samples]),
            start_s=np.array([dataset.starts_s[i] for i in samples]),
        )


def held_out(config: PairedConfig, encoder: Encoder) -> tuple[ShardDataset, list[int]]:
    """Return the dataset of the retrieval and its samples, spread evenly.

    Raises:
        UserError: it is missing, or holds people of the pretraining.
    """
    assert config.root is not None
    dataset = ShardDataset(config.root, None if config.split == "all" else config.split)
    provenance = encoder.config.provenance
    people = {name for name in dataset.subjects if name is not None}
    check_not_pretrained(people, provenance.get("train_subjects", []), "paired")
    if config.split in ("train", "all") and dataset.fingerprint in (provenance.get("fingerprint") or ""):
        raise UserError(f"{config.root}: the encoder was pretrained on it: set paired.split=test")
    number = len(dataset) if not config.max_windows else min(config.max_windows, len(dataset))
    return dataset, np.unique(np.linspace(0, len(dataset) - 1, number).round().astype(int)).tolist()


def prototype_samples(config: PairedConfig) -> tuple[ShardDataset, list[int]]:
    """Return the dataset of the source's prototypes and up to ``clips`` samples of each label, spread evenly."""
    assert config.prototypes is not None
    split = None if config.prototypes_split == "all" else config.prototypes_split
    dataset = ShardDataset(config.prototypes, split)
    members: dict[str, list[int]] = {}
    for sample, label in enumerate(dataset.labels):
        if label is not None:
            members.setdefault(label, []).append(sample)
    if not members:
        raise UserError(f"{config.prototypes}: no sample of split {config.prototypes_split} is labelled")
    chosen = []
    for samples in members.values():
        places = np.linspace(0, len(samples) - 1, min(config.clips, len(samples))).round().astype(int)
        chosen += [samples[i] for i in np.unique(places)]
    return dataset, sorted(chosen)
