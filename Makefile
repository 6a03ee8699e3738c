# Every target does its own set-up. `make help` lists them.
SHELL := /bin/bash -o pipefail
GO ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
FUZZTIME ?= 10s
# The packages that have tests on real parts.
E2E = $(shell grep -rl --include='*_test.go' '^//go:build e2e' . | xargs -n1 dirname | sort -u | grep -v '^./hack/restart$$')

# The rows of hack/restart that make test runs, one of each group and those that would be worst.
RESTART_QUICK = ConfigPathUnset/(2.4_version_3|1.7)|LegacyMirrors|BrokenFile/broken|UnitNotFit/KillMode|UnitEdited|FrozenShim|TestPull|AfterSwap/(it_does_not|it_hangs|CRI)|KilledAndBack/(good|bad)_after:Restart|TwoAtOnce|Reboot|SupervisedFine/2.4|TestAgent/(restarts|is_killed)

.NOTPARALLEL:

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: build
build: ## Build the programs into bin/
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

# Where people run kubectl.
PLUGINS = linux-amd64 linux-arm64 darwin-amd64 darwin-arm64 windows-amd64

.PHONY: plugin
plugin: ## Build the kubectl plugin for Linux, macOS and Windows into bin/plugin
	set -e; for p in $(PLUGINS); do CGO_ENABLED=0 GOOS=$${p%-*} GOARCH=$${p#*-} $(GO) build -trimpath -buildvcs=false \
		-ldflags '$(LDFLAGS)' -o bin/plugin/kubectl-hotplate-$$p$$([ $${p%-*} != windows ] || echo .exe) ./cmd/kubectl-hotplate; done

.PHONY: demo
demo: build ## Run the main job on real parts for a person to watch (DEMO_SIZE=1500 MB)
	$(GO) run ./hack/setup containerd-2.4 registry
	$(GO) run ./hack/demo

.PHONY: test
test: setup lint unit e2e restart-quick demo-small ## What CI runs: lint, unit tests with race, real parts, a small demo

.PHONY: test-full
test-full: setup-full lint unit crash fuzz e2e-full test-restart demo ## Adds all containerd lines, long crash loops, fuzzing, the full demo

.PHONY: setup
setup: ## Install Debian packages and build the real parts that tests need
	$(GO) run ./hack/setup

.PHONY: setup-full
setup-full:
	$(GO) run ./hack/setup all

.PHONY: lint
lint: verify ## gofmt, vet, staticcheck, import rules (golangci-lint), generated files up to date
	$$($(GO) run ./hack/setup -path golangci-lint)/golangci-lint run --allow-parallel-runners ./...

.PHONY: verify
verify: ## Check that generated files are what their generators write, and that the plugin builds for other systems
	$(GO) run ./hack/schema -verify
	$(GO) run ./hack/chart -verify
	$(GO) mod tidy -diff
	for os in darwin windows; do GOOS=$$os $(GO) build -o /dev/null ./cmd/kubectl-hotplate || exit 1; done

.PHONY: generate
generate: ## Write the generated files
	$(GO) run ./hack/schema
	$(GO) run ./hack/chart

.PHONY: unit
unit: ## Unit tests with the race detector
	$(GO) test -race ./...

.PHONY: e2e
e2e: ## Tests on real containerd (1.7 and 2.4), a registry and a cluster; prints their tables; needs root
	t=$$(mktemp -d); HOTPLATE_LINES=1.7,2.4 HOTPLATE_TABLE=$$t/test-table.md \
		$(GO) test -tags e2e -count=1 -p 2 -timeout 40m $(E2E); code=$$?; cat $$t/*.md 2>/dev/null; rm -r $$t; exit $$code

.PHONY: e2e-full
e2e-full: ## The same on every containerd line from 1.6 to 2.4; keeps the table in docs/
	HOTPLATE_LINES=all HOTPLATE_FULL=1 HOTPLATE_TABLE=$(CURDIR)/docs/test-table.md $(GO) test -tags e2e -count=1 -p 2 -timeout 150m $(E2E)

.PHONY: restart-quick
restart-quick: ## One row of each group of faults of a restart, on real systemd nodes; needs root
	$(GO) test -tags e2e -count=1 -timeout 20m -parallel 4 -run '$(RESTART_QUICK)' ./hack/restart

.PHONY: test-restart
test-restart: ## Every fault of a restart, on real systemd nodes; keeps the table in docs/
	$(GO) run ./hack/setup all
	HOTPLATE_LINES=all HOTPLATE_FULL=1 HOTPLATE_TABLE=$(CURDIR)/docs/restart-faults.md $(GO) test -tags e2e -count=1 -timeout 80m -parallel 6 -v ./hack/restart

.PHONY: demo-small
demo-small: build
	DEMO_SIZE=150 $(GO) run ./hack/demo

.PHONY: bench
bench: build ## Compare with containerd, registry to Ready (BENCH=quick: three minutes); needs root
	$(GO) run ./hack/setup containerd-2.4 registry
	$(GO) run ./hack/bench

.PHONY: bench-coordinator
bench-coordinator: build ## Measure the coordinator with NODES=5000 simulated agents on a real API server; needs root
	$(GO) run ./hack/setup kubernetes-1.36 etcd cni helm coredns registry
	$(GO) run ./hack/benchcoordinator -nodes $(or $(NODES),5000)

.PHONY: crash
crash: ## The long crash loops of the hosts directory's writer and of the restart
	HOTPLATE_FULL=1 $(GO) test -count=1 -timeout 60m ./hostconfig/apply ./hostconfig/restart

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME
	$(GO) run ./hack/fuzz -time $(FUZZTIME)

.PHONY: image
image: ## Build the image for amd64 and arm64, with SBOM and provenance, into bin/image
	$(GO) run ./hack/image -version $(VERSION) -out bin/image

.PHONY: clean
clean: ## Remove what builds and the demo wrote here
	rm -rf bin .demo
