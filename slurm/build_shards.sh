#!/bin/bash
# Shards built by a job array: every task reads its part of the recordings, the one that is done last assembles.
#   sbatch --array=0-31 [--cpus-per-task=16] [options] slurm/build_shards.sh CONFIG [key=value ...]
# `out` must be seen by all hosts; for an `out` in an object store, build.work_dir must. A build that lost tasks goes on
# when the same array is submitted again. IMUVID names the command where `imuvid` is not on the PATH.
#SBATCH --job-name=imuvid-build-shards
#SBATCH --output=%x-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --requeue

if [ -z "$SLURM_ARRAY_TASK_ID" ]; then
    exec "${IMUVID:-imuvid}" shards build "$@"
fi
part=$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN))
exec "${IMUVID:-imuvid}" shards build "$@" --part "$part/$SLURM_ARRAY_TASK_COUNT"
