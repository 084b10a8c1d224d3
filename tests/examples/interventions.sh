#!/bin/sh
# interventions from end to end on a model of train_composite: table, figures, exit codes.
set -u
train=$1 program=$2 work=$3
. "$(dirname "$0")/expect.sh"
rm -rf "$work" && mkdir -p "$work" && cd "$work" || exit 1
for mixer in mamba1 mamba2; do
  expect 0 prefers $train --layers 2 --steps 3 --batch-size 16 --train-samples 64 --eval-samples 10 --mixer $mixer --out $mixer
  expect 0 "^mean" $program $mixer/model_final.safetensors --sequences 30 --out $mixer-all
  expect 0 '"blocked_strict"' $program $mixer/checkpoint.safetensors --sequences 5 --in-layers 1 --json --out $mixer-one
  for f in blocking.svg substitution.svg information_flow.svg conv_taps.svg interventions.csv; do [ -s "$mixer-all/$f" ] || say "no $f"; done
  [ "$(wc -l <$mixer-all/interventions.csv)" = 17 ] || say "interventions.csv has not 16 pairs"
done
# Substituting everything behind the key in Mamba-1 gives (4,3)'s answers for any weights, unless the key is at 5
# (the specification's section 11.2): a mean of exactly 1.
[ "$(awk -F, 'NR > 1 && $5 != 1' mamba1-all/interventions.csv | wc -l)" = 0 ] || say "substitution in Mamba-1 is not what it must be"
grep -q '"model": "mamba1/model_final.safetensors"' mamba1-all/config.json || say "no record of what the figures are of"
# Without --out each has a folder of its own. A checkpoint knows its run wherever it lies.
expect 0 prefers $train --layers 1 --seed 7 --steps 3 --batch-size 16 --train-samples 64 --eval-samples 10 --out seven
cp seven/checkpoint.safetensors . && $program checkpoint.safetensors --sequences 2 >/dev/null 2>&1 && $program seven/model_final.safetensors --sequences 1 >/dev/null 2>&1
grep -q '"initial_seed": 7' runs/interventions/config.json || say "a checkpoint's seed is lost"
grep -q '"initial_seed": 7' runs/interventions-2/config.json || say "a model's seed is lost"
! grep -q null runs/interventions-2/interventions.csv || say "a table with null"
expect 3 "cannot open" $program nowhere
expect 2 "layer 2 is not in 0..1" $program mamba1/model_final.safetensors --in-layers 2
expect 2 "model is required" $program
: >file
expect 5 "cannot" $program mamba1/model_final.safetensors --out file/folder
exit $failed
