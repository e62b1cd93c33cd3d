# make demo    builds Sarcenet and shows it at work on this machine (KEEP=1 leaves it running)
# make test    every test, those of whole cells in network namespaces included
# make help    the other targets

SHELL := /bin/bash
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Network namespaces need root; everything else does not.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env)
RUNNER := CARGO_TARGET_$(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')_RUNNER
DENY := $(TARGET)/tools/bin/cargo-deny
DEB := $(TARGET)/tools/bin/cargo-deb
PROGRAMS := -p sarcenet -p sarcenet-dataplane -p sarcenet-cni -p sarcenet-garden

.PHONY: help deps build demo demo-end test lint deb deb-test bench perf loom fuzz

help:
	@sed -n 's/^# make/make/p' Makefile
	@echo 'make build   the programs, optimised'
	@echo 'make lint    formatting, clippy, dependencies'
	@echo 'make deb     the Debian package'
	@echo 'make deb-test  the same, installed in a clean Debian that is booted'
	@echo 'make bench   the parts, in nanoseconds'
	@echo 'make perf    whole cells, ours beside the kernel'"'"'s'
	@echo 'make loom    the lock-free tables under every interleaving'
	@echo 'make fuzz    one minute per fuzz target (needs cargo-fuzz and a nightly compiler)'
	@echo 'make deps    what is missing of the Debian packages that the above need'

deps:
	@scripts/install-dependencies $(SUDO)

build: deps
	cargo build --locked --release $(PROGRAMS)

demo: build
	$(SUDO) $(TARGET)/release/sarcenet demo $(if $(KEEP),--keep)

demo-end:
	$(SUDO) $(TARGET)/release/sarcenet demo --end

# The tests of whole cells run the programs, which cargo builds only when asked.
test: deps
	cargo build --locked --workspace --bins
	$(if $(SUDO),$(RUNNER)='$(SUDO)') cargo test --locked --workspace --no-fail-fast

lint: deps $(DENY)
	cargo fmt --all -- --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	$(DENY) --locked check bans licenses sources

# Advisories need their database from the network; these three do not. The tool runs for seconds and
# is built on every new machine: not optimised.
$(DENY): | deps
	cargo install --quiet --locked --debug --no-default-features --version 0.20.2 --root $(TARGET)/tools cargo-deny

# cargo-deb looks for the programs where cargo put them, and for the manual pages below ./target. It
# is not optimised itself, and would compress for minutes.
deb: build $(DEB)
	cargo build --locked --release -p sarcenet-packaging
	rm -rf target/package
	$(TARGET)/release/sarcenet-man target/package/man
	$(DEB) --locked --no-build --compress-system --manifest-path packaging/Cargo.toml --output $(TARGET)/debian/

deb-test: deb
	$(SUDO) packaging/installation/test $(TARGET)/debian/sarcenet_*.deb

$(DEB): | deps
	cargo install --quiet --locked --debug --version 3.6.2 --root $(TARGET)/tools cargo-deb

bench:
	cargo bench --locked -p sarcenet-benches

perf: build
	cargo build --locked --release -p sarcenet-perf
	$(SUDO) $(TARGET)/release/sarcenet-perf $(ARGS)

# Its own target directory: with other flags everything would be built again and again.
loom:
	RUSTFLAGS='--cfg loom' LOOM_MAX_PREEMPTIONS=3 CARGO_TARGET_DIR=$(TARGET)/loom \
	    cargo test --locked --release -p sarcenet-dataplane --lib loom

fuzz:
	@for target in $$(cargo +nightly fuzz list); do \
	    cargo +nightly fuzz run $$target -- -max_total_time=60 || exit 1; done
