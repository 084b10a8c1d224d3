#!/bin/sh
# train_inverse from end to end: outputs, resuming to the same bytes, evaluation, exit codes.
set -u
program=$1 composite=$2 work=$3
. "$(dirname "$0")/expect.sh"
rm -rf "$work" && mkdir -p "$work" && cd "$work" || exit 1
small="--preset protocol --layers 1 --batch-size 8 --train-samples 64 --eval-samples 20 --ood-samples 10 --seed 5 --mixer mamba2 --device cpu"
files="config.json training_log.csv metrics.json curves.svg model_best_test.safetensors model_final.safetensors checkpoint.safetensors"

expect 0 "out of distribution 0\\." $program $small --epochs 2 --eval-every 1 --out straight
for f in $files; do [ -s "straight/$f" ] || say "no $f"; done
[ "$(head -n 1 straight/training_log.csv)" = "epoch,train_loss,train_acc,test_acc,ood_acc,lr" ] || say "log header"
[ "$(wc -l <straight/training_log.csv)" = 3 ] || say "log rows"
for key in n_layers gamma d_model numbers ood_numbers ood_samples; do grep -q "\"$key\"" straight/config.json || say "config.json lacks $key"; done
for words in ">training<" ">test<" ">out of distribution<"; do grep -q "$words" straight/curves.svg || say "no '$words' in the figure"; done

# Interrupted after a moment's work, continued: the same bytes.
long="$program $small --epochs 100 --eval-every 50"
expect 0 "guessing" $long --out long
interrupt stopped/config.json $long --out stopped --threads 1
if [ $got = 130 ]; then
  grep -q "Continue with: train_inverse --out stopped --resume --device cpu$" out.txt || say "no advice after an interrupt"
  expect 2 "differs from the stopped run" $program --out stopped --resume --numbers 20..50 --device cpu
  expect 0 "Continuing" $program --out stopped --resume --device cpu
  for f in $files; do cmp "long/$f" "stopped/$f" || say "$f differs after resuming"; done
else
  say "an interrupted run exits with 130, not $got"
fi

expect 0 "prefers" $composite --layers 1 --steps 2 --batch-size 8 --train-samples 64 --eval-samples 5 --device cpu --out composite
expect 0 '"ood_acc"' $program --evaluate straight/checkpoint.safetensors --eval-samples 20 --json --device cpu
expect 0 "guessing" $program $small --steps 2 --residual identity --position learned --position-std 0.02 --embedding-std 0.05 --numbers 30..40 --ood-numbers 300..320 --out variant
grep -q '"embedding_std": 0.05' variant/config.json || say "a record without the embedding's width"
expect 0 "guessing" $program ${small#--preset protocol} --steps 2 --preset quick --residual identity --position sinusoidal --out other
# Unless told otherwise, the reading that comes closest to the paper.
expect 0 "guessing" $program ${small#--preset protocol} --steps 2 --out paper
tr -d ' \n' <paper/config.json | grep -q '"vocab_size":201.*"head":"untied".*"rate_changes":"step"' || say "the preset is not what it is called"
expect 2 "was not built with" $program $small --steps 2 --conv ones --out x
expect 2 "three that are congruent modulo 3 need 7" $program $small --steps 2 --numbers 20..24 --out x
expect 2 "65 tokens are longer than the 64 positions" $program --preset protocol --mixer mamba2 --device cpu --layers 14 --residual identity --position learned --out x
expect 3 'of the task "composite", not of "inverse sequences"' $program --resume --out composite --device cpu
expect 2 "FIRST..LAST" $program --numbers 20-99
expect 0 "Exit codes" $program --help
[ ! -e x ] || say "a refused run left a folder"
exit $failed
