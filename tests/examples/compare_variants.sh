#!/bin/sh
# compare_variants from end to end, shortened: figures hold every line, tables every run; stopped and continued; what is refused.
set -u
program=$1 work=$2
. "$(dirname "$0")/expect.sh"
rm -rf "$work" && mkdir -p "$work" && cd "$work" || exit 1
short="--preset protocol --device cpu --threads 1 --batch-size 4 --train-samples 32 --eval-samples 5"

expect 0 "48 runs, 0 of them done" $program all $short --seeds 2 --steps 2 --out whole
expect 0 "32 runs, 0 of them done" $program details $short --seeds 2 --epochs 2 --out whole
for name in ones-conv positions full-symmetry inverse one-by-one details; do
  for f in $name-mamba2.svg $name-mamba2.csv $name-mamba2-curves.csv; do [ -s "whole/$f" ] || say "no $f"; done
  ! command -v python3 >/dev/null || python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' whole/$name-mamba2.svg || say "$name's figure is not XML"
done
[ "$(wc -l <whole/inverse-mamba2.csv)" = 15 ] || say "inverse has not a row for each run"
[ "$(head -n 1 whole/inverse-mamba2.csv)" = "variant,seed,diverged,train_acc,test_acc,ood_acc,best_test_acc,train_loss" ] || say "header of a table"
# Every row has a cell for each name.
for table in whole/*.csv; do [ "$(awk -F, '{print NF}' $table | sort -u | wc -l)" = 1 ] || say "$table has rows of several lengths"; done
# A line, a band and a name for every variant in every panel.
[ "$(grep -c '<polygon .*points="[0-9]' whole/ones-conv-mamba2.svg)" = 6 ] || say "not a band for each variant"
[ "$(grep -c '<polyline .*points="[0-9]' whole/ones-conv-mamba2.svg)" = 6 ] || say "not a line for each variant"
for words in "ones, bias zero" "composite (key - 10)" "5 layers, gamma 1<" "mean of up to 2 seeds"; do grep -q -e "$words" whole/ones-conv-mamba2.svg || say "no '$words' in the figure"; done
grep -q '"conv": "ones-frozen"' whole/ones-conv-mamba2/ones-bias-zero-seed1/config.json || say "a variant is not what it is called"
tr -d ' \n' <whole/one-by-one-mamba2/filler-0..99-seed0/config.json | grep -q '"filler":\[0,99\]' || say "a detail is not what it is called"
# The factorial design: every run is what its line says, and each detail has its effect on each observable.
tr -d ' \n' <whole/details-mamba2/untied-modulo-gamma-zero-input-to-1-steps-tf32-seed1/config.json | grep -q '"gamma_fan":"in".*"head":"untied".*"rate_changes":"step".*"products":"tf32"' ||
  say "a line of the design is not what it is called"
[ "$(wc -l <whole/details-mamba2-effects.csv)" = 57 ] || say "not an effect of each detail on each observable"
[ "$(awk -F, '{print NF}' whole/details-mamba2-effects-of-runs.csv | sort | uniq -c | tr -s ' ')" = " 33 9" ] || say "not what was observed of each run"
! command -v python3 >/dev/null || python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' whole/details-mamba2-effects.svg || say "the effects' figure is not XML"
for words in "head: tied to untied" "first loss" "32 of 32 runs"; do grep -q "$words" whole/details-mamba2-effects.svg || say "no '$words' in the effects' figure"; done
rm whole/details-mamba2/*-seed1/model_final.safetensors
expect 0 "What each detail does" $program details $short --seeds 2 --epochs 2 --out whole
expect 2 "its runs are counted in epochs" $program details $short --steps 2 --out x
expect 2 "its runs are counted in epochs" $program details --preset small --device cpu --out x
expect 0 "8 runs, 0 of them done" $program one-by-one $short --seeds 1 --steps 2 --gamma 0.5 --out gamma
grep -q '"gamma": 0.5' gamma/one-by-one-mamba2/standard-seed0/config.json || say "a gamma is not used"

# The paper's reading is another one.
expect 0 "8 runs, 0 of them done" $program one-by-one ${short#--preset protocol} --seeds 1 --steps 2 --out paper
expect 0 "2 runs, 0 of them done" $program full-symmetry ${short#--preset protocol} --seeds 1 --steps 2 --out paper
tr -d ' \n' <paper/one-by-one-mamba2/standard-seed0/config.json | grep -q '"vocab_size":201.*"head":"untied".*"labels":"sum"' || say "the preset is not what it is called"

# Continued: nothing runs twice, and a run that is missing comes back to the same bytes.
cp whole/positions-mamba2.csv before.csv
expect 0 "8 runs, 8 of them done" $program positions $short --seeds 2 --steps 2 --out whole
rm -r whole/positions-mamba2/standard-seed1
expect 0 "8 runs, 7 of them done" $program positions $short --seeds 2 --steps 2 --out whole
cmp before.csv whole/positions-mamba2.csv || say "a run that is run again ends otherwise"
long="positions $short --seeds 2 --steps 400"
interrupt stopped/positions-mamba2/standard-seed0/config.json $program $long --out stopped
[ $got = 130 ] || say "an interrupted comparison does not say so"
grep -q "same command goes on" out.txt || say "no word on how to go on"
expect 0 "8 runs, [0-7] of them done" $program $long --out stopped
expect 0 "8 runs, 0 of them done" $program $long --out straight
for f in .csv -curves.csv .svg; do cmp stopped/positions-mamba2$f straight/positions-mamba2$f || say "a stopped comparison ends otherwise: $f"; done

# A run that diverges is told, and in no mean; lines with a learning rate of their own keep it.
expect 0 "standard  .*(0 of 1 runs)" $program positions $short --steps 4 --seeds 1 --lr 1e30 --out wild
[ "$(sed -n 2p wild/positions-mamba2.csv)" = "standard,0,1,nan,nan,nan,nan" ] || say "a diverged run is not recorded as such"
expect 0 "standard  .*(0 of 1 runs)" $program positions $short --steps 1 --seeds 1 --lr 1e30 --out last  # its last update explodes
[ "$(sed -n 2p last/positions-mamba2.csv)" = "standard,0,1,nan,nan,nan,nan" ] || say "a run that ends exploded is not recorded as such"
expect 0 "learning rate 1e-3" $program one-by-one $short --steps 2 --seeds 1 --lr 5e-4 --out rates
grep -q '"lr": 0.001,' rates/one-by-one-mamba2/learning-rate-1e-3-seed0/config.json || say "a line has lost its own learning rate"
grep -q '"lr": 0.0005,\|"lr": 5e-04,\|"lr": 5e-4,' rates/one-by-one-mamba2/standard-seed0/config.json || say "a learning rate is not used"

# Both mixers.
expect 0 "16 runs, 0 of them done" $program one-by-one $short --seeds 1 --steps 2 --mixer both --out both
expect 2 "total 2, not 3" $program positions $short --seeds 2 --steps 3 --out whole
expect 2 "nonsense" $program nonsense
# A run's folder is its own; what lies in it is checked.
if command -v flock >/dev/null; then
  rm whole/positions-mamba2/standard-seed1/metrics.json
  expect 2 "standard-seed1 is another process's" flock whole/positions-mamba2/standard-seed1/.lock $program positions $short --seeds 2 --steps 2 --out whole
  expect 0 "8 runs, 7 of them done" $program positions $short --seeds 2 --steps 2 --out whole
fi
sed -i 's/"composite_acc": [0-9.]*/"composite_acc": 1e300/' whole/positions-mamba2/standard-seed1/metrics.json
expect 3 "standard-seed1/metrics.json: composite_acc is a number from 0 to 1" $program positions $short --seeds 2 --steps 2 --out whole
echo "epoch,composite_acc" >rates/one-by-one-mamba2/standard-seed0/training_log.csv
expect 3 "standard-seed0/training_log.csv does not begin with" $program one-by-one $short --steps 2 --seeds 1 --lr 5e-4 --out rates
expect 2 "without a value" $program positions $short --out ""
expect 2 "lr" $program positions $short --lr "" --out x
expect 2 "batch-size" $program positions $short --batch-size 4294967297 --out x
expect 2 "layers" $program positions $short --layers 2000000000 --out x
expect 2 "epochs" $program full-symmetry $short --epochs 9223372036854775807 --out x
expect 2 "lr" $program positions $short --steps 2 --lr -1 --out x
expect 2 "65 tokens are longer than the 64 positions" $program inverse $short --steps 2 --layers 14 --out x
[ ! -e x ] || say "what is refused leaves a folder behind"
expect 0 "ones-conv" $program --help
: >file
expect 5 "cannot create" $program positions $short --steps 2 --out file/folder
exit $failed
