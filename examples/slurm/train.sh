#!/bin/sh
# One training by the cores of several machines, which goes on where it stopped when its time is up:
#   sbatch examples/slurm/train.sh FOLDER [options of train_composite]
# As many processes as divide --shards (8) give the same result: nodes times tasks. The folder is one that all nodes see.
#SBATCH --job-name=mamba-train
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -u
folder=${1:?"FOLDER is missing"}
shift
program=${MAMBA_PROGRAM:-build/release/examples/experiments/train_composite}
resume=
[ ! -s "$folder/checkpoint.safetensors" ] || resume=--resume
# shellcheck disable=SC2086
srun --mpi="${MAMBA_MPI:-pmix}" --cpus-per-task="$SLURM_CPUS_PER_TASK" "$program" --device cpu --out "$folder" $resume "$@"
code=$?
# 130: two minutes before the end every process was told, and the checkpoint is written.
[ $code != 130 ] || scontrol requeue "$SLURM_JOB_ID"
exit $code
