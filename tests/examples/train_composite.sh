#!/bin/sh
# train_composite from end to end: outputs, resuming to the same bytes, evaluation, exit codes.
set -u
program=$1 work=$2
here=$(cd "$(dirname "$0")" && pwd)
. "$(dirname "$0")/expect.sh"
rm -rf "$work" && mkdir -p "$work" && cd "$work" || exit 1
small="--preset protocol --layers 1 --batch-size 64 --train-samples 256 --eval-samples 20 --seed 5"
run="$program $small --epochs 4 --eval-every 2"

expect 0 "The model prefers" $run --out straight
for f in config.json training_log.csv metrics.json curves.svg model_best_composite.safetensors model_final.safetensors checkpoint.safetensors; do
  [ -s "straight/$f" ] || say "no $f"
done
[ "$(head -n 1 straight/training_log.csv)" = "epoch,train_loss,composite_acc,symmetric_acc,lr" ] || say "log header"
[ "$(wc -l <straight/training_log.csv)" = 3 ] || say "log rows"
for key in n_layers gamma vocab_size d_model d_state d_conv expand seed lr batch_size; do grep -q "\"$key\"" straight/config.json || say "config.json lacks $key"; done

# Interrupted after a moment's work, continued: the same bytes.
long="$program $small --epochs 150 --eval-every 50 --device cpu"  # where it lasts long enough to be interrupted
expect 0 "prefers" $long --out long
interrupt stopped/config.json $long --out stopped --threads 1
if [ $got = 130 ]; then
  grep -q "Continue with: train_composite --out stopped --resume --device cpu$" out.txt || say "no advice after an interrupt"
  expect 2 "already holds a run" $long --out stopped
  expect 2 "differs from the stopped run" $program --out stopped --resume --seed 6
  ! command -v flock >/dev/null || expect 2 "stopped is another process's" flock stopped/.lock $program --out stopped --resume --device cpu
  expect 0 "Continuing" $program --out stopped --resume --device cpu
  for f in config.json training_log.csv metrics.json curves.svg model_best_composite.safetensors model_final.safetensors checkpoint.safetensors; do
    cmp "long/$f" "stopped/$f" || say "$f differs after resuming"
  done
else
  say "an interrupted run exits with 130, not $got"
fi

# An evaluation after every step, many of them.
expect 0 "prefers" $program $small --steps 100 --eval-every 1 --out often
[ "$(wc -l <often/training_log.csv)" = 101 ] || say "not an evaluation after every step"
expect 0 "prefers" $program $small --epochs 1 --eval-every 9223372036854775807 --out seldom

expect 0 "Accuracy on the test cases" $program --evaluate straight/model_final.safetensors --eval-samples 20 --seed 5
expect 0 '"composite_acc"' $program --evaluate straight/checkpoint.safetensors --eval-samples 20 --json
# A file is evaluated on its run's task: its record gives the same accuracies as the run.
expect 0 '"composite_acc"' $program --evaluate straight/model_final.safetensors --json
grep composite_acc out.txt >a
grep '"composite_acc"' straight/metrics.json >b
cmp a b || say "a model's evaluation is not its run's"
expect 0 '"seconds"' $program $small --steps 3 --out json --json
rm straight/checkpoint.safetensors
expect 2 "already holds a run" $run --out straight
if [ -w /dev/full ]; then
  $program --evaluate straight/model_final.safetensors --json >/dev/full 2>out.txt
  [ $? = 5 ] || say "a full disk behind standard output goes unnoticed"
