"""Which objectives there are: the one place where a config's ``kind`` becomes a module, and weighted sums of them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from imuvid.errors import UserError
from imuvid.objectives.alignment import Alignment, AlignmentConfig
from imuvid.objectives.cheshmi2025_softmax import Cheshmi2025Softmax, Cheshmi2025SoftmaxConfig
from imuvid.objectives.comodo import Comodo, ComodoConfig
from imuvid.objectives.corrupt import SecondViewConfig
from imuvid.objectives.focal import Focal, FocalConfig
from imuvid.objectives.infonce import InfoNCE
from imuvid.objectives.masked import Masked, MaskedConfig
from imuvid.objectives.nt_xent import NtXent, NtXentConfig
from imuvid.objectives.objective import Objective, Widths
from imuvid.objectives.pairwise_sigmoid import PairwiseSigmoid
from imuvid.objectives.primus import Primus, PrimusConfig
from imuvid.objectives.views import Views


@dataclass
class ObjectiveConfig:
    """What is minimised: one objective, or a weighted sum; only the sections of those in it are read."""

    kind: str = "sigmoid"
    """sigmoid (the paper's), infonce, cheshmi2025_softmax, nt_xent, masked, alignment, comodo, primus or focal; with a
    text tower also sigmoid or infonce of the IMU and narrations (sigmoid_imu_text, infonce_imu_text), or of the video
    and narrations (sigmoid_video_text, infonce_video_text)."""
    extra: dict[str, float] = field(default_factory=dict)
    """Further objectives that are added to it, with their weights: {nt_xent: 0.5}."""
    mask_same_recording: bool = True
    """Windows of one recording are no negatives of each other: they may overlap or show the same."""
    mask_margin_s: float | None = None
    """Of these, only those whose starts are closer than this, seconds; null for all of a recording."""
    second_view: SecondViewConfig = field(default_factory=SecondViewConfig)
    """Of the IMU, for nt_xent, primus and focal."""
    cheshmi2025_softmax: Cheshmi2025SoftmaxConfig = field(default_factory=Cheshmi2025SoftmaxConfig)
    nt_xent: NtXentConfig = field(default_factory=NtXentConfig)
    masked: MaskedConfig = field(default_factory=MaskedConfig)
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    comodo: ComodoConfig = field(default_factory=ComodoConfig)
    primus: PrimusConfig = field(default_factory=PrimusConfig)
    focal: FocalConfig = field(default_factory=FocalConfig)


class WeightedSum(Objective):
    """The sum of objectives, each with a weight. With more than one, figures carry the name of their objective."""

    def __init__(self, terms: dict[str, Objective], weights: dict[str, float]):
        super().__init__()
        self.terms = nn.ModuleDict(terms)
        self.weights = weights
        self.needs = frozenset().union(*(term.needs for term in terms.values()))

    def forward(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`Objective`."""
        losses: list[Tensor] = []
        figures: dict[str, Tensor] = {}
        for name, term in self.terms.items():
            loss, own = term(views)
            losses.append(self.weights[name] * loss)
            if len(self.terms) > 1:
                own = {f"{name}_{figure}": value for figure, value in {"loss": loss.detach(), **own}.items()}
            figures |= own
        return torch.stack(losses).sum(), figures


def build_objective(config: ObjectiveConfig, widths: Widths) -> WeightedSum:
    """Return what is minimised.

    Raises:
        UserError: a kind is unknown or given twice, a weight is no positive number, or an objective needs tokens that
            a tower does not give.
    """
    _check_settings(config)
    margin_s = 0.0
    if config.mask_same_recording:
        margin_s = math.inf if config.mask_margin_s is None else config.mask_margin_s
    kinds: dict[str, Callable[[], Objective]] = {
        "sigmoid": lambda: PairwiseSigmoid(margin_s),
        "infonce": lambda: InfoNCE(margin_s),
        "sigmoid_imu_text": lambda: PairwiseSigmoid(margin_s, modalities=("imu", "text")),
        "sigmoid_video_text": lambda: PairwiseSigmoid(margin_s, modalities=("video", "text")),
        "infonce_imu_text": lambda: InfoNCE(margin_s, modalities=("imu", "text")),
        "infonce_video_text": lambda: InfoNCE(margin_s, modalities=("video", "text")),
        "cheshmi2025_softmax": lambda: Cheshmi2025Softmax(config.cheshmi2025_softmax),
        "nt_xent": lambda: NtXent(config.nt_xent, widths, margin_s),
        "masked": lambda: Masked(config.masked, widths),
        "alignment": lambda: Alignment(config.alignment, widths),
        "comodo": lambda: Comodo(config.comodo, widths),
        "primus": lambda: Primus(config.primus, widths, margin_s),
        "focal": lambda: Focal(config.focal, widths, margin_s),
    }
    for where, kind in (("kind", config.kind), *(("extra", name) for name in config.extra)):
        if kind not in kinds:
            raise UserError(f"objective.{where} is '{kind}', expected one of {', '.join(kinds)}")
    if config.kind in config.extra:
        raise UserError(f"objective.extra names '{config.kind}', which is objective.kind already: leave it out there")
    for name, weight in config.extra.items():
        if not 0 < weight < math.inf:
            raise UserError(f"objective.extra.{name}={weight} must be above 0: leave out what is not wanted")
    weights = {config.kind: 1.0, **config.extra}
    for name in weights:
        _check_tokens(name, widths)
    return WeightedSum({name: kinds[name]() for name in weights}, weights)


def _check_settings(config: ObjectiveConfig) -> None:
    demands: list[tuple[str, Callable[[Any], bool], str]] = [
        ("mask_margin_s", lambda seconds: seconds is None or seconds >= 0, "must be 0 or more, or null"),
        ("second_view.crop_share", lambda share: 0 < share <= 1, "must be above 0 and at most 1"),
        ("second_view.negate_share", lambda share: 0 <= share <= 1, "must be 0 to 1"),
        ("second_view.permute_segments", lambda number: number >= 0, "must be 0 or more"),
        ("cheshmi2025_softmax.temperature", lambda value: value > 0, "must be above 0"),
        ("nt_xent.temperature", lambda value: value > 0, "must be above 0"),
        ("masked.share", lambda share: 0 < share < 1, "must be between 0 and 1"),
        ("masked.patch_samples", lambda number: number >= 1, "must be at least 1"),
        ("masked.num_sensors", lambda number: number >= 1, "must be at least 1"),
        ("comodo.queue_size", lambda number: number >= 1, "must be at least 1"),
        ("comodo.student_temperature", lambda value: value > 0, "must be above 0"),
        ("comodo.teacher_temperature", lambda value: value > 0, "must be above 0"),
        ("primus.self_share", lambda share: 0 <= share <= 1, "must be 0 to 1"),
        ("primus.queue_size", lambda number: number >= 0, "must be 0 or more"),
        ("focal.private_temperature", lambda value: value > 0, "must be above 0"),
        ("focal.rank_weight", lambda value: value >= 0, "must be 0 or more"),
        ("focal.rank_span_s", lambda seconds: seconds is None or seconds > 0, "must be above 0, or null"),
    ]
    for key, holds, demand in demands:
        value = operator.attrgetter(key)(config)
        if not holds(value):
            raise UserError(f"model.objective.{key}={value} {demand}")


def _check_tokens(kind: str, widths: Widths) -> None:
    wanted = {"masked": ["imu"], "alignment": ["imu", "video"]}.get(kind, [])
    for modality in wanted:
        if getattr(widths, f"{modality}_tokens") is None:
            raise UserError(
                f"objective '{kind}' needs the tokens of the {modality} tower in the order of time, which this"
                f" model.{modality}_tower.kind does not give: choose another"
            )
