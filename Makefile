GO ?= $(shell command -v go || echo /usr/local/go/bin/go)
# Tests and scripts start go themselves; sudo may have taken it from PATH.
export PATH := $(dir $(GO)):$(PATH):/usr/sbin:/sbin
export GO

GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
FUZZTIME ?= 10s
BENCHTIME ?= 1s
BENCH ?= .

.PHONY: build deps quick test lint fuzz bench bench-once
build:
	CGO_ENABLED=0 $(GO) build -o bin/ctwarden ./cmd/ctwarden

# What the tests need besides Go; quick when all is there.
deps:
	@scripts/deps.sh

# After every edit: under a minute, no root.
quick:
	$(GO) vet ./... && $(GO) test -short ./...

# Everything; this is what CI runs. As root, or with sudo that asks nothing,
# for the tests against the running kernel.
test:
	@scripts/test.sh

lint:
	$(GO) run $(GOLANGCI) run

fuzz:
	scripts/fuzz.sh $(FUZZTIME)

bench:
	scripts/bench.sh $(BENCHTIME) '$(BENCH)'

# Every benchmark once, so that none can rot.
bench-once:
	scripts/bench.sh 1x

# The table engine against its peers, all on the same tables; what a display of a
# million entries costs. As root. Parts: BENCH_TABLE=1000000
# BENCH_PART='^TestTable$$/^1000000$$/^(readers|writers|lists|evictions)$$'.
BENCH_TABLE ?= 10000,1000000,5000000
BENCH_PART ?= ^TestTable$$
.PHONY: bench-table
bench-table:
	CTWARDEN_BENCH_TABLE=$(BENCH_TABLE) $(GO) test -count 1 -timeout 60m -run '$(BENCH_PART)' ./internal/kernel/ctnl/bench -v
	CTWARDEN_BENCH_TOP=1000000 $(GO) test -count 1 -run '^$$' -bench '^BenchmarkTop$$' -benchtime 20x ./internal/cli
# 1 GiB of log side by side with grep and ripgrep; 10 GiB of one line.
.PHONY: bench-log
bench-log:
	$(GO) test ./internal/kernel/logsrc -run '^$$' -bench 'Gigabyte|EndlessLine' -benchtime 7x -timeout 30m

# What survives a reboot, on a whole Debian system under qemu. As root.
.PHONY: boot
boot:
	CTWARDEN_LONG=1 $(GO) test -count 1 -timeout 120m -v ./internal/lab/boottest
# The model of nf_conntrack against the running kernel and Debian's kernels under
# qemu: scenarios, random sequences, full tables, and bugs planted in the model.
# As root. SIM_SEQUENCES=1000000 takes a quarter of an hour.
SIM_SEQUENCES ?= 200000
SIM_GUEST_SEQUENCES ?= 20000
.PHONY: sim-diff bench-sim
sim-diff:
	$(GO) test -count 1 ./sim/simtest -run TestCoverage -v
	$(GO) test -count 1 -timeout 180m ./internal/lab/simdiff -v \
		-simdiff.sequences=$(SIM_SEQUENCES) -simdiff.guest=$(SIM_GUEST_SEQUENCES) -simdiff.guestrun='^TestGuest' -simdiff.relief=2

# An hour of 20,000 connections a second, packet by packet and thinned, and a
# thinned day: processor time, and how far apart they are. A quarter of an hour.
.PHONY: sim-hour
sim-hour:
	CTWARDEN_LONG=1 $(GO) test -count 1 -timeout 60m -v -run '^TestHourAndDay$$' ./internal/simulate

# The model's speed and memory with 65,536, 1 M and 10 M live flows, from a capture
# in the page cache, against tshark, softflowd, argus and nfpcapd where they are
# installed. Needs 6 GB of disk, 8 GB of memory and ten minutes.
BENCH_SIM ?= 65536,1048576,10000000
bench-sim:
	CTWARDEN_BENCH_SIM=$(BENCH_SIM) $(GO) test -pgo=$(CURDIR)/cmd/ctwarden/default.pgo -count 1 -timeout 120m -run '^TestBench$$' ./internal/simulate/bench -v
	$(GO) test -count 1 ./sim -run '^$$' -bench . -benchmem -timeout 30m -sim.live $(BENCH_SIM)

