#!/usr/bin/env bash
# Everything that has to hold: build, vet, layers and all tests; with CI=true
# also a short pass of every fuzz target and every benchmark once. The last
# line is the count of the tests.
set -uo pipefail
cd "$(dirname "$0")/.."
export GO=${GO:-go}
status=0
step() { "$@" || status=1; }

# What is long and says nothing when it is well.
quietly() {
	local out
	out=$("$@" 2>&1) && return
	printf '%s\nFAIL  %s\n' "$out" "$*"
	return 1
}

step scripts/deps.sh
"$GO" build ./... || exit 1
step "$GO" vet ./...

# The tests against the running kernel need root; the test binaries alone get it.
exec=()
if [ "$(id -u)" != 0 ] && command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
	exec=(-exec "sudo -n -E env PATH=$PATH")
fi
if [ "${CI:-}" = true ]; then
	step scripts/fuzz.sh "${FUZZTIME:-2s}"
	step quietly scripts/bench.sh 1x . "${exec[@]}"
fi
step "$GO" run ./scripts/testrun -go "$GO" -skips scripts/skips.txt -- \
	-timeout 25m "${exec[@]}" "$@" ./...
exit $status
