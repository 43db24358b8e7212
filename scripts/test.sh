#!/usr/bin/env bash
# Everything that has to hold: build, vet, layers, all tests, and in CI a short
# pass of every fuzz target. The last line is the count of the tests.
set -uo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
status=0
step() { "$@" || status=1; }

step scripts/deps.sh
"$go" build ./... || exit 1
step "$go" vet ./...
if [ "${CI:-}" = true ]; then
	GO=$go step scripts/fuzz.sh "${FUZZTIME:-2s}"
fi

# The tests against the running kernel need root; the test binaries alone get it.
asroot=()
if [ "$(id -u)" != 0 ] && command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
	asroot=(-exec "sudo -n -E env PATH=$PATH")
fi
step "$go" run ./scripts/testrun -go "$go" -skips scripts/skips.txt -- \
	-timeout 25m "${asroot[@]}" "$@" ./...
exit $status
