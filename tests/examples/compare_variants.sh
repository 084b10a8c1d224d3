#!/bin/sh
# compare_variants from end to end, shortened: figures hold every line, tables every run; stopped and continued; what is refused.
set -u
program=$1 work=$2
. "$(dirname "$0")/expect.sh"
rm -rf "$work" && mkdir -p "$work" && cd "$work" || exit 1
short="--device cpu --threads 1 --seeds 2 --batch-size 4 --train-samples 32 --eval-samples 5"

expect 0 "36 runs, 0 of them done" $program all $short --steps 2 --out whole
for name in ones-conv positions full-symmetry inverse details; do
  for f in $name-mamba2.svg $name-mamba2.csv $name-mamba2-curves.csv; do [ -s "whole/$f" ] || say "no $f"; done
  ! command -v python3 >/dev/null || python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' whole/$name-mamba2.svg || say "$name's figure is not XML"
done
[ "$(wc -l <whole/inverse-mamba2.csv)" = 9 ] || say "inverse has not a row for each run"
[ "$(head -n 1 whole/inverse-mamba2.csv)" = "variant,seed,diverged,train_acc,test_acc,ood_acc,best_test_acc,train_loss" ] || say "header of a table"
# A line, a band and a name for every variant in every panel.
[ "$(grep -c '<polygon' whole/ones-conv-mamba2.svg)" = 6 ] || say "not a band for each variant"
[ "$(grep -c '<polyline' whole/ones-conv-mamba2.svg)" = 6 ] || say "not a line for each variant"
for words in "ones, bias zero" "composite (key - 10)" "5 layers, gamma 1<" "mean of 2 seeds"; do grep -q -e "$words" whole/ones-conv-mamba2.svg || say "no '$words' in the figure"; done
grep -q '"conv": "ones-frozen"' whole/ones-conv-mamba2/ones-bias-zero-seed1/config.json || say "a variant is not what it is called"
tr -d ' \n' <whole/details-mamba2/filler-0..99-seed0/config.json | grep -q '"filler":\[0,99\]' || say "a detail is not what it is called"

# Continued: nothing runs twice, and a run that is missing comes back to the same bytes.
cp whole/positions-mamba2.csv before.csv
expect 0 "8 runs, 8 of them done" $program positions $short --steps 2 --out whole
rm -r whole/positions-mamba2/standard-seed1
expect 0 "8 runs, 7 of them done" $program positions $short --steps 2 --out whole
cmp before.csv whole/positions-mamba2.csv || say "a run that is run again ends otherwise"
$program positions $short --steps 100000 --out stopped >out.txt 2>&1 &
pid=$!
while [ ! -s stopped/positions-mamba2/standard-seed0/config.json ] && kill -0 $pid 2>/dev/null; do sleep 0.05; done
sleep 0.2
kill -INT $pid
wait $pid
[ $? = 130 ] || say "an interrupted comparison does not say so"
grep -q "same command goes on" out.txt || say "no word on how to go on"
[ -s stopped/positions-mamba2.svg ] || say "what is there is not drawn"

# Both mixers.
expect 0 "16 runs, 0 of them done" $program positions $short --steps 2 --mixer mamba1 mamba2 --out both
expect 2 "total 2, not 3" $program positions $short --steps 3 --out whole
expect 2 "nonsense" $program nonsense
expect 0 "ones-conv" $program --help
: >file
expect 5 "cannot create" $program positions $short --steps 2 --out file/folder
exit $failed
