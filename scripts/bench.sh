#!/usr/bin/env bash
# Runs the benchmarks: bench.sh [BENCHTIME [PATTERN [FLAGS OF GO TEST]]]. With a
# time of 1x each runs once, which shows that it still works and measures
# nothing.
set -euo pipefail
go=${GO:-go}
time=${1:-1s} pattern=${2:-.}
shift $(($# < 2 ? $# : 2))
mapfile -t packages < <(git grep -lE '^func Benchmark' -- '*_test.go' | xargs -r -n1 dirname | sort -u | sed 's|^|./|')
[ ${#packages[@]} -gt 0 ] || exit 0
# One package after the other: they share the machine and its table.
"$go" test -p 1 -run '^$' -bench "$pattern" -benchmem -benchtime "$time" -timeout 30m "$@" "${packages[@]}"
