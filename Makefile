# make help lists everything. Nothing here needs Docker, root or installed servers.

.DEFAULT_GOAL := help
.PHONY: help up test check measure fetch build clean-local

help: ## Lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Prometheus is good to have: where it cannot be fetched, that is said in a line and the rest runs.
up: build ## Runs everything: private servers, ganesh, a producer, Prometheus, with a live line. Settings: see scripts/up
	@scripts/fetch nats-server postgres redis-server
	@scripts/fetch prometheus || true
	@exec scripts/up

test: fetch ## Runs all tests, against real NATS, Postgres and Redis that they start themselves
	cargo test --locked

check: ## Checks formatting, lints (warnings denied) and documentation
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

measure: ## Measures what telemetry costs, and fails when that is more than promised (alone on the machine)
	@scripts/fetch nats-server postgres redis-server
	cargo bench --locked --bench cost

fetch: ## Puts the servers that are missing into .tools/
	@scripts/fetch

build: ## Builds target/release/ganesh
	cargo build --release --locked

clean-local: ## Removes .local/, all data of `make up`
	@scripts/up --stop
	rm -rf .local
