#!/bin/sh
# Many trainings on many places, a GPU (or, without --gpus-per-task, eight cores) for each process: the first process
# hands out the runs as places become free. A process that dies costs what ran its last minute: where Slurm ends the
# others with it, as it does by PMIx, the same command goes on with what is left.
#   sbatch examples/slurm/sweep.sh FOLDER [options of phase_diagram]
# When the time is up it is the same command again. The folder is one that all nodes see.
#SBATCH --job-name=mamba-sweep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-task=1
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --no-kill
set -u
folder=${1:?"FOLDER is missing"}
shift
program=${MAMBA_PROGRAM:-build/release/examples/experiments/phase_diagram}
tries=10
while :; do
  srun --mpi="${MAMBA_MPI:-pmix}" --kill-on-bad-exit=0 --cpus-per-task="$SLURM_CPUS_PER_TASK" "$program" --out "$folder" "$@"
  code=$?
  # Done, refused, stopped because the time is up; anything else is a process that was lost.
  case $code in 0 | 2 | 3 | 5 | 130) exit $code ;; esac
  tries=$((tries - 1))
  [ $tries -gt 0 ] || exit $code
  echo "sweep: ended with $code; going on with what is left" >&2
done
