#!/bin/sh
# Processes that train one model together: the same bytes for any number of them, whatever becomes of one.
#   processes.sh train_composite MPIEXEC WORKDIR
set -u
program=$1 mpiexec=$2 work=$3
. "$(dirname "$0")/expect.sh"
. "$(dirname "$0")/together.sh"
enter "$work" || exit 1
small="--preset protocol --layers 1 --batch-size 64 --train-samples 256 --eval-samples 20 --seed 5 --threads 1"
short="$program $small --steps 120 --eval-every 30"
long="$program $small --steps 100000 --eval-every 200"
files="checkpoint.safetensors config.json curves.svg metrics.json model_best_composite.safetensors model_final.safetensors training_log.csv"
same() {
  for f in $files; do cmp "one/$f" "$1/$f" || say "$1/$f is not one process's"; done
  left=$(cd "$1" && ls -A | grep -v -x -e .lock $(printf ' -e %s' $files))
  [ -z "$left" ] || say "left behind in $1: $left"
}

cat >told.sh <<'END'
"$@"
code=$?
echo "exit $code" >&2
exit $code
END

expect 0 prefers $short --shards 8 --device cpu --out one
expect 0 prefers $together 1 $short --shards 8 --out of_one && same of_one
expect 0 "by 2 processes" $together 2 $short --out two && same two
[ "$(grep -c prefers out.txt)" = 1 ] || say "the result is told $(grep -c prefers out.txt) times"
expect 0 "by 4 processes" $together 4 $short --out four && same four
# A new folder without a name is one for all of them.
expect 0 prefers $together 4 $short --json
[ "$(ls -d runs/* | wc -l)" = 1 ] || say "four processes made $(ls -d runs/* | wc -l) folders"

# One process by itself is the plain program, whoever started it; so are two that are told so.
expect 0 prefers $short --device cpu --out plain
expect 0 prefers $together 1 $short --out started && cmp plain/model_final.safetensors started/model_final.safetensors || say "mpirun of one process trains otherwise"
expect 0 prefers $together 1 sh -c "$program --help && $short --alone --out first && $short --out second"
expect 0 prefers $together 2 $short --alone
[ "$(ls -d runs/* | wc -l)" = 3 ] || say "two processes that are told to work alone share a folder"
expect 2 "no way to each other: srun has --mpi=pmix" env SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=1 $short --out slurm

# What is refused is refused by all.
expect 2 "3 processes do not divide 8 shards" $together 3 $short --out three
[ ! -e three/checkpoint.safetensors ] || say "a run of three has begun"
expect 2 "already holds a run" $together 2 $short --out two
expect 2 "shards" $together 2 $short --shards 0 --out zero
$together 2 $short --device cuda --out gpu >out.txt 2>&1
got=$?
[ $got = 2 ] || [ $got = 6 ] || { say "exit $got instead of 2, or 6 without a GPU"; cat out.txt; }
grep -q "the CPU's\|GPU\|CUDA" out.txt || { say "no word on shards on a GPU"; cat out.txt; }
expect 0 "shards" $together 2 $program --help

# Stopped by four, continued by one, and the other way.
$together 4 $short --out stopped >out.txt 2>&1 &
pid=$!
wait_for stopped/checkpoint.safetensors
kill -TERM $(running)
wait $pid
got=$?
[ $got = 130 ] || { say "exit $got instead of 130"; cat out.txt; }
[ "$(grep -c 'Continue with' out.txt)" = 1 ] || { say "no advice, or more than one"; cat out.txt; }
expect 0 "Continuing" $program --resume --out stopped --device cpu --threads 1
same stopped
rm -rf stopped
$short --shards 8 --device cpu --out stopped >out.txt 2>&1 &
pid=$!
wait_for stopped/checkpoint.safetensors
kill -TERM $pid
wait $pid
expect 0 "Continuing" $together 4 $program --resume --out stopped --threads 1
same stopped

