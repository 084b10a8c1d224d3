#!/bin/sh
# bench/compile_time.sh [COMPILER]...   what including the library costs: a program with one model that is trained for a step
#   prints for each compiler (default: c++) the seconds of its fastest of three compilations at -O2, and where the compiler is a clang
#   how many templates it instantiates (-ftime-trace)
# Environment: INCLUDE (the headers; default this repository's), EIGEN (default /usr/include/eigen3)
set -eu
case ${1:-} in -h | --help) sed -n '2,5s/^# \{0,1\}//p' "$0" && exit 0 ;; esac
include=${INCLUDE:-$(cd "$(dirname "$0")/.." && pwd)/include}
eigen=${EIGEN:-/usr/include/eigen3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/one.cpp" <<'SOURCE'
#include <mamba/composite.hpp>
inline constexpr mamba::Config config{.vocab_size = 100, .d_model = 32, .d_state = 128};
int main() {
  mamba::MambaForComposite<config> model({.n_layers = 2});
  const mamba::task::CompositeFunction task;
  mamba::Trainer trainer(model, task, {});
  return trainer.step() > 0 ? 0 : 1;
}
SOURCE
[ $# -gt 0 ] || set -- c++
for compiler in "$@"; do
  best=
  for _ in 1 2 3; do
    begin=$(date +%s%N)
    "$compiler" -std=c++20 -O2 -I"$include" -isystem "$eigen" -c "$work/one.cpp" -o "$work/one.o"
    took=$((($(date +%s%N) - begin) / 1000000))
    [ -n "$best" ] && [ "$best" -le "$took" ] || best=$took
  done
  templates=
  if "$compiler" --version | grep -q clang; then
    "$compiler" -std=c++20 -O2 -ftime-trace -ftime-trace-granularity=0 -I"$include" -isystem "$eigen" -c "$work/one.cpp" -o "$work/one.o"
    templates=", $(grep -o '"name":"Instantiate\(Function\|Class\)"' "$work/one.json" | wc -l) templates instantiated"
  fi
  echo "$compiler: $((best / 1000)).$(printf %03d $((best % 1000))) s$templates"
done
