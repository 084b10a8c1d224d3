#!/bin/sh
# phase_diagram from end to end on a tiny grid: killed and continued, in shards and merged, with equal rows; figures hold every number.
set -u
program=$1 work=$2
. "$(dirname "$0")/expect.sh"
rm -rf "$work" && mkdir -p "$work" && cd "$work" || exit 1
grid="--preset protocol --device cpu --threads 1 --mixer mamba2 --layers 2 1 --gammas 0.5 1 --seeds 2 --train-samples 256 --eval-samples 20"
short="$grid --steps 12 --batch-size 32"
long="$grid --steps 400 --batch-size 32"
without_seconds() { sed 's/,[^,]*$//' "$1"; }

expect 0 "8 runs in whole" $program $short --out whole
[ "$(wc -l <whole/runs.csv)" = 9 ] || say "runs.csv has not a row for each run"
expect 0 "8 of them done" $program $short --out whole
# A diagram of the time when there was no choice of the head, nor of what gamma leaves out, of labels and of when the rate changes.
cp whole/settings.json settings.json
sed '/"head"/d;/"gamma_except"/d;/"labels"/d;/"rate_changes"/d;/"products"/d;/"scope"/d;/"shards"/d' settings.json | tr -d '\n' | sed 's/, *}/}/' >whole/settings.json
grep -q 'head\|labels' whole/settings.json && say "settings.json is not as old as it should be"
expect 0 "8 of them done" $program $short --out whole
cp settings.json whole/settings.json
# Every cell's number is in the figures, which are XML.
for figure in composite symmetric; do
  [ "$(grep -c '<rect x' whole/phase_$figure.svg)" = 4 ] || say "phase_$figure.svg has not four cells"
  ! command -v python3 >/dev/null || python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' whole/phase_$figure.svg || say "phase_$figure.svg is not XML"
done
mean=$(awk -F, '$1 == 2 && $2 == 1 {sum += $4; ++n} END {printf "%.2f", sum / n}' whole/runs.csv)
grep -q ">$mean<" whole/phase_composite.svg || say "no $mean in phase_composite.svg"
for words in "2 layers" "gamma 0.5" "published" "seed 0, seed 1" "<polyline" '&quot;steps&quot;'; do grep -q -e "$words" whole/report.html || say "no '$words' in report.html"; done

# Stopped by a signal in the middle, and killed: the same command goes on.
$program $long --out long >out.txt 2>&1 &
pid=$!
while [ "$(ls long/runs 2>/dev/null | wc -l)" -lt 2 ] && kill -0 $pid 2>/dev/null; do sleep 0.05; done
kill -INT $pid
wait $pid
[ $? = 130 ] || say "an interrupted diagram does not say so"
grep -q "same command goes on" out.txt || say "no word on how to go on"
$program $long --out long >out.txt 2>&1 &
pid=$!
sleep 0.3
kill -KILL $pid
wait $pid 2>/dev/null
expect 0 "8 runs in long" $program $long --out long
expect 0 "8 runs in straight" $program $long --out straight
without_seconds long/runs.csv >a
without_seconds straight/runs.csv >b
cmp a b || say "a stopped diagram ends otherwise"
cmp long/curves.csv straight/curves.csv || say "a stopped diagram's curves are others"

# Two shards, put together.
expect 0 "4 runs" $program $short --out one --shard 1/2
expect 0 "4 runs" $program $short --out two --shard 2/2
expect 0 "8 runs in merged" $program $short --out merged --merge one two
without_seconds merged/runs.csv >a
without_seconds whole/runs.csv >b
cmp a b || say "shards merge to something else"
for f in curves.csv phase_composite.svg phase_symmetric.svg report.html; do cmp merged/$f whole/$f || say "merged, $f is another"; done

