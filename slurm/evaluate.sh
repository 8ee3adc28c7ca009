#!/bin/bash
# Out-of-distribution evaluation; folds run side by side on the job's cores. Given again it goes on where it was stopped.
#   sbatch [--gpus=1] [--cpus-per-task=N] [--dependency=afterok:JOB] slurm/evaluate.sh CHECKPOINT... CONFIG [key=value ...]
#   sbatch [--time=...] slurm/evaluate.sh --watch RUN CONFIG [key=value ...]     each checkpoint of a run as it appears
# IMUVID names the command where `imuvid` is not on the PATH.
#SBATCH --job-name=imuvid-evaluate
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --requeue

exec "${IMUVID:-imuvid}" evaluate "$@"
