#!/bin/sh
# host_calls.sh NM BUILD: no program calls a function of the device on the host. In templates nvcc does not say so: the
# host's version of such a function ends the program with exit(1), without a word. Nothing else here knows exit().
set -u
nm=$1 build=$2
objects=$(find "$build" -name '*.cu.o' ! -path '*/emulation/*')
[ -n "$objects" ] || { echo "no object of nvcc's in $build"; exit 1; }
failed=0
for object in $objects; do
  if "$nm" -u "$object" | grep -qw exit; then
    echo "$object calls a function of the device"
    failed=1
  fi
done
exit $failed
