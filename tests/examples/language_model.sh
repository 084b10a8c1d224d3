#!/bin/sh
# train_language_model and generate from end to end: outputs, resuming to the same bytes, text from what was trained, exit codes.
set -u
train=$1 generate=$2 data=$3 work=$4
here=$(cd "$(dirname "$0")" && pwd)
. "$here/expect.sh"
rm -rf "$work" && mkdir -p "$work" && cd "$work" || exit 1
# A text of its own: a small grammar, 30,000 bytes.
awk 'BEGIN { srand(7); split("the a every", d, " "); split("king river lamb stone", n, " "); split("saw made kept", v, " ")
  while (length(t) < 30000) t = t d[int(rand() * 3) + 1] " " n[int(rand() * 4) + 1] " " v[int(rand() * 3) + 1] " " d[int(rand() * 3) + 1] " " n[int(rand() * 4) + 1] ".\n"
  printf "%s", t }' >text.txt
size="--mixer mamba1 --width 64 --layers 1 --context 32 --batch 4 --eval-tokens 300 --sample-tokens 20 --seed 5"
small="$train --text text.txt $size"

expect 0 "bits a byte on the held-out text" $small --steps 60 --eval-every 25 --lr 1e-2 --out straight
for f in options.json training_log.csv metrics.json curves.svg samples.txt config.json model.safetensors tokenizer.json checkpoint.safetensors; do
  [ -s "straight/$f" ] || say "no $f"
done
[ "$(head -n 1 straight/training_log.csv)" = "step,train_bits_per_byte,heldout_bits_per_byte,lr" ] || say "log header"
[ "$(wc -l <straight/training_log.csv)" = 4 ] || say "log rows"
[ "$(grep -c '^--- step' straight/samples.txt)" = 3 ] || say "samples"
# It learns: 8 bits at the start, and this grammar has .5 or so.
awk -F, 'END { exit !($3 > 0 && $3 < 4) }' straight/training_log.csv || say "it has not learned: $(tail -n 1 straight/training_log.csv)"
expect 2 "already holds a run" $small --steps 60 --out straight
expect 0 '"heldout_bits_per_byte"' $small --steps 3 --out json --json
# What somebody has there stays.
mkdir own && cp text.txt own/samples.txt
expect 2 "already holds a samples.txt" $train --text own/samples.txt $size --steps 3 --out own
cmp -s text.txt own/samples.txt || say "a file of the user's is gone"
# Text that has been moved is the same text.
mkdir elsewhere && cp text.txt elsewhere/moved.txt
(cd elsewhere && expect 0 "bits a byte" $train --resume --out ../straight --text moved.txt --device cpu; exit $failed) || failed=1
expect 2 "must be a positive number" $small --steps 3 --clip inf --out x
expect 2 "the weight decay" $small --steps 3 --weight-decay nan --out x

# Mamba-3 of two ranks: learned, written as a folder of mamba_ssm, and read back.
expect 0 "bits a byte" $train --text text.txt --mixer mamba3 --width 64 --layers 1 --context 32 --batch 4 --eval-tokens 300 --sample-tokens 20 --steps 30 --lr 1e-2 --out third
grep -q '"is_mimo": true' third/config.json || say "the folder is not mamba_ssm's"
expect 0 "." $generate --model third --prompt "the " --max-tokens 10 --device cpu
cp out.txt first.txt
expect 0 "." $generate --model third --prompt "the " --max-tokens 10 --device cpu --precision int8

