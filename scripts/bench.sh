#!/usr/bin/env bash
# Runs the benchmarks: bench.sh [BENCHTIME] [PATTERN]. With a time of 1x each
# runs once, which shows that it still works and measures nothing.
set -euo pipefail
go=${GO:-go}
packages=$(git ls-files '*_test.go' | xargs grep -lE '^func Benchmark' | xargs -n1 dirname | sort -u | sed 's|^|./|')
[ -n "$packages" ] || exit 0
# One package after the other: they share the machine and its table.
"$go" test -p 1 -run '^$' -bench "${2:-.}" -benchmem -benchtime "${1:-1s}" -timeout 30m $packages
