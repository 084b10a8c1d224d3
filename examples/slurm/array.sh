#!/bin/sh
# The same as an array of jobs that know nothing of each other and need no MPI, each with its share of the runs:
#   sbatch --array=1-8 examples/slurm/array.sh FOLDER [options of phase_diagram]
# and when all are done
#   phase_diagram --out FOLDER/all [the same options] --merge FOLDER/part*
#SBATCH --job-name=mamba-array
#SBATCH --cpus-per-task=8
#SBATCH --gpus=1
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
set -u
folder=${1:?"FOLDER is missing"}
shift
program=${MAMBA_PROGRAM:-build/release/examples/experiments/phase_diagram}
share=$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN + 1))
exec srun "$program" --out "$folder/part$share" --shard "$share/$SLURM_ARRAY_TASK_COUNT" "$@"