# The profile that the program is compiled by (profile-guided optimization): the
# model's hot path. To be made anew when that has changed.
.PHONY: pgo
pgo:
	$(GO) test -run '^$$' -bench '^BenchmarkCapture$$' -benchtime 8x -cpuprofile cmd/ctwarden/default.pgo -o bin/profile.test ./internal/simulate/bench

# The scenes of check, the guard and its table, on every Debian kernel under qemu. As root.
.PHONY: kernels
kernels:
	CTWARDEN_LONG=1 $(GO) test -count 1 -timeout 90m -v -run OtherKernels ./internal/cli ./internal/kernel/guardtable ./internal/guardd
	CTWARDEN_LONG=1 $(GO) test -count 1 -timeout 30m -v -run LoadsNoModule ./internal/observe

# What survives an attack on the table: scenarios × defences (docs/survival.md).
# As root, on a machine that serves nobody. Everything takes many hours; choose
# with SURVIVAL_SCENARIOS=3-,10- and SURVIVAL_DEFENCES=stock,guard,control.
SURVIVAL_SCENARIOS ?=
SURVIVAL_DEFENCES ?=
SURVIVAL_RUNS ?= 5
SURVIVAL_SECONDS ?= 60
SURVIVAL_PEACE ?= 6
SURVIVAL_MAX ?= 20000 262144
SURVIVAL_PACKETS ?= 80000
SURVIVAL_HANDSHAKES ?= 10000
SURVIVAL_ACCOUNTING ?= false true
SURVIVAL_OUT ?= $(CURDIR)/survival.jsonl
SURVIVAL_FLAGS ?=
.PHONY: survival survival-kernels survival-table
survival:
	$(GO) test -c -o bin/survival.test ./internal/lab/survival
	cd internal/lab/survival && for max in $(SURVIVAL_MAX); do for acct in $(SURVIVAL_ACCOUNTING); do \
		$(CURDIR)/bin/survival.test -test.v -test.timeout 48h -test.run '^TestMatrix$$' \
		-survival.scenarios=$(SURVIVAL_SCENARIOS) -survival.defences=$(SURVIVAL_DEFENCES) \
		-survival.runs=$(SURVIVAL_RUNS) -survival.seconds=$(SURVIVAL_SECONDS) -survival.peace=$(SURVIVAL_PEACE) \
		-survival.packets=$(SURVIVAL_PACKETS) -survival.handshakes=$(SURVIVAL_HANDSHAKES) \
		-survival.max=$$max -survival.accounting=$$acct -survival.out=$(SURVIVAL_OUT) $(SURVIVAL_FLAGS) || exit 1; \
	done; done

# An hour of alternating attack and peace: the guard must not grow. As root, on
# a machine that serves nobody, or with SOAK_GUEST=6.12 on that kernel under qemu.
SOAK ?= 1h
SOAK_GUEST ?=
.PHONY: soak
soak:
	$(GO) test -count 1 -v -timeout 25h -run '^TestSoak$(if $(SOAK_GUEST),InGuest)$$' ./internal/guardd \
		-args -soak $(SOAK) $(if $(SOAK_GUEST),-soak.guest $(SOAK_GUEST))

# A scaled part of it on Debian's 6.1 and 6.12 under qemu, and slow accumulation
# in virtual time.
survival-kernels:
	CTWARDEN_LONG=1 $(GO) test -count 1 -timeout 60m -v -run '^(TestKernels|TestSlow)$$' ./internal/lab/survival

# The table of docs/survival.md from the results in docs/survival.
survival-table:
	$(GO) test -count 1 -run '^TestTableIsOfTheResults$$' ./internal/lab/survival -update

# The commands that people paste against a full table, on trial beside a plan:
# prints the table and renews docs/advice.md. Scenes that are in ADVICE_RESULTS
# already are not run again.
ADVICE_RESULTS ?=
.PHONY: advice
advice:
	$(GO) test -count 1 -timeout 180m -run '^TestAdvice$$' ./internal/lab/advice -v \
		-advice.whole -advice.write $(CURDIR)/docs/advice.md -advice.results '$(ADVICE_RESULTS)'
