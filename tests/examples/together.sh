# Sourced by the tests of processes that work together, with $mpiexec and $program set.
# Open MPI: more processes than processors, the administrator's account, and no reading of other processes' memory, which containers forbid.
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_btl_vader_single_copy_mechanism=none
together="$mpiexec -n"
# What lets the others live on when one is killed; empty: unknown of this MPI.
lasting=
! $mpiexec --version 2>&1 | grep -q "OpenRTE\|Open MPI" || lasting=--enable-recovery
wait_for() { while [ ! -s "$1" ] && kill -0 $pid 2>/dev/null; do sleep 0.02; done; }
# A folder of the test's own, and in it the program under a name of its own: another test may run it at the same time.
enter() { rm -rf "$1" && mkdir -p "$1" && cd "$1" && ln -s "$program" "$PWD/own" && program=$PWD/own; }
# Its processes that run now, without the launcher.
running() { pgrep -f "^$program "; }
