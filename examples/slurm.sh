#!/usr/bin/env bash
#SBATCH --job-name=bstuner
#SBATCH --array=0-3             # four workers, one on each
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --gpus-per-task=1       # equal ones: seconds compare only between equal devices
#SBATCH --time=02:00:00
#SBATCH --output=bstuner-%A-%a.log

# A search for batch size and learning rate by the tasks of a Slurm array, which share one study in a database:
#
#   export STUDY=postgresql://me@db.example.org/studies     # the password in ~/.pgpass, out of sight of `ps`
#   sbatch slurm.sh --n_trials 40 gpt.py --epochs 3
#
# What follows slurm.sh are options of `bstuner tune`, the script and its own arguments. The first task to come trains
# with your own settings while the others wait; then all run trials. Each ends with the same answer in a folder of its
# own. A task that is killed is missed after a minute, and its trial run again by another. With more tasks, or after the
# time limit, go on with the study by its name: STUDY_NAME=job-4711 sbatch slurm.sh --n_trials 80 gpt.py --epochs 3

set -euo pipefail

srun bstuner tune \
    --storage "${STUDY:?is the URL of the database}" \
    --study_name "${STUDY_NAME:-job-$SLURM_ARRAY_JOB_ID}" \
    --output "answers/$SLURM_ARRAY_TASK_ID" \
    "$@"