# Interrupted after a moment's work, continued: the same bytes, whatever the number of threads; with carried states, too.
for way in "" --carry-state; do
  long="$small --steps 600 --eval-every 150 --device cpu $way"  # where it lasts long enough to be interrupted
  rm -rf long stopped
  expect 0 "bits a byte" $long --out long
  interrupt stopped/options.json $long --out stopped --threads 1
  if [ $got = 130 ]; then
    grep -q "Continue with: train_language_model --out stopped --resume --device cpu$" out.txt || say "no advice after an interrupt"
    expect 2 "already holds a run" $long --out stopped
    expect 2 "differs from the stopped run" $train --out stopped --resume --seed 6
    expect 3 "the run learned from other text" $train --out stopped --resume --text straight/samples.txt
    expect 0 "Continuing" $train --out stopped --resume --device cpu
    for f in options.json training_log.csv metrics.json curves.svg samples.txt config.json model.safetensors tokenizer.json checkpoint.safetensors; do
      cmp "long/$f" "stopped/$f" || say "$f differs after resuming ($way)"
    done
  else
    say "an interrupted run exits with 130, not $got"
  fi
done
# In an evaluation, too: it is done anew. Nearly all that such a run does is evaluations; it is interrupted after a
# quarter of what a whole one took, however fast the machine is.
long="$train --text text.txt --mixer mamba1 --width 64 --layers 1 --steps 20 --sample-tokens 60000 --device cpu --threads 1"
rm -rf written expected && began=$(date +%s) && expect 0 "bits a byte" $long --out expected
took=$(($(date +%s) - began))
interrupt written/options.json $long --out written
[ $got = 130 ] || say "a run interrupted early exits with 130, not $got"
run_and_stop() {
  "$@" >out.txt 2>&1 &
  pid=$!
  sleep "$(awk -v took="$took" 'BEGIN { print (took < 1 ? 1 : took) / 4 }')"
  kill -TERM $pid
  wait $pid
  got=$?
}
run_and_stop $train --out written --resume --device cpu --threads 1
[ $got = 130 ] || say "an evaluation that is interrupted exits with 130, not $got: $(cat out.txt)"
expect 0 "bits a byte" $train --out written --resume --device cpu
for f in training_log.csv samples.txt model.safetensors checkpoint.safetensors; do
  cmp "expected/$f" "written/$f" || say "$f differs after an interrupted evaluation"
done
# A run that has ended ends again: what a kill kept from being written is there then.
rm long/model.safetensors long/metrics.json
expect 0 "bits a byte" $train --out long --resume --device cpu
cmp long/model.safetensors stopped/model.safetensors || say "what a kill took away does not come back"
# Another text under the same name is another run's.
cp text.txt other.txt && expect 0 "bits a byte" $train --text other.txt $size --steps 3 --out other
echo more >>other.txt
expect 3 "other/checkpoint.safetensors: the run learned from other text" $train --out other --resume

# What a tokenizer makes of the text; Mamba-2.
expect 0 "bits a byte" $train --text text.txt text.txt --tokenizer "$data/tokenizer_neox_tiny" --mixer mamba2 --width 64 --layers 1 --context 16 --batch 4 --steps 20 --out tokens
cmp "$data/tokenizer_neox_tiny/tokenizer.json" tokens/tokenizer.json || say "the tokenizer is another"

# generate: the same text twice, and a function of the seed where it is drawn; prompts from standard input.
go="$generate --model straight --max-tokens 40"
said() { "$@" 2>err.txt; }
said $go --prompt "the king" --temperature 0 >first || say "generate: $(cat err.txt)"
said $go --prompt "the king" --temperature 0 --threads 1 >second
cmp first second || say "the likeliest text is not the same twice"
[ "$(wc -c <first)" = 41 ] || say "40 bytes and a line's end are expected: $(cat first)"
grep -q "^prompt: 8 tokens, .* tokens/s; text: 40 tokens, .* tokens/s$" err.txt || say "no tokens/s: $(cat err.txt)"
said $go --prompt "the king" --seed 1 >one && said $go --prompt "the king" --seed 1 >again && said $go --prompt "the king" --seed 2 >two
cmp one again || say "a seed's text is not the same twice"
! cmp -s one two || say "two seeds' texts are the same"
printf 'the king\na river\n' | said $go --temperature 0 --echo >lines
head -n 1 lines | grep -q "^the king$(head -n 1 first)" || say "a prompt of standard input has another text: $(cat lines)"
grep -q "^a river" lines || say "no second prompt"
said $go --prompt "the king" --temperature 0 --stop never --stop river >stopped.txt
awk -v RS=river 'NR == 1 { printf "%s\n", $0 }' first >expected.txt
cmp expected.txt stopped.txt || say "a text that goes on behind its stop: $(cat stopped.txt)"
expect 0 "tokens/s" $go --prompt "the king" --temperature 1 --top-k 5 --top-p 0.9 --min-p 0.05 --repetition-penalty 1.1 --precision bfloat16
expect 0 "tokens/s" $go --prompt "the king" --tokenizer bytes --device cpu
expect 0 "text: 0 tokens" $generate --model straight --prompt the --max-tokens 0
expect 0 "tokens/s" $generate --model tokens --prompt "the king" --max-tokens 20

