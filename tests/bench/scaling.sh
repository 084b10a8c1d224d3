#!/bin/sh
# bench_scaling, or bench_cuda_scaling, from end to end: every model that it holds, table, figure, exit codes. Without a
# device the latter is skipped.
set -u
program=$1 work=$2
. "$(dirname "$0")/../examples/expect.sh"
rm -rf "$work" && mkdir -p "$work" && cd "$work" || exit 1
expect 0 "mamba2 decoding, layers 4" $program --quick --out quick
[ $got = 6 ] && exit 77
[ "$(head -n 1 quick/scaling.csv)" = "axis,value,mixer,work,milliseconds,tokens_per_second,bytes" ] || say "header of scaling.csv"
for axis in batch length sequence d_state d_model layers; do
  for mixer in mamba1 mamba2; do
    [ "$(grep -c "^$axis,[0-9]*,$mixer,training," quick/scaling.csv)" -ge 2 ] || say "no line of $mixer along $axis"
  done
done
case ${program##*/} in bench_cuda_*)
  [ "$(grep -c "^prompt," quick/scaling.csv)" = 8 ] || say "a line of prompts is missing" ;;
esac
[ "$(awk -F, 'NR > 1 && !($5 > 0 && $6 > 0 && $7 > 0)' quick/scaling.csv | wc -l)" = 0 ] || say "scaling.csv holds what no measurement is"
[ "$(grep -c "<polyline" quick/scaling.svg)" -ge 40 ] || say "lines are missing in scaling.svg"
if command -v xmllint >/dev/null; then xmllint --noout quick/scaling.svg || say "scaling.svg is not XML"
elif command -v python3 >/dev/null; then python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' quick/scaling.svg || say "scaling.svg is not XML"
fi
expect 0 "\-\-budget" $program --help
expect 2 "unknown\|not expected" $program --unknown
expect 2 "threads" $program --threads -1
: >file
expect 5 "cannot" $program --quick --out file/folder
exit $failed
