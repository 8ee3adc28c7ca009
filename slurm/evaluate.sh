#!/bin/bash
# Out-of-distribution evaluation of a checkpoint, one process:
#   sbatch [--gpus=1] [--dependency=afterok:JOB] [options] slurm/evaluate.sh CHECKPOINT CONFIG [key=value ...]
# IMUVID names the command where `imuvid` is not on the PATH.
#SBATCH --job-name=imuvid-evaluate
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks=1

exec "${IMUVID:-imuvid}" evaluate "$@"
