#!/bin/sh
# Processes that train one language model together: the same bytes for any number of them.
#   language_processes.sh train_language_model MPIEXEC WORKDIR
set -u
program=$1 mpiexec=$2 work=$3
. "$(dirname "$0")/expect.sh"
. "$(dirname "$0")/together.sh"
enter "$work" || exit 1
awk 'BEGIN { srand(7); split("the a every", d, " "); split("king river lamb stone", n, " ")
  while (length(t) < 20000) t = t d[int(rand() * 3) + 1] " " n[int(rand() * 4) + 1] ".\n"
  printf "%s", t }' >text.txt
run="$program --text text.txt --mixer mamba1 --width 64 --layers 1 --context 32 --batch 8 --eval-tokens 300 --sample-tokens 20 --seed 5 --threads 1"
short="$run --steps 60 --eval-every 25"
files="options.json training_log.csv metrics.json curves.svg samples.txt config.json model.safetensors tokenizer.json checkpoint.safetensors"
same() { for f in $files; do cmp "one/$f" "$1/$f" || say "$1/$f is not one process's"; done; }

expect 0 "bits a byte on the held-out" $short --shards 8 --device cpu --out one
for n in 1 2 4; do expect 0 "bits a byte on the held-out" $together $n $short --shards 8 --out of_$n && same of_$n; done
[ "$(grep -c '^--- step' out.txt)" = 3 ] || say "four processes tell $(grep -c '^--- step' out.txt) samples instead of 3"
grep -q "by 4 processes" out.txt || say "nobody says that there are four"
# Batches that shards do not divide, and processes that are no power of two.
odd="$(echo "$short" | sed 's/--batch 8/--batch 7/') --shards 6"
expect 0 "bits a byte" $odd --device cpu --out odd
expect 0 "bits a byte" $together 3 $odd --out odd_3
for f in $files; do cmp "odd/$f" "odd_3/$f" || say "odd_3/$f is not one process's"; done

# Interrupted by four, continued by two.
$together 4 $run --steps 3000 --eval-every 1000 --out stopped >out.txt 2>&1 &
pid=$!
wait_for stopped/options.json
sleep 0.2
kill -TERM $(running)
wait $pid
got=$?
[ $got = 130 ] || { say "exit $got instead of 130"; cat out.txt; }
expect 0 "Continuing" $together 2 $program --resume --out stopped --threads 1
expect 0 "bits a byte" $run --steps 3000 --eval-every 1000 --shards 8 --device cpu --out straight
for f in $files; do cmp "straight/$f" "stopped/$f" || say "$f differs after resuming"; done

expect 2 "3 processes do not divide 8 shards" $together 3 $short --out three
expect 2 "with carry_state a batch is not cut" $together 2 $short --carry-state --out carried
expect 2 "is cut into 1 to 8 shards; given 9" $short --shards 9 --out nine
expect 3 "cannot open" $together 2 $short --text nowhere.txt --out nowhere
exit $failed
