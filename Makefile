# `make help` says what there is. Everything that is built goes below the target directory.

PROFILE ?= release
TRIPLE  := x86_64-unknown-linux-musl

TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
BIN_DIR    := $(TARGET_DIR)/$(TRIPLE)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
BUNDLES    := $(TARGET_DIR)/bundles

# What is shipped: the shim, the agent, and boot's programs.
SHIPPED := -p shim-enclave -p agent -p boot

# Where the system tests and the demo find what was built.
export ENCLAVE_CC_BIN_DIR := $(BIN_DIR)
export ENCLAVE_CC_BUNDLES := $(BUNDLES)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check fmt fmt-check clippy deny advisories unit system build bundles bench image prerequisites

help: ## says what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: prerequisites bundles ## runs a confidential pod and shows what happens (root)
	cargo run --locked --quiet -p tests --bin demo

test: check unit system ## everything that has to pass before a change lands (root)

check: fmt-check clippy deny ## format, lints, dependencies

fmt-check:
	cargo fmt --all --check

clippy: prerequisites
	cargo clippy --locked --workspace --all-targets -- -D warnings

deny:
	.ci/deny check bans licenses sources

advisories: ## known vulnerabilities of the dependencies (needs the advisory database from the network)
	.ci/deny check advisories

unit: prerequisites ## tests of single crates (some need root)
	cargo test --locked --workspace --exclude tests

system: prerequisites bundles ## tests with a real containerd, runc, crun and registry (root)
	cargo test --locked -p tests

build: prerequisites ## the programs that are shipped, static; PROFILE=quick for a fast build
	cargo build --locked --profile $(PROFILE) --target $(TRIPLE) $(SHIPPED) --bins

bundles: build ## both bundles for SGX mode NONE
	bundles/build $(BIN_DIR) $(BUNDLES)

bench: build ## size, dependencies and start time of the programs that are shipped
	.ci/bench $(BIN_DIR)

image: ## the container image that installs a node
	@echo "the image belongs to the node installer, which does not exist yet; see README.md for an installation by hand" >&2
	@exit 1

fmt: ## formats the code
	cargo fmt --all

prerequisites: ## installs what is missing of Debian's packages and of the toolchain (root)
	@.ci/prerequisites
