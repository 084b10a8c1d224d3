#!/bin/sh
# Sweeps over processes: the same tables as by one, whatever becomes of one of them.
#   sweeps.sh phase_diagram compare_variants MPIEXEC WORKDIR
set -u
program=$1 compare=$2 mpiexec=$3 work=$4
. "$(dirname "$0")/expect.sh"
. "$(dirname "$0")/together.sh"
enter "$work" || exit 1
grid="--preset protocol --device cpu --threads 1 --mixer mamba2 --train-samples 256 --eval-samples 20 --batch-size 32"
eight="$grid --layers 2 1 --gammas 0.5 1 --seeds 2"
without_seconds() { sed 's/,[^,]*$//' "$1"; }
same() {
  without_seconds one/runs.csv >a
  without_seconds $1/runs.csv >b
  cmp a b || say "$1/runs.csv is not that of one process"
  cmp one/curves.csv $1/curves.csv || say "$1/curves.csv is not that of one process"
}

expect 0 "8 runs in one" $program $eight --steps 400 --out one
expect 0 "8 runs in three" $together 3 $program $eight --steps 400 --out three && same three
[ "$(grep -c "8 runs in three" out.txt)" = 1 ] || say "three processes tell the result $(grep -c "8 runs in three" out.txt) times"
expect 0 "8 of them done" $together 2 $program $eight --steps 400 --out three
expect 2 "weight_decay 0.01, not 0.1" $together 2 $program $eight --weight-decay 0.1 --steps 400 --out three
expect 2 "merged by one process" $together 2 $program $eight --steps 400 --out merged --merge one three
expect 2 "another process's" flock one/.lock $together 2 $program $eight --steps 400 --out one

# Interrupted, all of them or one: all runs write their checkpoints, and the same command goes on.
for whom in all one; do
  rm -rf stopped
  $together 3 $program $eight --steps 4000 --out stopped >out.txt 2>&1 &
  pid=$!
  while [ "$(ls stopped/runs 2>/dev/null | wc -l)" -lt 3 ] && kill -0 $pid 2>/dev/null; do sleep 0.02; done
  sleep 0.2
  if [ $whom = all ]; then kill -TERM $(running); else kill -TERM $(running | tail -n 1); fi
  wait $pid
  got=$?
  [ $got = 130 ] || { say "exit $got instead of 130 ($whom)"; cat out.txt; }
  grep -q "same command goes on" out.txt || { say "no word on how to go on ($whom)"; cat out.txt; }
done
[ "$(ls stopped/runs/*/checkpoint.safetensors | wc -l)" -ge 3 ] || say "interrupted runs have no checkpoints"

# What one cannot write ends all.
mkdir -p full/runs && : >full/runs/layers1-gamma1-seed1
expect 5 "cannot create full/runs/layers1-gamma1-seed1" $together 2 $program $eight --steps 400 --out full

# One sleeps for longer than the others' patience, and comes back: nothing is lost.
$together 3 $program $eight --steps 4000 --patience 2 --out slow >out.txt 2>&1 &
pid=$!
while [ "$(ls slow/runs 2>/dev/null | wc -l)" -lt 3 ] && kill -0 $pid 2>/dev/null; do sleep 0.02; done
slow=$(running | tail -n 1)
kill -STOP $slow && sleep 4
kill -CONT $slow
wait $pid
got=$?
[ $got = 0 ] || { say "exit $got of a sweep of which one process slept"; cat out.txt; }
grep -q "Process 2 of 3 is back" out.txt || { say "no word on a process that comes back"; cat out.txt; }
expect 0 "8 runs in awake" $program $eight --steps 4000 --out awake
without_seconds awake/runs.csv >a
without_seconds slow/runs.csv >b
cmp a b || say "the table of a sweep of which one process slept is another"
# An idle process is told to stop.
$together 3 $program $grid --gammas 1 --layers 1 --seeds 1 --steps 100000 --out idle >out.txt 2>&1 &
pid=$!
wait_for idle/settings.json
sleep 0.5
kill -TERM $(running | tail -n 1)
wait $pid
got=$?
[ $got = 130 ] || { say "exit $got instead of 130 after a signal to an idle process"; cat out.txt; }

if [ -n "$lasting" ]; then
  # One is killed: the others do its run, too.
  $together 3 $lasting $program $eight --steps 400 --patience 3 --out lost >out.txt 2>&1 &
  pid=$!
  while [ "$(ls lost/runs 2>/dev/null | wc -l)" -lt 3 ] && kill -0 $pid 2>/dev/null; do sleep 0.02; done
  kill -KILL $(running | tail -n 1)
  wait $pid
  grep -q "Process 2 of 3 has not been heard of for 3 seconds; [01] of its runs are the others'" out.txt || { say "no word on a lost process"; cat out.txt; }
  grep -q "8 runs in lost" out.txt || { say "a sweep ends with a process that is killed"; cat out.txt; }
  same lost
  # The first one is: the others end, and their work is kept.
  $together 3 $lasting $program $eight --steps 100000 --eval-every 1000 --patience 3 --out headless >out.txt 2>&1 &
  pid=$!
  while [ "$(ls headless/runs 2>/dev/null | wc -l)" -lt 3 ] && kill -0 $pid 2>/dev/null; do sleep 0.02; done
  sleep 0.5
  kill -KILL $(running | head -n 1)
  wait $pid
  [ "$(grep -c "process 0 of 3 has not been heard of for 3 seconds" out.txt)" = 2 ] || { say "no word on the first process"; cat out.txt; }
  [ "$(ls headless/runs/*/checkpoint.safetensors | wc -l)" -ge 2 ] || say "the others' runs have no checkpoints"
fi

variants="--preset small --device cpu --threads 1 --seeds 2 --steps 30 --layers 1 --batch-size 16 --train-samples 64 --eval-samples 5"
expect 0 "for each comparison" $compare ones-conv $variants --out alone
expect 0 "for each comparison" $together 3 $compare ones-conv $variants --out shared
(cd alone && find . -name '*.csv' -o -name '*.svg') | while read -r f; do cmp "alone/$f" "shared/$f" || echo "$f" >>differ; done
[ ! -e differ ] || say "comparisons by three processes differ: $(cat differ)"
exit $failed
