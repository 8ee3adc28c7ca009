"""The functions that turn a fold of a task into predictions, by name: one file of this folder each."""

from __future__ import annotations

from imuvid.ood.protocols.finetune import finetuned
from imuvid.ood.protocols.frozen import frozen
from imuvid.ood.protocols.paper import few_shot
from imuvid.ood.protocols.stress import stressed
from imuvid.ood.protocols.task import Evaluator

EVALUATORS: dict[str, Evaluator] = {
    "frozen": frozen,
    "finetune": finetuned,
    "paper": few_shot,
    "stress": stressed,
}
"""To add one: write ``def name(task: Task, fold: Fold) -> Iterator[Block]`` and list it here."""