# The paper's reading beside its numbers; another mixer is another diagram.
expect 0 "1 runs in paper" $program --device cpu --threads 1 --layers 2 --gammas 1 --seeds 1 --steps 2 --batch-size 8 --train-samples 64 --eval-samples 5 --out paper
for words in "published" "untied head, vocabulary 201" '&quot;labels&quot;: &quot;sum&quot;'; do grep -q -e "$words" paper/report.html || say "no '$words' in the paper's report"; done
expect 0 "1 runs in achilles" $program --preset achilles --device cpu --threads 1 --layers 1 --gammas 1 --seeds 1 --steps 2 --batch-size 8 --train-samples 64 --eval-samples 5 --out achilles
grep -q '"mixer": "mamba1"' achilles/settings.json || say "the public reproduction is of Mamba-1"

# A run that diverges is a row, too.
expect 0 "diverged" $program --device cpu --layers 1 --gammas 1 --seeds 1 --steps 12 --lr 1e30 --batch-size 8 --train-samples 64 --eval-samples 5 --out wild
[ "$(sed -n 's/,[^,]*$//; 2p' wild/runs.csv)" = "1,1,0,nan,nan,nan,nan,1" ] || say "a diverged run is not recorded as such"
# So is one whose last update explodes.
expect 0 "diverged" $program --device cpu --layers 1 --gammas 1 --seeds 1 --steps 1 --lr 1e30 --batch-size 8 --train-samples 64 --eval-samples 5 --out last
[ "$(sed -n 's/,[^,]*$//; 2p' last/runs.csv)" = "1,1,0,nan,nan,nan,nan,1" ] || say "a run that ends exploded is not recorded as such"
expect 2 "batch_size 32, not 16" $program $grid --steps 12 --batch-size 16 --out whole
for shard in 3/2 1/-1 0/2 1; do expect 2 "a shard is written as I/N" $program $short --out other --shard $shard; done
expect 2 "without a training or a test case" $program $short --keys 20..21 --out other
expect 2 "weight decay" $program $short --weight-decay -1 --out other
expect 2 "excludes" $program $short --out other --merge one --shard 1/2
expect 0 "1 runs in twice" $program --device cpu --layers 1 1 --gammas 1 --seeds 1 --steps 2 --batch-size 8 --train-samples 64 --eval-samples 5 --out twice
# A folder is one process's.
if command -v flock >/dev/null; then
  expect 2 "another process's" flock whole/.lock $program $short --out whole
  # So is each run's: nobody may continue it beside the diagram.
  rm -r whole/runs/layers2-gamma1-seed0/.lock && sed -i '/^2,1,0,/d' whole/runs.csv
  touch whole/runs/layers2-gamma1-seed0/.lock
  expect 2 "layers2-gamma1-seed0 is another process's" flock whole/runs/layers2-gamma1-seed0/.lock $program $short --out whole
  expect 0 "8 runs, 7 of them done" $program $short --out whole
fi
# A share without a run draws nothing, and claims nothing.
expect 0 "0 runs in empty: runs.csv, curves.csv; no figures" $program $short --out empty --shard 9/9
[ ! -e empty/report.html ] || say "a report of nothing"
expect 2 "without a value" $program $short --out ""
expect 2 "without a value" $program $short --merge "" --out other
expect 2 "was not built with" $program $short --position learned --residual gate --out other
expect 3 "cannot open" $program $short --out other --merge one nowhere
[ ! -e other ] || say "what is refused leaves a folder behind"
echo "1,2" >>two/runs.csv
expect 3 "is not a row of 9 numbers" $program $short --out other --merge two
for row in 1e300,1,0,0,0,0,1,0,1 2,1,1e300,0,0,0,1,0,1 2,1,-1,0,0,0,1,0,1 2,1,0,7,0,0,1,0,1 2,1,0,0,0,0,1,1e300,1; do
  sed -i '$d' two/runs.csv && echo $row >>two/runs.csv
  expect 3 "two/runs.csv" $program $short --out other --merge two
done
: >file
expect 5 "cannot create" $program $short --out file/folder
exit $failed
