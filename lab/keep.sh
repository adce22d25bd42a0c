#!/usr/bin/env bash
# Runs in the lab VM with KEEP=1: the given tests, and a shell beside their remains when one fails.
status=0
"$@" || status=$?
if ((status)); then
  echo "lab: a test failed; this shell is in the lab (leave it to end the VM)"
  bash -i
fi
exit "$status"
