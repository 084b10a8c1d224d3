#!/bin/sh
# What a run survives: being killed at any moment, signals, closed terminals and pipes, full disks, too little memory, a second run in its
# folder. Afterwards it ends with the same bytes as an undisturbed run, and leaves no file behind that is not its own.
#   kill_campaign.sh train_composite WORKDIR [ROUNDS]
# ROUNDS: how many runs are killed and continued until they are done, each up to a dozen times; 2 unless given, for half a minute. Before a
# release 200 of them: half an hour.
set -u
program=$1 work=$2 rounds=${3:-2}
. "$(dirname "$0")/expect.sh"
umount "$work/disk" 2>/dev/null  # of a campaign that was stopped
trap 'umount disk 2>/dev/null' EXIT
rm -rf "$work" && mkdir -p "$work" && cd "$work" || exit 1
files="checkpoint.safetensors config.json curves.svg metrics.json model_best_composite.safetensors model_final.safetensors training_log.csv"
small="--preset protocol --layers 1 --batch-size 64 --train-samples 256 --eval-samples 20 --seed 5 --device cpu --threads 1"
short="$program $small --steps 360 --eval-every 30"  # one second, or a few
long="$program $small --steps 100000 --eval-every 500"

# same FOLDER: it ended as the undisturbed run, and holds no other file.
same() {
  for f in $files; do cmp "straight/$f" "$1/$f" || say "$1/$f is not an undisturbed run's"; done
  left=$(cd "$1" && ls -A | grep -v -x -e .lock $(printf ' -e %s' $files))
  [ -z "$left" ] || say "left behind in $1: $left"
}
# pause MOST: up to so many milliseconds.
pause() { sleep "$(od -An -N2 -tu2 /dev/urandom | awk -v most="$1" '{printf "%.3f", $1 / 65536 * most / 1000}')"; }
# wait_for FILE: until it is there, or the program $pid has ended.
wait_for() { while [ ! -s "$1" ] && kill -0 $pid 2>/dev/null; do sleep 0.02; done; }

now() { date +%s%N | sed 's/N$/000000000/'; }  # nanoseconds; of a date that knows none, whole seconds
began=$(now)
expect 0 prefers $short --out straight
took=$((($(now) - began) / 1000000))  # milliseconds, of this machine as busy as it is
same straight

# Killed at random, again and again: after up to a third of a whole run's time, and a tenth of that more with every kill, so that on a
# machine that has become slower, too, some get to another of the twelve checkpoints. Before its first checkpoint a run begins anew.
round=0
while [ $round -lt "$rounds" ]; do
  round=$((round + 1)) kills=0 got=137
  while [ $got = 137 ] && [ $kills -lt 100 ]; do
    if [ -s killed/checkpoint.safetensors ]; then command="$program --resume --out killed --device cpu --threads 1"; else command="$short --out killed"; fi
    $command >out.txt 2>&1 &
    pid=$!
    pause $((took / 3 * (10 + kills) / 10))
    kill -KILL $pid 2>/dev/null && kills=$((kills + 1))
    wait $pid 2>/dev/null
    got=$?
    [ $got = 0 ] || [ $got = 137 ] || { say "after $kills kills, exit $got"; cat out.txt; }
  done
  echo "round $round: $kills kills"
  [ $got = 0 ] || say "not done after $kills kills"
  same killed
  rm -rf killed
done

# A closed terminal, told twice, an interrupt, and a system that stops: the work done is kept.
for signal in HUP INT TERM; do
  $short --out stopped >out.txt 2>&1 &
  pid=$!
  wait_for stopped/checkpoint.safetensors
  kill -$signal $pid
  [ $signal != HUP ] || kill -$signal $pid 2>/dev/null
  wait $pid
  got=$?
  [ $got = 130 ] || { say "exit $got instead of 130 after SIG$signal"; cat out.txt; }
  grep -q "Continue with: train_composite --out stopped --resume --device cpu$" out.txt || say "no advice after SIG$signal"
  expect 0 "Continuing" $program --resume --out stopped --device cpu --threads 1
  same stopped
  rm -rf stopped
