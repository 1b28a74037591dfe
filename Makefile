# `make help` lists the targets. None needs Docker, root or installed servers.

.DEFAULT_GOAL := help
.PHONY: help up quick test check charts deny audit chaos measure faults flood reads compare bench index-cost fetch build clean-local

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Prometheus is optional: without it the rest runs.
up: build ## Run everything: private servers, ganesh, a producer, Prometheus (settings: scripts/up)
	@scripts/fetch nats-server postgres redis-server
	@scripts/fetch prometheus || true
	@exec scripts/up

quick: ## Run the tests that need no server
	cargo test --locked --lib --test quick

# Tests mostly wait for servers and timeouts, so more of them run at once than there are cores.
TEST_THREADS ?= 6
# The servers of the tests have their data in memory where that leaves room for others: all tests together write
# 9 GiB, in hundreds of databases with hundreds of files each.
MEMORY_FOLDER = $(shell awk '/^MemAvailable:/ { enough = $$2 > 14 * 1024 * 1024 } END { exit !enough }' /proc/meminfo 2>/dev/null && \
  df -kP /dev/shm 2>/dev/null | awk 'END { if ($$4 > 12 * 1024 * 1024) print "/dev/shm" }')

test: fetch ## Run all tests against real NATS, Postgres and Redis, TEST_THREADS (6) at a time
	TMPDIR=$${TMPDIR:-$(or $(MEMORY_FOLDER),/tmp)} cargo test --locked -- --test-threads=$(TEST_THREADS)

check: ## Check formatting, lints (warnings are errors) and documentation
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --locked --no-deps --document-private-items

charts: ## Check the Helm chart by programs in Go, which CI has not (needs go)
	@scripts/fetch helm kubernetes-validate
	@scripts/charts

# Without optimisation it is built in a minute and checks in four seconds.
CARGO_DENY = $(shell command -v cargo-deny || echo .tools/cargo-deny/bin/cargo-deny)
.tools/cargo-deny/bin/cargo-deny:
	CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --debug --locked --root .tools/cargo-deny cargo-deny@0.20.2

deny: $(CARGO_DENY) ## Check licences and sources of all dependencies, and that none is banned (deny.toml)
	$(CARGO_DENY) check licenses bans sources

audit: $(CARGO_DENY) ## Check all dependencies for known vulnerabilities (downloads the database of RustSec)
	$(CARGO_DENY) check advisories

chaos: fetch ## Run random faults for MINUTES (1) from SEED (random) at RATE messages/s (2000), of the kinds FAULTS (all), then check every message
	cargo test --locked --test behaviour -- --ignored --exact --nocapture \
	  chaos::under_faults_for_as_long_as_one_likes_every_message_is_one_row_or_one_letter

# ganesh optimised, with the dependencies of the tests: CI builds those once, four minutes less.
measure: ## Measure what telemetry costs; fail when it is more than promised (needs an idle machine)
	@scripts/fetch nats-server postgres redis-server
	CARGO_PROFILE_DEV_OPT_LEVEL=3 cargo bench --locked --profile dev --bench cost

faults: ## Measure what outages and refused rows cost; fail when it is more than promised (needs an idle machine)
	@scripts/fetch nats-server postgres redis-server
	cargo bench --locked --bench faults

flood: ## Measure what a flood of reads costs a drain; fail when it is more than promised (needs an idle machine)
	@scripts/fetch nats-server postgres redis-server
	CARGO_PROFILE_DEV_OPT_LEVEL=3 cargo bench --locked --profile dev --bench flood

# As users build it: the promise is a rate, and no share of another one.
reads: ## Measure reads from the cache at RATE/s (20000) and from Postgres; fail below the promise (needs an idle machine)
	@scripts/fetch nats-server postgres redis-server
	cargo bench --locked --bench reads

compare: ## Measure two builds in turn, OLD=path and NEW=path: latency, drain, processor time (needs an idle machine)
	@scripts/fetch nats-server postgres redis-server
	cargo bench --locked --profile dev --bench compare

bench: build ## Measure the servers' ceilings, a bare loop and ganesh, on servers of its own (flags: BENCH_ARGS; needs an idle machine)
	@scripts/fetch nats-server postgres redis-server
	@scripts/bench $(BENCH_ARGS)

index-cost: ## Measure what an index of events costs a row: the table in docs/QUERIES.md
	@scripts/fetch postgres
	cargo test --locked --test behaviour -- --ignored --exact --nocapture sql::cost::index_cost

fetch: ## Put missing servers into .tools/
	@scripts/fetch

build: ## Build target/release/ganesh
	cargo build --release --locked

clean-local: ## Remove .local/, all data of `make up`
	@scripts/up --stop
	rm -rf .local
