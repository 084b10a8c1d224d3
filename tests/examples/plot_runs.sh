#!/bin/sh
# plot_runs: runs of one configuration share a panel, every number is in the figure, wrong input is named.
set -u
program=$1 work=$2
. "$(dirname "$0")/expect.sh"
rm -rf "$work" && mkdir -p "$work" && cd "$work" || exit 1
run() {
  mkdir "$1"
  printf '{"n_layers": 3, "gamma": 1, "mixer": "%s", "conv": "%s", "position": "none", "residual": "none", "seed": %s}\n' "$2" "$3" "$4" >"$1/config.json"
  printf 'epoch,train_loss,composite_acc,symmetric_acc,lr\n10,3.5,0.25,0,1e-4\n20,2.5,0.75,0.125,1e-4\n' >"$1/training_log.csv"
}
run a mamba1 learned 0
run b mamba1 learned 1
run c mamba2 ones 0
expect 0 "3 runs in 2 panels" $program a b c --out all.svg --title "A & B"
for words in "A &amp; B" "Mamba-1, 3 layers, gamma 1, conv learned" "Mamba-2, 3 layers, gamma 1, conv ones" "seed 1"; do grep -q -e "$words" all.svg || say "no '$words' in the figure"; done
[ "$(grep -c '<polyline\|<path' all.svg)" -ge 3 ] || say "not a line for each run"
expect 0 "1 runs" $program a --column train_loss --out loss.svg
expect 3 "no column speed" $program a --column speed
expect 3 "cannot open" $program nowhere
printf 'epoch,composite_acc\n10,much\n' >b/training_log.csv
expect 3 "is not a row" $program b
printf 'epoch,composite_acc\n10,1e300\n' >b/training_log.csv
expect 3 "b/training_log.csv: composite_acc is a number from 0 to 1" $program b
printf 'epoch,composite_acc\nnan,0.5\n' >b/training_log.csv
expect 3 "b/training_log.csv: epoch is a number from 0" $program b
printf '' >b/training_log.csv
expect 3 "b/training_log.csv" $program b
echo '{"n_layers": 3, "gamma": 1, "mixer": 5, "seed": 0}' >b/config.json
expect 3 "b/config.json: JSON: expected a string" $program b
echo '[]' >b/config.json
expect 3 "b/config.json: JSON: expected an object" $program b
expect 2 "without a value" $program a --out ""
expect 2 "without a value" $program a ""
expect 2 "runs is required" $program
expect 5 "cannot" $program a --out nowhere/all.svg
exit $failed
