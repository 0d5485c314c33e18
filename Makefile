# "make" or "make help" lists the targets.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: base help build run test interop livekit call demo soak kills mutants bench bench-quick lint fuzz vulns image deb clean

DENDRITE := github.com/matrix-org/dendrite/cmd

# Nothing builds without the patched base (docs/base.md). It is made in a second, and only if something has changed.
base:
	@GOWORK=off go run ./setup/base

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 16

build: base ## Build the homeserver and its tools into bin/
	@go build -o bin/ ./cmd/... $(DENDRITE)/create-account $(DENDRITE)/generate-keys

run: build ## Run a homeserver on http://127.0.0.1:8008 that keeps its data in dendrite-data/
	@exec bin/dendrite -quickstart dendrite-data -really-enable-open-registration $(if $(LIVEKIT),-livekit $(LIVEKIT))

test: base ## Run all tests with the race detector; also with PostgreSQL, Node.js and Synapse if they are available
	@go vet ./...
	if command -v postgres >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null; then
		dir=$$(mktemp -d)
		trap 'test/postgres.sh stop "$$dir"; rm -rf "$$dir"' EXIT
		settings=$$(test/postgres.sh start "$$dir")
		eval "$$settings"
	elif [ "$${FUTURES_TEST_POSTGRES:-}" = required ]; then
		echo 'PostgreSQL is required, but not installed' >&2
		exit 1
	fi
	if FUTURES_SYNAPSE_PYTHON=$$(test/interop/synapse.sh); then
		export FUTURES_SYNAPSE_PYTHON
	elif [ "$${FUTURES_TEST_INTEROP:-}" = required ]; then
		exit 1
	fi
	if [ "$${FUTURES_TEST_LIVEKIT:-}" = required ]; then
		FUTURES_LIVEKIT=$$(test/livekit/livekit.sh)
		export FUTURES_LIVEKIT
	fi
	go test -race -timeout 25m ./...

interop: base ## Run the tests beside a real Synapse
	@python=$$(test/interop/synapse.sh)
	FUTURES_SYNAPSE_PYTHON=$$python go test -race -timeout 25m -count=1 ./test/interop/...

livekit: base ## Build a real LiveKit server and run the test beside it
	@folder=$$(test/livekit/livekit.sh)
	FUTURES_LIVEKIT=$$folder go test -race -count=1 -run TestRealLiveKit ./test/rtc

call: build ## Let two tabs of a browser call each other on this machine, with LiveKit and Element Call
	@tools=$$(test/livekit/livekit.sh)
	(cd test/call/js && npm ci --ignore-scripts --no-audit --no-fund --silent)
	exec go run ./test/call/tabs -livekit "$$tools/livekit-server"

demo: build ## Show what futures do, in half a minute
	@go run ./test/demo

soak: base ## Run twenty users for ten minutes while the server is killed, and check the result
	@go test ./test/soak -count=1 -v -timeout 0 -soak 10m

KILLS ?= 10000
LIMIT ?= 1h
kills: base ## Kill servers KILLS times in all, for at most LIMIT, check each round, and continue the last run
	@mkdir -p .cache
	if command -v postgres >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null; then
		dir=$$(mktemp -d)
		trap 'test/postgres.sh stop "$$dir"; rm -rf "$$dir"' EXIT
		settings=$$(test/postgres.sh start "$$dir")
		eval "$$settings"
	fi
	go test ./test/crash -run TestKills -count=1 -timeout 0 -v -many $(KILLS) -limit $(LIMIT) \
		-report "$$PWD/.cache/kills.jsonl" -revision "$$(git describe --always --dirty)"

mutants: base ## Break the code line by line and check that the tests of the invariants fail
	@go run ./test/mutants

bench: base ## Measure what futures cost, on SQLite and, if it is installed, PostgreSQL: half an hour or more
	@if command -v postgres >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null; then
		dir=$$(mktemp -d)
		trap 'test/postgres.sh stop "$$dir"; rm -rf "$$dir"' EXIT
		settings=$$(POSTGRES_OPTIONS='-c fsync=on' test/postgres.sh start "$$dir")
		eval "$$settings"
	fi
	go run ./test/bench -json bench.json

bench-quick: base ## The same, but smaller: on SQLite, in two minutes
	@go run ./test/bench -quick

lint: base ## Check the formatting, and run go vet and staticcheck (staticcheck.conf)
	@unformatted=$$(git ls-files '*.go' | xargs gofmt -l)
	if [ -n "$$unformatted" ]; then echo "Not formatted: $$unformatted"; exit 1; fi
	(cd test/lint && GOWORK=off go build -o ../../.cache/ honnef.co/go/tools/cmd/staticcheck)
	go vet ./...
	.cache/staticcheck ./...
	(cd test/clients/mautrix && GOWORK=off go vet .)
	(cd test/livekit && GOWORK=off go vet .)
	(cd test/vulns && GOWORK=off go vet .)
	(cd setup/packaging/image && GOWORK=off go vet .)

# A number of inputs, not a time: after a time Go's fuzzer sometimes fails ("context deadline exceeded").
FUZZ ?= 20000x

fuzz: base ## Fuzz every parser of foreign input, some seconds each
	@for package in $$(git grep -l '^func Fuzz' -- '*_test.go' | xargs -n 1 dirname | sort -u); do
		for name in $$(grep -ho '^func Fuzz[A-Za-z]*' "$$package"/*_test.go | cut -c 6-); do
			go test "./$$package" -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZ)
		done
	done

vulns: base ## Compare the known advisories of all modules with docs/advisories.md
	@cd test/vulns
	export GOWORK=off
	go test .
	go run .

ARCHS ?= amd64 arm64
IMAGE ?= dendrite-futures:latest
IMAGE_USER ?= 991

image: base ## Build container images for ARCHS in bin/image/, without a container engine
	@folders=()
	for arch in $(ARCHS); do
		folders+=("$$(setup/packaging/static.sh "$$arch")")
	done
	(cd setup/packaging/image && GOWORK=off go build -o ../../../.cache/image .)
	.cache/image -o bin/image -tag $(IMAGE) -user $(IMAGE_USER) "$${folders[@]}"
	ls -l bin/image/*.tar

deb: base ## Build Debian packages for ARCHS in bin/deb/
	@for arch in $(ARCHS); do
		setup/packaging/deb/build.sh "$$arch" bin/deb
	done

clean: ## Delete the results of the build; dendrite-data/ stays
	@rm -rf bin .base go.work go.work.sum
	go clean -testcache
