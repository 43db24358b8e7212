#!/usr/bin/env bash
# Runs every fuzz target for a while: fuzz.sh 10s
# An input with new coverage is made smaller for 20 runs only: by default Go spends up
# to a minute on each, which is longer than these runs last.
set -euo pipefail
time=${1:-10s}
go=${GO:-go}
status=0
while IFS=: read -r file _ line; do
	target=$(sed -E 's/^func (Fuzz[A-Za-z0-9_]*).*/\1/' <<<"$line")
	dir=./$(dirname "$file")
	if out=$("$go" test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 20x -parallel 2 "$dir" 2>&1); then
		printf 'ok    %-40s %s\n' "$dir $target" "$(grep -oE 'execs: [0-9]+' <<<"$out" | tail -1)"
	elif grep -q 'context deadline exceeded' <<<"$out" && ! grep -qE 'Failing input|panic' <<<"$out"; then
		# The end of the time met a worker at work: golang.org/issue/75804.
		printf 'ok    %s\n' "$dir $target"
	else
		printf '%s\nFAIL  %s\n' "$out" "$dir $target"
		status=1
	fi
done < <(git grep -nE "^func Fuzz[A-Za-z0-9_]*\\(" -- "*_test.go")
exit $status
