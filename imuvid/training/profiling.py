"""A window of steps under torch's profiler, for whoever wants to know where the time goes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from imuvid.errors import UserError

FOLDER_NAME = "profile"
"""In the run folder: a trace for chrome://tracing or Perfetto, and a table of the operators."""


def profile_window(text: str) -> range:
    """Return the steps that ``BEGIN:END`` names, BEGIN to END - 1; none for an empty text.

    Raises:
        UserError: it is not of that form.
    """
    begin, _, end = text.partition(":")
    if not text:
        return range(0)
    if not (begin.isdigit() and end.isdigit() and int(begin) < int(end)):
        raise UserError(
            f"train.profile_steps='{text}': expected BEGIN:END, as 10:20 for the ten steps from step 10 on; in a YAML"
            " file in quotes"
        )
    return range(int(begin), int(end))


class StepProfiler:
    """Records the steps of a window on this rank.

    Args:
        steps: from :func:`profile_window`.
        folder: of the run; gets ``profile/steps-BEGIN-END.trace.json`` and ``.txt``.
        device: of this rank.
    """

    def __init__(self, steps: range, folder: Path, device: torch.device):
        self._steps, self._folder = steps, folder / FOLDER_NAME
        self._on_gpu = device.type == "cuda"
        self._profile: profile | None = None

    def before(self, step: int) -> None:
        """Call before a step is done."""
        if self._profile is None and step in self._steps:
            activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * self._on_gpu
            self._profile = profile(activities=activities)
            self._profile.start()
        elif self._profile is not None and step not in self._steps:
            self.end()

    def end(self) -> None:
        """Write what was recorded, if anything."""
        recorded, self._profile = self._profile, None
        if recorded is None:
            return
        recorded.stop()
        self._folder.mkdir(exist_ok=True)
        name = f"steps-{self._steps.start}-{self._steps.stop}"
        recorded.export_chrome_trace(str(self._folder / f"{name}.trace.json"))
        order = "self_device_time_total" if self._on_gpu else "self_cpu_time_total"
        (self._folder / f"{name}.txt").write_text(recorded.key_averages().table(sort_by=order, row_limit=40))
