# Everything that is built or downloaded lies in .cache/; clusters lie in .run (or DIR).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .cache/bin
DEVICES ?= 2
RUNTIME ?= process
LINK ?= grpc
LINKS ?= grpc websocket mqtt
ETCD ?= embedded
DIR ?= .run
ONCE ?=
RUN ?=
BENCHTIME ?= 1s
FUZZTIME ?= 20s
SCENARIO ?=
FOCUS ?=
SKIP ?=
N ?= 0
CM ?= stock
ROUNDS ?= 100
SEED ?=

GOLANGCI_LINT_VERSION := v2.15.0
PROGRAMS := aranya-apiserver arhat kubectl-edge
LDFLAGS := -s -w
ifdef VERSION
LDFLAGS += -X arhat.dev/aranya/pkg/version.gitVersion=$(VERSION)
endif
GO_BUILD := CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)'

##@ Build

.PHONY: help
help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "; print "make TARGET [VARIABLE=value]"} \
		/^##@ / {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build aranya-apiserver, arhat and kubectl-edge into .cache/bin (VERSION=v1.2.3)
	@mkdir -p $(BIN)
	@echo "Building $(PROGRAMS)."
	@$(GO_BUILD) -o $(BIN)/aranya-apiserver ./cmd/apiserver
	@$(GO_BUILD) -o $(BIN)/arhat ./cmd/arhat
	@$(GO_BUILD) -o $(BIN)/kubectl-edge ./cmd/kubectl-edge
	@install -m 755 cmd/kubectl-edge/kubectl_complete-edge $(BIN)/

.PHONY: agents
agents: ## Build arhat for devices into .cache/bin: arhat-amd64, arhat-arm64 and arhat-arm (VERSION=v1.2.3)
	@for arch in amd64 arm64 arm; do \
		echo "Building arhat-$$arch."; \
		GOOS=linux GOARCH=$$arch $(GO_BUILD) -o $(BIN)/arhat-$$arch ./cmd/arhat || exit; \
	done

.PHONY: cluster-programs
cluster-programs: build
	@$(GO_BUILD) -o $(BIN)/cluster ./hack/cluster
	@hack/kubernetes/build.sh "$(CURDIR)/$(BIN)/kubernetes"

.PHONY: metrics-server
metrics-server: build
	@hack/metrics-server/build.sh "$(CURDIR)/$(BIN)/metrics-server"

.PHONY: generate
generate: ## Generate code: clients, conversions, OpenAPI, protobuf
	hack/update-codegen.sh

##@ Clusters on this machine

.PHONY: up
up: $(if $(filter containerd,$(RUNTIME))$(filter mqtt,$(LINK)),packages) cluster-programs ## Bring a cluster up (DEVICES=2 RUNTIME=process|containerd LINK=grpc|websocket|mqtt DIR=.run ETCD=embedded|shared)
	@$(BIN)/cluster up --dir "$(DIR)" --devices "$(DEVICES)" --runtime "$(RUNTIME)" --link "$(LINK)" --etcd "$(ETCD)"

.PHONY: down
down: ## Stop the cluster and remove what it made on this machine (DIR=.run)
	@CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/cluster ./hack/cluster
	@$(BIN)/cluster down --dir "$(DIR)"

.PHONY: demo
demo: cluster-programs ## Show what aranya does, on a cluster of its own (ONCE=1 ends after the tour)
	@$(BIN)/cluster demo $(if $(ONCE),--once)

##@ Tests

.PHONY: test
test: test-unit test-e2e test-chaos bench-smoke ## Run all tests; root installs missing Debian packages, others are told what is left out

.PHONY: test-unit
test-unit: packages ## Run the unit tests with the race detector (RUN=pattern)
	@echo "Unit tests."
	@go test -race -timeout 20m $(if $(RUN),-run '$(RUN)') $$(go list ./... | grep -v -e '/test/e2e' -e '/test/chaos')

.PHONY: fuzz
fuzz: ## Run each fuzz target for a while; make test runs their seeds only (FUZZTIME=20s RUN=pattern)
	@hack/fuzz.sh "$(FUZZTIME)" '$(RUN)'

