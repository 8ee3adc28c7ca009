"""Slurm's variables become those of torch.distributed, in the tasks of a step and nowhere else."""

from __future__ import annotations

import pytest

from launcher.slurm import expand_counts, expand_hosts, slurm_environment


def task(**changes: str | None) -> dict[str, str]:
    """The second task on the second node of a step with 2 + 3 tasks; None takes a variable out."""
    variables = {
        "SLURM_JOB_ID": "71",
        "SLURM_STEP_ID": "3",
        "SLURM_NTASKS": "8",  # of the job, which is not the step's
        "SLURM_NODEID": "1",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
        "SLURM_JOB_NODELIST": "n[1-4]",
        "SLURM_STEP_NUM_TASKS": "5",
        "SLURM_STEP_NODELIST": "n[2-3]",
        "SLURM_STEP_TASKS_PER_NODE": "2,3",
        **changes,
    }
    return {name: value for name, value in variables.items() if value is not None}


def test_a_task_is_a_rank():
    found = slurm_environment(task())
    assert found is not None
    port = int(found.pop("MASTER_PORT"))
    assert 20000 <= port < 40000
    assert found == {
        "RANK": "3",
        "WORLD_SIZE": "5",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "3",
        "MASTER_ADDR": "n2",
    }


def test_all_tasks_of_a_step_agree_and_other_steps_and_jobs_differ():
    def port(**changes: str) -> str:
        found = slurm_environment(task(**changes))
        assert found is not None
        return found["MASTER_PORT"]

    assert port() == port(SLURM_PROCID="0", SLURM_NODEID="0", SLURM_LOCALID="0")
    neighbours = {port(SLURM_JOB_ID=str(job), SLURM_STEP_ID=str(step)) for job in range(70, 80) for step in range(10)}
    assert len(neighbours) == 100
    assert all(20000 <= int(port(SLURM_JOB_ID=str(job))) < 40000 for job in (1, 2**31, 10**9))


@pytest.mark.parametrize(
    "changes",
    [
        dict.fromkeys(task()),  # no Slurm at all
        {"SLURM_STEP_ID": None, "SLURM_STEP_NUM_TASKS": None, "SLURM_STEP_NODELIST": None},  # batch script
        {"SLURM_STEP_ID": "4294967291"},  # batch step
        {"SLURM_STEP_ID": "4294967290"},  # shell of salloc
        {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1"},  # srun --pty bash
        {"RANK": "0"},  # started by a rank of ours or by torchrun
    ],
)
def test_elsewhere_it_is_no_rank(changes):
    assert slurm_environment(task(**changes)) is None


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("n1", ["n1"]),
        ("a1,b2", ["a1", "b2"]),
        ("n[1-3,07]", ["n1", "n2", "n3", "n07"]),
        ("a1,b[2-3]x", ["a1", "b2x", "b3x"]),
        ("gpu-[008-011]", ["gpu-008", "gpu-009", "gpu-010", "gpu-011"]),
        ("r[1-2]n[09-10].site", ["r1n09.site", "r1n10.site", "r2n09.site", "r2n10.site"]),
        ("n[5],m[1,3]", ["n5", "m1", "m3"]),
    ],
)
def test_host_lists_expand_as_scontrol_expands_them(text, hosts):
    assert expand_hosts(text) == hosts


@pytest.mark.parametrize("text", ["", ",", "n[", "n[1-3", "n]1", "n[]", "n[1-]", "n[3-1]", "n[a-b]", "n[[1-2]]"])
def test_what_is_no_host_list_is_refused(text):
    with pytest.raises(ValueError, match="no Slurm host list"):
        expand_hosts(text)


def test_counts_of_tasks_expand():
    assert expand_counts("2(x3),1") == [2, 2, 2, 1]
    with pytest.raises(ValueError, match="no Slurm list"):
        expand_counts("2(y3)")
