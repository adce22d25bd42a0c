#!/usr/bin/env bash
# Runs in the lab VM with KEEP=1: the given tests, and a shell beside their remains when one fails. Their status goes into
# a file, as that of a VM with a prompt tells nothing.
kept=$1
shift
"$@"
status=$?
echo "$status" >"$kept"
((status)) || exit 0
echo "lab: a test failed; this shell is in the lab (leave it to end the VM)"
exec bash -i