# What is refused, in words, before anything is written.
expect 2 "is required" $generate --prompt x
expect 2 "without a value" $go --prompt ""
printf 'the\n\n' | $go >out.txt 2>&1
[ $? = 2 ] && grep -q "line 2 of standard input is empty" out.txt || say "an empty line: $(cat out.txt)"
expect 3 "cannot open nowhere/config.json" $generate --model nowhere --prompt x
expect 3 "hf_mamba_tiny/tokenizer.json" $generate --model "$data/hf_mamba_tiny" --prompt x
expect 2 "the tokenizer has 256 tokens, beyond the model's vocabulary of 96" $generate --model "$data/hf_mamba_tiny" --tokenizer bytes --prompt x
expect 2 "not valid UTF-8" $generate --model tokens --prompt "$(printf 'ab\377')"
expect 2 "top_p must be" $go --prompt x --top-p 1.5
expect 2 "the temperature must be" $go --prompt x --temperature -1
expect 2 "repetition_penalty must be" $go --prompt x --repetition-penalty 0
expect 2 "a seed is a whole number" $go --prompt x --seed -1
expect 2 "float4 not in" $go --prompt x --precision float4
expect 2 "a device is auto, cpu, cuda or cuda:N; given nonsense" $go --prompt x --device nonsense
expect 6 "^generate: CUDA: " $go --prompt x --device cuda:99
# A size that was not built says how it is: one of the table's by its name, another by its line.
mkdir unbuilt && cp straight/* unbuilt
sed 's/"\(hidden_size\|d_model\)": *64/"\1": 96/; s/"intermediate_size": *128/"intermediate_size": 192/; s/"time_step_rank": *4/"time_step_rank": 6/' straight/config.json >unbuilt/config.json
expect 2 '"my-model mamba1 96 256 16 4 2 tied"' $generate --model unbuilt --prompt x
sed 's/"\(hidden_size\|d_model\)": *64/"\1": 1024/; s/"vocab_size": *256/"vocab_size": 50280/; s/"intermediate_size": *128/"intermediate_size": 2048/; s/"time_step_rank": *4/"time_step_rank": 64/' straight/config.json >unbuilt/config.json
expect 2 "DMAMBA_LANGUAGE_SIZES=mamba-370m" $generate --model unbuilt --prompt x
cp straight/config.json unbuilt && head -c 2000 straight/model.safetensors >unbuilt/model.safetensors
expect 3 "unbuilt" $generate --model unbuilt --prompt x
if [ -w /dev/full ]; then
  $go --prompt x >/dev/full 2>out.txt
  [ $? = 5 ] || say "a full disk behind standard output goes unnoticed"
fi

: >empty.txt
printf a >one.txt
# How many bits a byte: the same for any number of threads, and about the same for weights of 8 bits.
expect 0 "bits a byte ([0-9]* bytes" $generate --model straight --device cpu --threads 1 --score text.txt
in_float=$(cut -d' ' -f1 out.txt)
expect 0 "^$in_float bits a byte" $generate --model straight --device cpu --threads 3 --score text.txt
for way in "cpu --precision bfloat16" "cpu --precision int8" auto "auto --precision bfloat16" "auto --precision int8"; do
  expect 0 "bits a byte" $generate --model straight --score text.txt --device $way
  in_way=$(sed -n 's/ bits a byte.*//p' out.txt)  # behind where it ran
  awk -v a="$in_float" -v b="$in_way" 'BEGIN { exit !(b > a - .05 && b < a + .05) }' || say "$way: $(cat out.txt) beside $in_float"