.PHONY: test-e2e
test-e2e: packages cluster-programs metrics-server ## Run the end-to-end tests with real components, once per link (RUN=pattern LINKS="grpc websocket mqtt")
	@echo "End-to-end tests."
	@for link in $(LINKS); do echo "Devices connect by $$link."; \
		ARANYA_LINK="$$link" ARANYA_E2E=1 ARANYA_BIN="$(CURDIR)/$(BIN)" ARANYA_SOURCE="$(CURDIR)" CGO_ENABLED=0 go test -trimpath -v -p 1 -count=1 -timeout 45m $(if $(RUN),-run '$(RUN)') ./test/e2e/... || exit 1; done
	@if [ "$$(id -u)" -ne 0 ]; then \
		echo "Not root: left out were the tests with containerd and with network namespaces, which only root can make."; fi

CHAOS = ARANYA_CHAOS_ROUNDS="$(1)" ARANYA_CHAOS_SEED="$(SEED)" ARANYA_LINK=grpc ARANYA_E2E=1 ARANYA_BIN="$(CURDIR)/$(BIN)" ARANYA_SOURCE="$(CURDIR)" \
	CGO_ENABLED=0 go test -trimpath -v -count=1 -timeout 5h ./test/chaos

.PHONY: test-chaos
test-chaos: packages cluster-programs ## Run a few rounds of what make chaos does
	@echo "A few rounds of link, agent, runtime and power failing at random; many by make chaos."
	@$(call CHAOS,5)

.PHONY: chaos
chaos: packages cluster-programs ## Let link, agent, runtime and power of a device fail at random, and print figures (ROUNDS=100 SEED=)
	@$(call CHAOS,$(ROUNDS))

.PHONY: packages
packages:
	@hack/install-packages.sh

.PHONY: conformance
conformance: packages cluster-programs ## Run upstream Kubernetes' tests of pods against a device (FOCUS=regexp SKIP=regexp PROCS=6)
	@echo "Building upstream's tests; the first time it takes minutes."
	@hack/conformance/build.sh .cache/conformance
	@$(BIN)/cluster conformance --focus '$(FOCUS)' --skip '$(SKIP)' --procs "$(or $(PROCS),6)"

.PHONY: bench
bench: bench-program ## Measure on real clusters (SCENARIO=name N=number LINK=grpc|websocket|mqtt CM=stock|fast; all scenarios if none is named)
	@$(BIN)/bench --scenario "$(SCENARIO)" --n "$(N)" --link "$(LINK)" --controller-manager "$(CM)"

.PHONY: bench-smoke
bench-smoke: bench-program ## Check that the benchmarks work, with little of everything (SCENARIO=name)
	@echo "Benchmarks, for correctness only."
	@$(BIN)/bench --smoke --scenario "$(SCENARIO)"

.PHONY: bench-program
bench-program: packages cluster-programs
	@$(GO_BUILD) -o $(BIN)/bench ./hack/bench

.PHONY: bench-go
bench-go: ## Run the Go benchmarks (BENCHTIME=1s)
	go test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) $$(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./pkg/...)

##@ Checks

.PHONY: lint
lint: $(BIN)/golangci-lint-$(GOLANGCI_LINT_VERSION) ## Run golangci-lint
	$< run ./...

$(BIN)/golangci-lint-$(GOLANGCI_LINT_VERSION):
	@echo "Building golangci-lint $(GOLANGCI_LINT_VERSION), once."
	@GOBIN="$(CURDIR)/$(BIN)" go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	@mv $(BIN)/golangci-lint $@

.PHONY: verify
verify: ## Check that generated code and go.mod are up to date and that everything compiles
	go mod tidy -diff
	cd hack/kubernetes && go mod tidy -diff
	cd hack/metrics-server && go mod tidy -diff
	cd hack/conformance && go mod tidy -diff
	cd hack/tools && go mod tidy -diff
	go vet ./...
	@# Devices are of other architectures, where an int may have 32 bits.
	GOARCH=arm go vet ./cmd/arhat
	GOARCH=arm64 go vet ./cmd/arhat
	hack/verify-codegen.sh

.PHONY: clean
clean: ## Remove what was built (not clusters: see down)
	rm -rf .cache
