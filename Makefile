# The front door: thin over cargo, `cargo xtask` and scripts/. `make` alone lists the targets.

PREFIX ?= /usr/local
DESTDIR ?=
# The cargo profile of the programs that `make test` drives.
TEST_PROFILE ?= dev
# How many lives of a VM `make soak` lives.
N ?= 200

.DEFAULT_GOAL := help
.PHONY: help quickstart build test soak check fmt bench install hooks docs ci clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

quickstart: ## Set everything up, then run a command in a real VM
	@scripts/quickstart.sh

build: ## Build the release programs into target/dist
	@cargo xtask dist

test: ## Run every test, real guests included
	@TEST_PROFILE=$(TEST_PROFILE) scripts/test.sh

soak: ## Run every test and those that take long; N=200 lives of a VM
	@BANGER_SOAK=$(N) TEST_PROFILE=$(TEST_PROFILE) scripts/test.sh

check: ## Check format, lints, house rules, shell and spelling
	@scripts/check.sh

fmt: ## Format the Rust code
	@cargo fmt

bench: ## Measure, against the floor of the same parts
	@scripts/bench.sh

install: ## Install below PREFIX (and DESTDIR)
	@cargo xtask dist --destdir '$(DESTDIR)' --prefix '$(PREFIX)'

hooks: ## Run `make check` before each commit
	@git config core.hooksPath .githooks
	@echo "hooks: git runs .githooks/pre-commit before each commit"

docs: ## Build the API documentation of the crates
	@RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items

ci: ## What CI runs
	@bash .ci/run

clean: ## Delete what was built
	@cargo clean