done
expect 0 "" $go --prompt x --precision int8
expect 6 "^generate: CUDA: " $generate --model straight --device cuda:99 --precision int8 --prompt x
expect 2 "score" $generate --model straight --score text.txt --prompt x
expect 3 "empty.txt: it has no token" $generate --model straight --device cpu --score empty.txt
printf 'the king\377 saw\n' >latin.txt
expect 2 "is required" $train --out x
expect 3 "empty.txt is empty" $train --text text.txt empty.txt $size --steps 3 --out x
expect 2 "tokens; two are needed" $train --text one.txt $size --steps 3 --out x
expect 3 "none.txt: No such file" $train --text none.txt $size --steps 3 --out x
expect 3 "latin.txt: the text is not valid UTF-8: byte 8 of 14" $train --text text.txt latin.txt --tokenizer "$data/tokenizer_neox_tiny" --mixer mamba2 --width 64 --steps 3 --out x
expect 0 "bits a byte" $train --text text.txt latin.txt $size --steps 3 --out latin
expect 3 "nowhere: No such file" $train --text text.txt $size --tokenizer nowhere --steps 3 --out x
long_context="--mixer mamba1 --width 64 --layers 1 --steps 3 --context 100000 --batch 1"
expect 2 "a context of 100000 takes one more" $train --text text.txt $long_context --out x
expect 2 "readers with a context of" $train --text text.txt --mixer mamba1 --width 64 --context 32 --batch 2000 --carry-state --steps 3 --out x
expect 2 "was not built for mamba1 of width 65" $train --text text.txt --width 65 --steps 3 --out x
grep -q "mamba1  width 64  vocabulary 256" out.txt || say "no table of the widths"
expect 2 "was not built for mamba1 of width 64 and 1523 tokens" $train --text text.txt --tokenizer "$data/tokenizer_neox_tiny" --mixer mamba1 --width 64 --steps 3 --out x
expect 2 "mamba4 not in" $small --mixer mamba4 --out x
expect 2 "the share that is held out" $small --steps 3 --held-out 1 --out x
expect 2 "does not fit" $small --steps 5 --warmup 6 --out x
expect 2 "needs --out" $train --resume
expect 2 "a seed is a whole number" $train --text text.txt --seed -1 --out x
expect 3 "cannot open" $train --resume --out nowhere
expect 6 "^train_language_model: CUDA: " $small --steps 3 --device cuda:99 --out x
expect 4 "diverged" $small --steps 50 --warmup 0 --lr 1e30 --initial-lr 1e30 --out diverged
[ "$(ls diverged)" = options.json ] || say "a model that diverged is kept: $(ls diverged)"
expect 0 "Exit codes" $train --help
expect 0 "Exit codes" $generate --help
# Records that no run has written.
if command -v python3 >/dev/null; then
  mkdir broken
  for code in 'notes["history"] = []' 'notes["history"][0][2] = -1' 'notes["step"] = 10**9' 'del notes["options"]["lr"]' 'notes["options"]["layers"] = 2' 'notes = "{"'; do
    python3 "$here/break_file.py" stopped/checkpoint.safetensors broken/checkpoint.safetensors notes "$code"
    expect 3 "broken/checkpoint.safetensors" $train --resume --out broken --device cpu
  done
fi
[ ! -e x ] || say "a refused run left a folder"
exit $failed
