#!/bin/sh
# interventions from end to end on a model of train_composite: table, figures, exit codes.
set -u
train=$1 program=$2 work=$3
here=$(cd "$(dirname "$0")" && pwd)
. "$(dirname "$0")/expect.sh"
rm -rf "$work" && mkdir -p "$work" && cd "$work" || exit 1
for mixer in mamba1 mamba2; do
  expect 0 prefers $train --preset protocol --layers 2 --steps 3 --batch-size 16 --train-samples 64 --eval-samples 10 --mixer $mixer --out $mixer
  expect 0 "^mean" $program $mixer/model_final.safetensors --sequences 30 --out $mixer-all
  expect 0 '"blocked_strict"' $program $mixer/checkpoint.safetensors --sequences 5 --in-layers 1 --json --out $mixer-one
  for f in blocking.svg substitution.svg information_flow.svg conv_taps.svg logit_lens.svg interventions.csv logit_lens.csv; do [ -s "$mixer-all/$f" ] || say "no $f"; done
  [ "$(awk -F, '$1 ~ /^[0-9]+$/ && NF == 4 && $2 <= 1 && $3 <= 1 && $4 <= 1' $mixer-all/logit_lens.csv | wc -l)" = 3 ] || say "logit_lens.csv has not a row for each depth"
  [ "$(wc -l <$mixer-all/interventions.csv)" = 17 ] || say "interventions.csv has not 16 pairs"
done
# Mamba-3 has no convolution, and no figure of its taps.
expect 0 prefers $train --preset protocol --layers 2 --steps 3 --batch-size 16 --train-samples 64 --eval-samples 10 --mixer mamba3 --out mamba3
expect 0 "^mean" $program mamba3/model_final.safetensors --sequences 30 --out mamba3-all
[ -s mamba3-all/information_flow.svg ] && [ ! -e mamba3-all/conv_taps.svg ] || say "not the figures of a model without a convolution"
# Substituting everything behind the key in Mamba-1 gives (4,3)'s answers for any weights, unless the key is at 5
# (the specification's section 11.2): a mean of exactly 1.
[ "$(awk -F, 'NR > 1 && $5 != 1' mamba1-all/interventions.csv | wc -l)" = 0 ] || say "substitution in Mamba-1 is not what it must be"
grep -q '"model": "mamba1/model_final.safetensors"' mamba1-all/config.json || say "no record of what the figures are of"
# The lens behind the last layer shows the run's own accuracies, by the labels of its task; before any layer there is nothing.
expect 0 prefers $train --layers 2 --steps 2500 --lr 4e-3 --gamma 0.5 --batch-size 64 --eval-every 2500 --eval-samples 200 --device cpu --out sums
expect 0 "^mean" $program sums/model_final.safetensors --out lens
for column in 3:composite_acc 4:symmetric_acc; do
  [ "$(awk -F, '$1 == "2" {print $'${column%:*}' + 0}' lens/logit_lens.csv)" = "$(sed -n 's/^ *"'${column#*:}'": \([0-9.e-]*\),$/\1/p' sums/metrics.json | awk '{print $1 + 0}')" ] ||
    say "the lens's ${column#*:} is not its run's"
done
awk -F, '$1 == "0" {before = $2} $1 == "2" {after = $2} END {exit !(after > 0.03 && after > 3 * before)}' lens/logit_lens.csv ||
  say "the lens does not show what has been learned"
mkdir alone && cp sums/model_final.safetensors alone
expect 0 "has no record of its run" $program alone/model_final.safetensors --sequences 2 --out alone_inside
# Without --out each has a folder of its own. A checkpoint knows its run wherever it lies.
expect 0 prefers $train --layers 1 --seed 7 --steps 3 --batch-size 16 --train-samples 64 --eval-samples 10 --out seven
cp seven/checkpoint.safetensors . && $program checkpoint.safetensors --sequences 2 >/dev/null 2>&1 && $program seven/model_final.safetensors --sequences 1 >/dev/null 2>&1
grep -q '"initial_seed": 7' runs/interventions/config.json || say "a checkpoint's seed is lost"
grep -q '"initial_seed": 7' runs/interventions-2/config.json || say "a model's seed is lost"
! grep -q null runs/interventions-2/interventions.csv || say "a table with null"
expect 3 "cannot open" $program nowhere
expect 2 "layer 2 is not in 0..1" $program mamba1/model_final.safetensors --in-layers 2
expect 2 "model is required" $program
# Layers before the model, as many as there are.
expect 0 "^mean" $program --sequences 5 --in-layers 0 1 mamba1/model_final.safetensors --out before
expect 0 "^mean" $program --sequences 5 mamba1/model_final.safetensors --in-layers 0 1 --out behind
for f in interventions.csv config.json; do cmp before/$f behind/$f || say "$f depends on where the model is named"; done
expect 0 "^mean" $program --sequences 5 --in-layers 0 -- mamba1/model_final.safetensors
expect 2 "model is required" $program --in-layers 0 1
expect 2 "a layer is a whole number" $program --in-layers 0 x mamba1/model_final.safetensors
expect 2 "without a value" $program mamba1/model_final.safetensors --out ""
expect 2 "without a value" $program ""
expect 2 "holds a training run" $program mamba1/model_final.safetensors --out mamba1
! command -v flock >/dev/null || expect 2 "another process's" flock before/.lock $program mamba1/model_final.safetensors --sequences 2 --out before
# A model of NaNs answers nothing: no table says otherwise.
if command -v python3 >/dev/null; then
  python3 "$here/break_file.py" mamba1/model_final.safetensors nan.safetensors nan
  expect 4 "diverged" $program nan.safetensors --out nan
  [ ! -e nan/interventions.csv ] || say "a table of a model of NaNs"
fi
: >file
expect 5 "cannot" $program mamba1/model_final.safetensors --out file/folder
exit $failed
