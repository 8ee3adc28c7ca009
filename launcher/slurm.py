"""What a task of an ``srun`` step is to torch.distributed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping

# Ids of the steps that are no srun steps: interactive (salloc), batch, external (slurm/slurm.h).
_FIRST_SPECIAL_STEP = 0xFFFFFFF0
_FIRST_PORT, _NUM_PORTS = 20000, 12768  # up to 32767: Linux hands out the ports above to any program


def slurm_environment(environ: Mapping[str, str]) -> dict[str, str] | None:
    """Return the variables of torch.distributed for a task of an srun step with several tasks.

    Args:
        environ: the environment of the process.

    Returns:
        RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR (first host of the step) and MASTER_PORT (the
        same in all tasks, another in each job and step). None where this process is no rank of such a step: outside
        Slurm, in the batch script or an interactive shell, in a step of one task, or where RANK is set already.

    Raises:
        ValueError: a variable of Slurm's is not as its documentation says.
    """
    needed = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")
    step = ("SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE")
    if "RANK" in environ or not all(name in environ for name in needed + step):
        return None
    step_id, num_tasks = int(environ["SLURM_STEP_ID"]), int(environ["SLURM_STEP_NUM_TASKS"])
    if step_id >= _FIRST_SPECIAL_STEP or num_tasks < 2:
        return None
    tasks_per_node = expand_counts(environ["SLURM_STEP_TASKS_PER_NODE"])
    # Steps of one job differ by 1 and jobs by 101, so that neighbours on one host do not meet.
    port = _FIRST_PORT + (int(environ["SLURM_JOB_ID"]) * 101 + step_id) % _NUM_PORTS
    return {
        "RANK": environ["SLURM_PROCID"],
        "WORLD_SIZE": str(num_tasks),
        "LOCAL_RANK": environ["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(tasks_per_node[int(environ["SLURM_NODEID"])]),
        "MASTER_ADDR": expand_hosts(environ["SLURM_STEP_NODELIST"])[0],
        "MASTER_PORT": str(port),
    }


def expand_hosts(text: str) -> list[str]:
    """Return the host names of a Slurm host list, such as ``a1,n[1-3,07]`` or ``r[1-2]n[01-16]x``, in its order.

    Raises:
        ValueError: the text is no host list.
    """
    hosts: list[str] = []
    # A comma separates entries unless it is inside brackets.
    for entry in re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+|[,\[\]]+", text):
        if entry == ",":
            continue
        if not re.fullmatch(r"(?:[^,\[\]]|\[[0-9,-]+\])+", entry):
            raise ValueError(f"'{text}' is no Slurm host list")
        parts = re.split(r"\[([0-9,-]+)\]", entry)
        choices = [[part] if i % 2 == 0 else _expand_ranges(part, text) for i, part in enumerate(parts)]
        hosts += ["".join(choice) for choice in itertools.product(*choices)]
    if not hosts:
        raise ValueError(f"'{text}' is no Slurm host list")
    return hosts


def expand_counts(text: str) -> list[int]:
    """Return the number of tasks on each node from Slurm's short form, such as ``2(x3),1``.

    Raises:
        ValueError: the text is no such list.
    """
    counts: list[int] = []
    for entry in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", entry)
        if not match:
            raise ValueError(f"'{text}' is no Slurm list of task counts")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def _expand_ranges(ranges: str, text: str) -> list[str]:
    """Return the numbers of ``1-3,07`` as text; a leading zero gives the width."""
    numbers: list[str] = []
    for entry in ranges.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", entry)
        if not match:
            raise ValueError(f"'{text}' is no Slurm host list")
        first, last = match[1], match[2] or match[1]
        if int(last) < int(first):
            raise ValueError(f"'{text}' is no Slurm host list: {entry} runs backwards")
        numbers += [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return numbers
