"""What a run says of itself while it goes on; rank 0 has one."""

from __future__ import annotations

import json
import math
from datetime import timedelta
from pathlib import Path

from torch import Tensor

from imuvid.data.mixture import AnyDataset
from imuvid.data.order import Order, epoch_size
from imuvid.training.config import PretrainConfig
from imuvid.training.meters import MetricsLog

SKIPPED_NAME = "skipped.jsonl"
"""File in the run folder with the samples of the steps that were left out."""


class Journal:
    """Lines in the terminal, metrics.jsonl and TensorBoard of one run.

    Args:
        config: of the run.
        folder: of the run.
        dataset: that it trains on.
        order: of its samples.
        step: steps done; what was logged of later ones is dropped.
    """

    def __init__(self, config: PretrainConfig, folder: Path, dataset: AnyDataset, order: Order, step: int):
        self._config, self._folder, self._dataset, self._order = config, folder, dataset, order
        self._meters = MetricsLog(folder, step)
        self.say = self._meters.say

    def go_back(self, step: int) -> None:
        """Drop what was logged of the steps after ``step``."""
        self._meters.close()
        self._meters = MetricsLog(self._folder, step)

    def training(
        self,
        step: int,
        num_steps: int,
        losses: list[float],
        lr: float,
        figures: dict[str, Tensor],
        more: dict[str, float],
    ) -> None:
        """Log a stretch of steps.

        Args:
            step: steps done.
            num_steps: of the run.
            losses: of the global batches that were learnt from.
            lr: learning rate of the last step.
            figures: of the objective, in the last step.
            more: samples_per_s, data_wait_share and whatever else was measured.
        """
        line = {
            "loss": sum(losses) / len(losses) if losses else math.nan,
            "lr": lr,
            "epoch": step * self._config.data.batch_size / self._epoch_size,
            **{name: value.item() for name, value in figures.items()},
            **more,
            **self._counters(step),
        }
        self._meters.write(step, "train", line)
        left = (num_steps - step) * self._config.data.batch_size / max(line["samples_per_s"], 1e-9)
        self._meters.live(
            f"step {step}/{num_steps} ({step / num_steps:.0%})  loss {line['loss']:.3f}  lr {lr:.1e}"
            f"  {line['samples_per_s']:.0f} samples/s  data wait {line['data_wait_share']:.0%}"
            f"  {timedelta(seconds=round(left))} left"
        )

    def validation(self, step: int, scores: dict[str, float]) -> None:
        """Log the retrieval among held-out windows."""
        self._meters.write(step, "val", scores)
        self.say(
            f"step {step}  retrieval among {scores['num_candidates']:.0f} held-out windows:"
            f"  IMU to video R@1 {scores['r_at_1_imu_to_video']:.3f} R@5 {scores['r_at_5_imu_to_video']:.3f},"
            f"  video to IMU R@1 {scores['r_at_1_video_to_imu']:.3f} R@5 {scores['r_at_5_video_to_imu']:.3f}"
            f"  (chance R@1 {scores['chance_r_at_1']:.3f})"
        )

    def bad_step(self, step: int, bad: dict[str, str]) -> None:
        """Say that a step was left out, and write down which samples those of ``bad`` (reasons by step) had."""
        path = self._folder / SKIPPED_NAME
        self.say(f"step {step}  left out: {bad[str(step)]}; its samples are in {path}")
        lines = []
        for number, reason in bad.items():
            items = self._order.rank_batch(int(number), self._config.data.batch_size, 0, 1)
            samples = [self._dataset.where(sample) for _, sample in items]
            lines.append(json.dumps({"step": int(number), "reason": reason, "samples": samples}) + "\n")
        path.write_text("".join(lines))

    def close(self) -> None:
        """Close the files."""
        self._meters.close()

    @property
    def _epoch_size(self) -> int:
        return self._config.data.epoch_samples or self._order.num_samples

    def _counters(self, step: int) -> dict[str, float]:
        """Of each dataset of a mixture: samples that were trained on, and how many of its epochs that is."""
        parts = self._dataset.parts
        if len(parts) == 1:
            return {}
        seen = self._order.seen(step * self._config.data.batch_size)
        figures: dict[str, float] = {}
        for number, (part, samples) in enumerate(zip(parts, seen, strict=True)):
            name = f"{number}_{part.info.name}"
            figures |= {f"samples/{name}": samples, f"epochs/{name}": samples / epoch_size(part.weights)}
        return figures
