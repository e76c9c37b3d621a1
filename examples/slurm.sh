#!/usr/bin/env bash
#SBATCH --job-name=bstuner
#SBATCH --array=0-3
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --gpus-per-task=1
#SBATCH --time=02:00:00
#SBATCH --output=bstuner-%A-%a.log

# The four tasks of this array search in one study, which they share in a
# database. Give them equal devices: seconds compare only between those.
#
#   export STUDY=postgresql://me@db.example.org/studies
#   sbatch slurm.sh --n_trials 40 gpt.py --epochs 3
#
# The password is best in ~/.pgpass, out of sight of `ps`. What follows slurm.sh
# are options of `bstuner tune`, the script and its own arguments.
#
# The first task to come trains with your own settings while the others wait;
# then all run trials. Each ends with the same answer, in a folder of its own. A
# task that is killed is missed after a minute, and its trial is run again.
#
# To go on after the time limit, or with more tasks, name the study:
#
#   STUDY_NAME=job-4711 sbatch slurm.sh --n_trials 80 gpt.py --epochs 3

set -euo pipefail

srun bstuner tune \
    --storage "${STUDY:?is the URL of the database}" \
    --study_name "${STUDY_NAME:-job-$SLURM_ARRAY_JOB_ID}" \
    --output "answers/$SLURM_ARRAY_TASK_ID" \
    "$@"