fi
# Mamba-3, which has no convolution.
expect 0 "prefers" $program $small --mixer mamba3 --steps 6 --out third
grep -q '"mixer": "mamba3"' third/config.json || say "a run's mixer is not recorded"
expect 0 "\"composite_acc\"" $program --evaluate third/model_final.safetensors --json
expect 2 "which mamba3 has not" $program $small --mixer mamba3 --gamma-except convolution --out x
expect 2 "which mamba3 alone has" $program $small --gamma-except key-bias --out x
expect 0 "prefers" $program $small --mixer mamba3 --gamma-except key-bias --steps 3 --out third_keys
expect 2 "was not built with" $program $small --mixer mamba3 --conv ones --out x
# Without --out two runs never share a folder; a record that is not ours does not matter.
for n in 1 2; do expect 0 "prefers" $program $small --steps 3; done
[ "$(ls runs | wc -l)" = 2 ] && [ -s "$(ls -d runs/*-2)/metrics.json" ] || say "two runs without --out have not a folder each"
mkdir foreign && cp straight/model_final.safetensors foreign && echo '{"d_model": 768}' >foreign/config.json
expect 0 "Accuracy" $program --evaluate foreign/model_final.safetensors --eval-samples 20
echo nonsense >foreign/config.json
expect 3 "foreign/config.json: JSON" $program --evaluate foreign/model_final.safetensors
expect 0 "prefers" $program $small --steps 3 --gamma default --filler 0..99 --keys 30..60 --out ranges
expect 0 "prefers" $program $small --steps 3 --mixer mamba2 --position learned --residual identity --out variant
grep -q '"mixer": "mamba2"' variant/config.json || say "config.json lacks the variant"
expect 0 "prefers" $program --evaluate variant/model_final.safetensors --eval-samples 20
expect 2 "was not built with" $program --evaluate variant/model_final.safetensors --mixer mamba1
expect 2 "differs from the stopped run" $program --out variant --resume --mixer mamba1
expect 0 "prefers" $program $small --steps 3 --mixer mamba2 --head untied --gamma-except convolution,head --out head
grep -q '"convolution",' head/config.json || say "config.json lacks what gamma leaves out"
expect 2 "differs from the stopped run" $program --out head --resume --gamma-except head
expect 2 "tail not in" $program $small --steps 3 --gamma-except tail --out x
expect 2 "are gamma's" $program $small --steps 3 --gamma default --gamma-except convolution --out x
expect 2 "has no weight of its own" $program $small --steps 3 --gamma-except head --out x
expect 2 "all of them are left out" $program $small --steps 3 --gamma-biases own --gamma-except step-bias --out x
expect 2 "which is not drawn" $program $small --steps 3 --mixer mamba2 --conv ones-frozen --gamma-except convolution-bias --out x
expect 0 "prefers" $program $small --steps 3 --gamma-except step-bias --out steps
grep -q '"step-bias"' steps/config.json || say "config.json lacks the bias that gamma leaves out"
expect 2 "none to draw" $program $small --steps 3 --gamma-except position --out x
grep -q '"head": "untied"' head/config.json || say "config.json lacks the head"
expect 0 "prefers" $program --evaluate head/model_final.safetensors --eval-samples 20
expect 0 "prefers" $program --evaluate head/checkpoint.safetensors --eval-samples 20
expect 3 'head = "untied", this one "tied"' $program --evaluate head/model_final.safetensors --head tied
expect 2 "differs from the stopped run" $program --out head --resume --head tied
# Presets: what each reads into the paper is in its record; the vocabulary is the model's.
recorded() { tr -d ' \n' <"$1/config.json" | grep -q "$2" || say "no $2 in the record of $1"; }
plain=${small#--preset protocol}
expect 0 "prefers" $program $plain --steps 3 --out paper
for words in '"mixer":"mamba2"' '"head":"untied"' '"vocab_size":201' '"labels":"sum"' '"rate_changes":"step"' '"gamma_except":\["convolution"\]' '"gamma_biases":"own"' '"products":"tf32"'; do recorded paper "$words"; done
expect 0 "prefers" $program --evaluate paper/model_final.safetensors --eval-samples 20
expect 0 "prefers" $program --evaluate paper/checkpoint.safetensors --eval-samples 20
expect 2 "differs from the stopped run" $program --out paper --resume --labels modulo
expect 2 "differs from the stopped run" $program --out paper --resume --vocab-size 100
mkdir alone && cp paper/model_final.safetensors alone
expect 0 "Accuracy" $program --evaluate alone/model_final.safetensors --eval-samples 20
expect 0 "Accuracy" $program --evaluate alone/model_final.safetensors --eval-samples 20 --labels sum
grep -q "alone/model_final.safetensors has no record of its run" out.txt || say "no word on what task a file without a record is evaluated on"
expect 3 'vocab_size = 201, this one 100' $program --evaluate alone/model_final.safetensors --vocab-size 100
expect 0 "prefers" $program $plain --steps 3 --gamma default --out default_start
recorded default_start '"gamma_except":\[\]'
recorded default_start '"gamma_biases":"zero"'
expect 2 "are gamma's" $program $plain --steps 3 --gamma default --gamma-biases own --out x
expect 2 "are gamma's" $program $plain --steps 3 --gamma default --gamma-except convolution --out x
expect 0 "prefers" $program $plain --steps 3 --gamma-except none --out all_by_gamma
recorded all_by_gamma '"gamma_except":\[\]'
expect 2 "given none" $program $plain --steps 3 --gamma-except none,head --out x
expect 0 "prefers" $program $plain --steps 3 --preset achilles --out achilles
for words in '"mixer":"mamba1"' '"head":"tied"' '"vocab_size":100' '"labels":"modulo"' '"filler":\[0,99\]' '"keys":\[20,99\]'; do recorded achilles "$words"; done
expect 2 "the task has 110 tokens and labels, and the model knows 100" $program $small --steps 3 --labels sum --out x
expect 2 "with keys from 10 one of them is -6" $program $plain --steps 3 --keys 10..40 --out x
expect 2 "vocabulary 300" $program $plain --steps 3 --vocab-size 300 --out x
expect 2 "labels" $program $small --steps 3 --labels both --out x
expect 2 "rate-changes" $program $small --steps 3 --rate-changes never --out x
expect 0 "prefers" $program $small --epochs 2 --eval-every 1 --rate-changes step --out smooth
expect 0 "prefers" $program $small --epochs 2 --eval-every 1 --rate-changes epoch --out stepped
[ "$(awk -F, 'NR == 2 {print $NF}' stepped/training_log.csv)" = 0.00025 ] || say "a rate that changes within an epoch"
[ "$(awk -F, 'NR == 2 {print $NF < 0.00025}' smooth/training_log.csv)" = 1 ] || say "a rate that does not change within an epoch"
expect 2 "was not built with" $program $small --steps 3 --conv ones --residual gate --out x
expect 2 "mixer" $program --mixer mamba4
expect 0 "0\\." $program --version
expect 0 "Exit codes" $program --help
expect 2 "unknown" $program --unknown
expect 0 "on the CPU, 3 steps" $program $small --steps 3 --device cpu --out on_cpu
expect 6 "^train_composite: CUDA: \(this program was built without it\|no device\|device 99 is not in 0\.\.[0-9]*\)$" $program $small --steps 3 --device cuda:99 --out x
expect 2 "a device is auto, cpu, cuda or cuda:N; given nonsense" $program $small --steps 3 --device nonsense --out x
expect 2 "" $program --layers 0
expect 2 "gamma" $program --gamma -1 --out x
expect 2 "gamma" $program --gamma nonsense
expect 2 "FIRST..LAST" $program --filler 20-99
expect 2 "FIRST..LAST" $program --filler 20..4294967395
expect 2 "a seed is a whole number" $program --seed -1 --out x
expect 2 "a seed is a whole number" $program --seed 99999999999999999999 --out x
expect 2 "without a training or a test case" $program --keys 20..21 --out x
expect 2 "does not fit" $program --steps 5 --warmup 6 --out x
expect 2 "position_std is of learned positions" $program $small --steps 3 --position-std 0.1 --out x
expect 2 "are gamma's" $program $small --steps 3 --gamma default --gamma-fan in --out x
expect 2 "excludes" $program --evaluate straight/model_final.safetensors --resume --out straight
expect 2 "needs --out" $program --resume
expect 5 "too long" $program $small --steps 3 --out "$(head -c 300 /dev/zero | tr '\0' a)"
expect 3 "cannot open" $program --resume --out nowhere
expect 3 "cannot open" $program --evaluate nowhere
head -c 1000 straight/model_final.safetensors >short.safetensors
expect 3 "not a valid safetensors file" $program --evaluate short.safetensors
expect 4 "diverged" $program $small --steps 50 --warmup 0 --lr 1e30 --initial-lr 1e30 --out diverged
# The last update explodes, or one before an evaluation: no good end, and nothing of it is kept.
for length in "--steps 1" "--steps 10 --eval-every 1"; do
  rm -rf exploded
  expect 4 "diverged" $program $small $length --warmup 0 --lr 1e30 --initial-lr 1e30 --out exploded
  [ "$(ls exploded)" = config.json ] || say "an exploded model is kept: $(ls exploded)"
done
# What a later step explodes leaves the checkpoint from which the run can go on.
expect 4 "diverged" $program $small --steps 40 --eval-every 1 --warmup 40 --initial-lr 1e-3 --lr 1e20 --clip 1e30 --out later
if [ -e later/checkpoint.safetensors ]; then
  expect 0 "Accuracy" $program --evaluate later/checkpoint.safetensors
  expect 4 "diverged" $program --resume --out later --device cpu
fi
# An unset variable is no value, and an option without effect is none.
for option in --evaluate --out --device --gamma --filler; do expect 2 "without a value" $program $small --steps 3 $option ""; done
expect 2 "without a value" $program $small --steps 3 --out=
for option in "--layers 1" "--lr 1" "--epochs 3" "--gamma 1" "--batch-size 3" "--out x"; do
  expect 2 "evaluate excludes ${option% *}" $program --evaluate straight/model_final.safetensors $option
done
# Records that no run has written.
if command -v python3 >/dev/null; then
  broken() { python3 "$here/break_file.py" long/checkpoint.safetensors broken/checkpoint.safetensors "$@"; }
  mkdir broken
  for code in 'notes["history"]["log"] = []' 'notes["history"]["log"][0][2] = 1e300' 'notes["history"]["best"] = 7' 'del notes["history"]' 'notes = "{"' 'notes = "[]"' \
    'notes["options"]["n_layers"] = 1000000' 'notes["options"]["total"] = 10**18' 'notes["options"]["batch_size"] = -1' 'notes["options"]["lr"] = 0.5'; do
    broken notes "$code"
    expect 3 "broken/checkpoint.safetensors" $program --resume --out broken --device cpu
  done
  broken notes 'notes["options"]["eval_samples"] = 2000000000'
  expect 3 "broken/checkpoint.safetensors" $program --evaluate broken/checkpoint.safetensors
  broken nan
  expect 4 "diverged" $program --evaluate broken/checkpoint.safetensors
  expect 3 "not finite" $program --resume --out broken --device cpu
  # A small file that names many layers is refused before a model of that size is built.
  python3 -c '
import json, struct
names = json.dumps({f"backbone.layers.{i}.norm.weight": dict(dtype="F32", shape=[0], data_offsets=[0, 0]) for i in range(900)}).encode()
open("layers.safetensors", "wb").write(struct.pack("<Q", len(names)) + names)'
  expect 3 "layers.safetensors: .*backbone.layers.0.mixer" $program --evaluate layers.safetensors
fi
[ ! -e x ] || say "a refused run left a folder"
: >file
expect 5 "cannot" $program $small --steps 3 --out file/folder
if [ "$(id -u)" != 0 ]; then
  mkdir locked && chmod 555 locked
  expect 5 "cannot" $program $small --steps 3 --out locked/run
fi
exit $failed
