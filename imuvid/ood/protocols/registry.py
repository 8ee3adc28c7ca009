"""The functions that turn a fold of a task into predictions, by name: one file of this folder each."""

from __future__ import annotations

from imuvid.ood.protocols.finetune import finetuned
from imuvid.ood.protocols.frozen import frozen
from imuvid.ood.protocols.paper import few_shot
from imuvid.ood.protocols.task import Evaluator
from imuvid.ood.protocols.zero_shot import zero_shot

EVALUATORS: dict[str, Evaluator] = {
    "frozen": frozen,
    "finetune": finetuned,
    "paper": few_shot,
    "zero-shot": zero_shot,
}
"""To add one: write ``def name(task: Task, fold: Fold) -> Iterator[Block]`` and list it here."""
