#!/bin/bash
# A sweep over the machines of an allocation, which are a Ray cluster for as long:
#   sbatch --nodes=4 --gpus-per-node=8 --cpus-per-task=64 [options] slurm/sweep.sh CONFIG [key=value ...]
# One task is one machine; the folder of the sweep must be seen by all. A sweep that was stopped goes on when it is
# submitted again. IMUVID names the command where `imuvid` is not on the PATH.
#SBATCH --job-name=imuvid-sweep
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --requeue
# To the sweep (not to this script), ahead of the time limit and, where the site is set up so, of preemption.
#SBATCH --signal=USR1@180

# A shell that dies of a signal takes the job with it; one with a trap waits until the trials have saved.
trap : TERM USR1
# srun does not take the job's --cpus-per-task over.
[ -z "$SLURM_CPUS_PER_TASK" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

# The sweep is task 0: where that ends, the others have a minute to leave.
srun --kill-on-bad-exit=0 --wait=60 "${IMUVID:-imuvid}" sweep "$@" --resume --in-allocation
code=$?

# 85: asked to leave by USR1, every trial has saved.
if [ $code -eq 85 ]; then
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
