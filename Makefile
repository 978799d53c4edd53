# Seine: `make demo` runs a mesh on this machine, `make test` is what CI runs.

GO     ?= go
BIN    := bin
CMDS   := seine seined seine-proxy
# -trimpath: the same source gives the same bytes anywhere. grpcnotrace: gRPC
# without its debug pages, 2 MB that no sidecar needs.
BUILD  := CGO_ENABLED=0 $(GO) build -trimpath -tags grpcnotrace -ldflags '-s -w'

.PHONY: all build demo test nightly unit lint wire trace e2e e2e-cluster conformance ui images cluster-up cluster-down fuzz bench feature-cost soak envoy generate clean help

all: build

build: ## build the programs into bin/
	@mkdir -p $(BIN)
	@echo "building seine, seined, seine-proxy …" >&2
	@$(BUILD) -o $(BIN)/ $(addprefix ./cmd/,$(CMDS))

demo: build ## run examples/billing on this machine; Ctrl-C stops it
	@$(BUILD) -o $(BIN)/billing ./examples/billing/app
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/seine up examples/billing

test: ## everything that CI runs, with each step's time against its budget
	@./test/run.sh

nightly: ## what takes longer: life on a cluster under load, fuzzing
	./test/nightly.sh

unit: ## the unit tests under the race detector
	$(GO) test -race ./...

lint: ## gofmt, vet, staticcheck
	./test/lint.sh

wire: ## h2spec and gRPC's interoperability cases against the proxy's listeners
	$(GO) -C test/wire test -count=1 -timeout 4m .

trace: ## two sidecars report to a real OpenTelemetry Collector
	$(GO) -C test/trace test -count=1 -parallel 8 -timeout 4m .

e2e: ## the demo end to end, as root (where we are) and as an ordinary user
	$(GO) test -tags e2e -count=1 -timeout 20m -v ./test/e2e/...

e2e-cluster: ## the mesh on a real cluster: KUBECONFIG's, or one made here (root)
	./test/kube/run.sh

conformance: ## the Gateway API's conformance suite for meshes, on a cluster made here (root) or KUBECONFIG's
	./test/conformance/run.sh

ui: ## the dashboard into ui/dist, from ui/src (needs Node)
	cd ui && npm ci --no-progress && npm run --silent build

IMAGES ?=
images: ## container images into bin/images; IMAGES='--repository registry.example.com/mesh --tag 1 --push'
	$(GO) run ./install/images $(IMAGES)

cluster-up: ## a real Kubernetes on this machine (root); CLUSTER=name, NODES=2
	./test/cluster/cluster.sh up

cluster-down: ## take it away again
	./test/cluster/cluster.sh down

FUZZTIME ?= 30s
fuzz: ## every fuzz target for FUZZTIME
	./test/fuzz.sh $(FUZZTIME)

SOAK ?= 30m
envoy: ## the same requests through Seine and a real Envoy, compared
	./bench/envoy.sh
	$(GO) test -tags envoy -count=1 -timeout 5m ./test/envoy

soak: ## mixed load for SOAK while everything changes (root); writes bench/results/soak.md
	$(GO) test -tags 'e2e soak' -count=1 -timeout 2h -v -run TestSoak ./test/e2e -args -soak $(SOAK) -result $(CURDIR)/bench/results/soak.md

feature-cost: ## what access logs and taps cost a request: off and on in turn, by benchstat
	./bench/feature-cost.sh

bench: ## side by side with Envoy, nginx and HAProxy; writes bench/results
	./bench/run.sh

generate: ## regenerate the wire types (needs protoc)
	$(GO) generate ./api

clean:
	rm -rf $(BIN) .cache ui/node_modules

help:
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12
