# make help lists everything. Nothing here needs Docker, root or installed servers.

.DEFAULT_GOAL := help
.PHONY: help up quick test check chaos measure faults compare fetch build clean-local

help: ## Lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Prometheus is good to have: where it cannot be fetched, that is said in a line and the rest runs.
up: build ## Runs everything: private servers, ganesh, a producer, Prometheus, with a live line. Settings: see scripts/up
	@scripts/fetch nats-server postgres redis-server
	@scripts/fetch prometheus || true
	@exec scripts/up

quick: ## Runs the tests that need no server
	cargo test --locked --lib --test quick

# Tests wait for servers and timeouts most of the time: two at once leave two cores nearly idle.
TEST_THREADS ?= 4

test: fetch ## Runs all tests, TEST_THREADS (4) at a time, against real NATS, Postgres and Redis that they start themselves
	cargo test --locked -- --test-threads=$(TEST_THREADS)

check: ## Checks formatting, lints (warnings denied) and documentation
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

chaos: fetch ## Random faults for MINUTES (1) from SEED (random) at RATE messages/s (2000), then every row is checked
	cargo test --locked --test behaviour -- --ignored --exact --nocapture \
	  chaos::under_faults_for_as_long_as_one_likes_every_message_is_one_row_or_one_letter

measure: ## Measures what telemetry costs, and fails when that is more than promised (alone on the machine)
	@scripts/fetch nats-server postgres redis-server
	cargo bench --locked --bench cost

faults: ## Measures what outages and refused rows cost, and fails when that is more than promised (alone on the machine)
	@scripts/fetch nats-server postgres redis-server
	cargo bench --locked --bench faults

compare: ## Measures two builds side by side, OLD=path and NEW=path: latency, drain, processor time (alone on the machine)
	@scripts/fetch nats-server postgres redis-server
	cargo bench --locked --profile dev --bench compare

fetch: ## Puts the servers that are missing into .tools/
	@scripts/fetch

build: ## Builds target/release/ganesh
	cargo build --release --locked

clean-local: ## Removes .local/, all data of `make up`
	@scripts/up --stop
	rm -rf .local
