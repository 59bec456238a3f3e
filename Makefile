# The front door: thin over cargo, `cargo xtask` and scripts/. `make` alone lists the targets.

PREFIX ?= /usr/local
DESTDIR ?=
# The cargo profile of the programs that `make test` drives.
TEST_PROFILE ?= dev
# How many lives of a VM `make soak` lives.
N ?= 200
# Which warm test host, and what is run in one of its own.
NAME ?= default
CMD ?= uname -a

.DEFAULT_GOAL := help
.PHONY: help quickstart build test soak e2e check fmt bench bench-e2e install publish hooks docs ci clean
.PHONY: testhost-build testhost-up testhost-sync testhost-ssh testhost-run testhost-down

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

quickstart: ## Set everything up, then run a command in a real VM
	@scripts/quickstart.sh

build: ## Build the release programs into target/dist
	@cargo xtask dist

test: ## Run every test, real guests included
	@TEST_PROFILE=$(TEST_PROFILE) scripts/test.sh

soak: ## Run every test and those that take long; N=200 lives of a VM
	@BANGER_SOAK=$(N) TEST_PROFILE=$(TEST_PROFILE) scripts/test.sh

e2e: ## Run scenarios in a disposable test host: LIST=1 FILTER=a,b JOBS=N COVERAGE=1 TREE=target/dist
	@cargo xtask e2e $(if $(LIST),--list) $(if $(FILTER),--filter '$(FILTER)') $(if $(JOBS),--jobs '$(JOBS)') $(if $(COVERAGE),--coverage) $(if $(TREE),--tree '$(TREE)')

testhost-build: ## Build the test host's image, once per recipe
	@cargo xtask testhost build

testhost-up: ## Start a test host and keep it warm: NAME=default
	@cargo xtask testhost up --name '$(NAME)'

testhost-sync: ## Put the programs of this tree into a warm test host
	@cargo xtask testhost sync --name '$(NAME)'

testhost-ssh: ## Log in to a warm test host
	@cargo xtask testhost ssh --name '$(NAME)'

testhost-run: ## Run CMD in a test host of its own
	@cargo xtask testhost run -- sh -c '$(CMD)'

testhost-down: ## End a warm test host
	@cargo xtask testhost down --name '$(NAME)'

check: ## Check format, lints, house rules, shell and spelling
	@scripts/check.sh

fmt: ## Format the Rust code
	@cargo fmt

bench: ## Measure, against the floor of the same parts
	@scripts/bench.sh

bench-e2e: ## Measure Firecracker in a disposable test host: ONLY=a,b RUNS=N WRITE=1
	@cargo xtask bench-e2e $(if $(ONLY),--only '$(ONLY)') $(if $(RUNS),--runs '$(RUNS)') $(if $(WRITE),--write)

install: ## Install below PREFIX (and DESTDIR)
	@cargo xtask dist --destdir '$(DESTDIR)' --prefix '$(PREFIX)'

publish: ## Publish bundles as a catalog: BUNDLES=DIR TO=DIR KEY=FILE PRUNE=1
	@cargo run --quiet --release -p cli -- internal publish '$(BUNDLES)' --to '$(TO)' --key '$(KEY)' $(if $(PRUNE),--prune)

hooks: ## Run `make check` before each commit
	@git config core.hooksPath .githooks
	@echo "hooks: git runs .githooks/pre-commit before each commit"

docs: ## Build the API documentation of the crates
	@RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items

ci: ## What CI runs
	@bash .ci/run

clean: ## Delete what was built
	@cargo clean
