#!/bin/bash
# Pretraining on any number of nodes:
#   sbatch --nodes=2 --gpus-per-node=4 --ntasks-per-node=4 [options] slurm/pretrain.sh CONFIG [key=value ...]
# One task is one rank (one GPU). IMUVID names the command where `imuvid` is not on the PATH.
#SBATCH --job-name=imuvid-pretrain
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
# To the ranks (not to this script), ahead of the time limit and, where the site is set up so, of preemption.
#SBATCH --signal=USR1@120

# A shell that dies of a signal takes the job with it; one with a trap waits until the ranks have left.
trap : TERM USR1
# srun does not take the job's --cpus-per-task over.
[ -z "$SLURM_CPUS_PER_TASK" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

# The first rank to leave must not end those that still write; one that never leaves must not hold the job for ever.
srun --kill-on-bad-exit=0 --wait=600 "${IMUVID:-imuvid}" pretrain "$@"
code=$?

# 85: asked to leave by USR1, checkpoint written. Never after another code: a job that requeues itself after scancel
# cannot be cancelled. In an array, the last task's SLURM_JOB_ID stands for the whole array.
if [ $code -eq 85 ]; then
    self=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
    exec scontrol requeue "${self:-$SLURM_JOB_ID}"
fi
exit $code