# One is killed: all of them end, within a minute, and the checkpoint is whole.
$together 4 $long --patience 5 --out killed >out.txt 2>&1 &
pid=$!
wait_for killed/checkpoint.safetensors
kill -KILL $(running | tail -n 1)
began=$(date +%s)
wait $pid
got=$?
[ $got != 0 ] || say "a run of which one process was killed ends with 0"
[ $(($(date +%s) - began)) -le 60 ] || say "it took $(($(date +%s) - began)) seconds to end"
sleep 1
[ -z "$(running)" ] || say "processes are left: $(running)"
expect 0 "Accuracy" $program --evaluate killed/checkpoint.safetensors --device cpu --threads 1
$together 2 $program --resume --out killed --threads 1 >out.txt 2>&1 &
pid=$!
sleep 2
kill -TERM $(running)
wait $pid
got=$?
[ $got = 130 ] || { say "a run goes on with $got after one process was killed"; cat out.txt; }

# The same where nobody else ends the others: they do it themselves, in the same words.
if [ -n "$lasting" ]; then
  $together 3 $lasting sh told.sh $long --shards 6 --patience 3 --out left >out.txt 2>&1 &
  pid=$!
  wait_for left/checkpoint.safetensors
  kill -KILL $(running | tail -n 1)
  wait $pid
  [ "$(grep -c "process 2 of 3 has not come for 3 seconds" out.txt)" = 2 ] || { say "two processes of three do not miss the third"; cat out.txt; }
  [ "$(grep -c "exit 7" out.txt)" = 2 ] || { say "they do not end with 7"; cat out.txt; }
  expect 0 "Accuracy" $program --evaluate left/checkpoint.safetensors --device cpu --threads 1
fi

# One does nothing for longer than the others' patience: they end in the same words, each with 7.
$together 2 sh told.sh $long --patience 3 --out asleep >out.txt 2>&1 &
pid=$!
wait_for asleep/checkpoint.safetensors
asleep=$(running | tail -n 1)
kill -STOP $asleep
began=$(date +%s)
while ! grep -q "exit 7" out.txt && [ $(($(date +%s) - began)) -le 60 ]; do sleep 0.1; done
grep -q "process [01] of 2 has not come for 3 seconds" out.txt || { say "no word on a process that sleeps"; cat out.txt; }
kill -CONT $asleep 2>/dev/null
wait $pid
[ $? != 0 ] || say "a run that lost a process ends with 0"
# For less long: they wait.
$together 2 $short --out slow >out.txt 2>&1 &
pid=$!
wait_for slow/checkpoint.safetensors
slow=$(running | tail -n 1)
kill -STOP $slow 2>/dev/null && sleep 2
kill -CONT $slow 2>/dev/null
wait $pid || { say "a slow process ends the run"; cat out.txt; }
same slow

# One has no memory for the evaluation: all say so.
few="$program --preset protocol --layers 1 --batch-size 8 --train-samples 64 --eval-samples 500000 --steps 4 --threads 1 --patience 30"
expect 1 "not enough memory" timeout 120 $together 1 $few --out hungry : -n 1 sh -c "ulimit -v 330000; exec $few --out hungry"
[ "$(grep -c "not enough memory" out.txt)" = 2 ] || { say "two processes do not say that one has no memory"; cat out.txt; }
# Both have none for a batch.
limited="ulimit -v 400000; exec $program --layers 1 --batch-size 8000000 --train-samples 8000000 --steps 1 --threads 1 --out memory"
$together 2 sh -c "$limited" >out.txt 2>&1
got=$?
[ $got = 1 ] || { say "exit $got instead of 1 without memory"; cat out.txt; }
grep -q "not enough memory" out.txt || { say "no word on memory"; cat out.txt; }
# One cannot write: the first one, for all.
mkdir folder folder/.lock
expect 5 "cannot write into folder" $together 2 $short --out folder
exit $failed