done
# Started to outlive its terminal, it does.
(trap '' HUP; exec $short --out stopped) >out.txt 2>&1 &
pid=$!
wait_for stopped/checkpoint.safetensors
kill -HUP $pid
wait $pid || say "a run that ignores SIGHUP ends by it"
same stopped
rm -rf stopped

# Readers that leave, and streams that were never there: the run is done, and says so where its result could not be told.
(
  $short --out closed 2>err.txt
  echo $? >code
) | :
[ "$(cat code)" = 5 ] || say "exit $(cat code) instead of 5 where nobody reads the result"
grep -q "standard output cannot be written" err.txt || say "no word on a closed pipe"
same closed
rm -rf closed
(
  $short --out closed 2>&1 >out.txt
  echo $? >code
) | :
[ "$(cat code)" = 0 ] || say "exit $(cat code) instead of 0 where nobody reads the progress"
same closed
rm -rf closed
$short --out closed >&- 2>err.txt
[ $? = 5 ] || say "a closed standard output goes unnoticed"
same closed
rm -rf closed
$short --out closed >out.txt 2>&- <&- || say "a run without standard error ends with $?"
same closed
rm -rf closed

# No room: an error in words, and what was there stays. A checkpoint is 400 KB.
(
  ulimit -f 200
  exec $short --out full
) >out.txt 2>&1
got=$?
[ $got = 5 ] || { say "exit $got instead of 5 beyond the shell's limit"; cat out.txt; }
grep -q "cannot write full/" out.txt || say "no word on a file that is too large"
[ "$(ls -A full | grep -v -x -e .lock -e config.json)" = "" ] || say "a write that failed leaves $(ls -A full)"
rm -rf full
mkdir disk
if [ "$(id -u)" = 0 ] && mount -t tmpfs -o size=700k tmpfs disk 2>/dev/null; then
  expect 5 "cannot write disk/run/" $short --out disk/run
  ! ls -A disk/run | grep -q tmp || say "a full disk is left with $(ls -A disk/run)"
  expect 0 "Accuracy" $program --evaluate disk/run/checkpoint.safetensors --device cpu --threads 1
  mount -o remount,size=10m disk
  expect 0 "Continuing" $program --resume --out disk/run --device cpu --threads 1
  same disk/run
  umount disk
fi
mkdir folder folder/.lock
expect 5 "cannot write into folder" $short --out folder
if [ "$(id -u)" != 0 ]; then
  mkdir locked && chmod 555 locked
  expect 5 "cannot write into locked" $short --out locked
fi
(
  ulimit -v 120000
  exec $program --layers 1 --batch-size 4000000 --train-samples 4000000 --steps 1 --device cpu --threads 1 --out memory
) >out.txt 2>&1
got=$?
[ $got = 1 ] || { say "exit $got instead of 1 without memory"; cat out.txt; }
grep -q "not enough memory" out.txt || say "no word on memory"

# A run's folder is its own: another beside it is refused, whatever it does, and the run goes on.
$long --out own >own.txt 2>&1 &
pid=$!
wait_for own/checkpoint.safetensors
expect 2 "own is another process's" $program --resume --out own --device cpu
expect 2 "own is another process's" $short --out own
kill -TERM $pid
wait $pid
[ $? = 130 ] || say "a run beside which others were refused has not gone on"
# Two that start at once without a name for their folder have one each.
$program $small --steps 2 >a.txt 2>&1 &
pid=$!
$program $small --steps 2 >b.txt 2>&1 || say "a second run without --out fails"
wait $pid || say "a first run without --out fails"
[ "$(ls -d runs/* | wc -l)" = 2 ] || say "two runs without --out have not a folder each"

# What is no regular file is refused, and not waited for.
if command -v mkfifo >/dev/null && command -v timeout >/dev/null; then
  mkdir pipe && mkfifo pipe/checkpoint.safetensors
  expect 3 "pipe/checkpoint.safetensors" timeout 10 $program --evaluate pipe/checkpoint.safetensors
  expect 3 "pipe/checkpoint.safetensors" timeout 10 $program --resume --out pipe
fi
exit $failed
