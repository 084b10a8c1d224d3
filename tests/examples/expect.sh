# Sourced by the programs' tests.
failed=0
say() { echo "FAILED: $*"; failed=1; }
# expect CODE WORDS COMMAND...: the exit code, and the words in what it prints.
expect() {
  code=$1 words=$2
  shift 2
  "$@" >out.txt 2>&1
  got=$?
  [ $got = "$code" ] || { say "exit $got instead of $code: $*"; cat out.txt; }
  grep -q -e "$words" out.txt || { say "no '$words' from: $*"; cat out.txt; }
}
# interrupt FILE COMMAND...: an interrupt as soon as FILE is there and a moment's work done; its exit code is in $got.
interrupt() {
  file=$1
  shift
  "$@" >out.txt 2>&1 &
  pid=$!
  while [ ! -s "$file" ] && kill -0 $pid 2>/dev/null; do sleep 0.05; done
  sleep 0.1
  kill -INT $pid
  wait $pid
  got=$?
}
