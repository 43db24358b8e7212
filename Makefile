GO ?= $(shell command -v go || echo /usr/local/go/bin/go)

.PHONY: build test quick
build:
	CGO_ENABLED=0 $(GO) build -o bin/ctwarden ./cmd/ctwarden

quick:
	$(GO) vet ./... && $(GO) test -short ./...

test: quick
