# `make` builds, `make test` runs everything that can run here, `make test-cluster` boots two nodes under each cluster
# manager, `make fuzz` feeds every decoder what nobody wrote, `make soak` has both nodes work for an hour, `make install`
# honours DESTDIR and PREFIX.

PREFIX     ?= /usr/local
SYSCONFDIR ?= /etc
UNITDIR    ?= /lib/systemd/system
OCFDIR     ?= /usr/lib/ocf/resource.d
CARGO      ?= cargo
FAULTS     ?= all
INSTALL    ?= install

BIN  := $(or $(CARGO_TARGET_DIR),target)/release
ROOT := $(DESTDIR)$(PREFIX)
# What is installed looks for the programs where they are.
PLACED := sed -i 's|/usr/local|$(PREFIX)|g'

.PHONY: all build test faults histories limits loom sanitize test-cluster fuzz soak demo bench install clean

all: build

build:
	$(CARGO) build --release --locked --bin syncd --bin syncctl

test:
	tests/run

# Every call of the main scenarios fails once, and a process is killed at each: an hour and a half on two cores. FAULTS=30s takes a share of 30 s of
# each scenario, evenly spread. JOBS at a time, each on a file system of its own in memory.
faults:
	FAULTS=$(FAULTS) JOBS=$(JOBS) CARGO=$(CARGO) tests/faults/run

# Random histories of two nodes against a model of what may be where; about three a second on two cores.
HISTORIES ?= 10000

histories:
	OSM_HISTORIES=$(HISTORIES) $(CARGO) test --test model -- --nocapture

# Ten thousand levels, a million files in one directory, a file of 100 GiB: long, and some GiB of disk.
limits:
	OSM_LIMITS=1 $(CARGO) test --test limits -- --nocapture --test-threads=1

# The code that wakes threads, in every order of their steps.
loom:
	cd loom && $(CARGO) test --locked --quiet

# The library's tests with every access to memory checked, in the C libraries as well. What is switched off are two checks that
# gcc's code and LLVM's run time disagree on.
sanitize:
	@$(CARGO) +nightly --version > /dev/null 2>&1 || { echo 'make sanitize needs a nightly toolchain: rustup toolchain install nightly' >&2; exit 1; }
	RUSTFLAGS=-Zsanitizer=address CFLAGS=-fno-sanitize-address-use-after-scope ASAN_OPTIONS=detect_odr_violation=0 \
		CARGO_TARGET_DIR=target/sanitize $(CARGO) +nightly test --locked --lib --target $(shell uname -m)-unknown-linux-gnu

# The nodes' own root file system is made once, by mmdebstrap from a Debian mirror, and kept in target.
test-cluster:
	tests/install systemd-nspawn:systemd-container mmdebstrap:mmdebstrap ip:iproute2 nsenter:util-linux \
		mkfs.ext4:e2fsprogs ssh-keygen:openssh-client mount:mount timeout:coreutils journalctl:systemd
	$(CARGO) test --config "target.'cfg(unix)'.runner = ['tests/cluster/run']" --test cluster -- --ignored --test-threads=1 --nocapture

# Longer than the few seconds in `make test`, and led by what the code does with its input. FUZZ_SECONDS for each target.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))

fuzz:
	@$(CARGO) +nightly --version > /dev/null 2>&1 || { echo 'make fuzz needs a nightly toolchain: rustup toolchain install nightly' >&2; exit 1; }
	@$(CARGO) fuzz --version > /dev/null 2>&1 || { echo 'make fuzz needs cargo-fuzz: cargo install cargo-fuzz' >&2; exit 1; }
	for t in $(FUZZ_TARGETS); do \
		mkdir -p fuzz/target/corpus/$$t; \
		$(CARGO) +nightly fuzz run $$t fuzz/target/corpus/$$t fuzz/corpus/$$t -- \
			-max_total_time=$(FUZZ_SECONDS) -max_len=65536 -malloc_limit_mb=200 || exit 1; \
	done

# Both nodes at work, cut off and killed, for SOAK seconds; fails where memory, open files, processor time or lag grow.
SOAK ?= 3600

soak:
	OSM_SOAK=$(SOAK) $(CARGO) test --test soak -- --nocapture

demo:
	$(CARGO) build --release --bin syncd --bin syncctl
	$(BIN)/syncctl demo

# One run of each row takes 24 minutes on two cores with nothing beside it; REPEAT=3 prints medians of three.
REPEAT ?= 1

bench:
	$(CARGO) bench --bench peers -- --repeat $(REPEAT)

# The binaries go to bin, not sbin: a command that SSH runs finds only the former in every user's PATH.
# What is not in the tree is not installed; an existing configuration is never touched, the example lies beside it.
install: build
	$(INSTALL) -d $(ROOT)/bin $(DESTDIR)$(SYSCONFDIR)/osm-failover
	$(INSTALL) -m 0755 $(BIN)/syncd $(BIN)/syncctl $(ROOT)/bin/
	$(INSTALL) -m 0644 config.example.toml $(DESTDIR)$(SYSCONFDIR)/osm-failover/config.toml.example
	for f in systemd/*.service systemd/*.timer systemd/*.socket; do \
		[ ! -f $$f ] || { $(INSTALL) -D -m 0644 -t $(DESTDIR)$(UNITDIR) $$f && \
			$(PLACED) $(DESTDIR)$(UNITDIR)/$${f##*/}; } || exit 1; \
	done
	for f in init.d/*; do \
		$(INSTALL) -D -m 0755 -t $(DESTDIR)$(SYSCONFDIR)/init.d $$f && \
			$(PLACED) $(DESTDIR)$(SYSCONFDIR)/$$f || exit 1; \
	done
	$(INSTALL) -D -m 0755 -t $(DESTDIR)$(OCFDIR)/osm ocf/osm-failover
	$(PLACED) $(DESTDIR)$(OCFDIR)/osm/osm-failover
	$(INSTALL) -D -m 0755 keepalived/notify.sh $(ROOT)/lib/osm-failover/keepalived-notify
	$(PLACED) $(ROOT)/lib/osm-failover/keepalived-notify
	$(INSTALL) -D -m 0644 -t $(ROOT)/share/doc/osm-failover README.md CHANGELOG.md SECURITY.md config.example.toml
	$(INSTALL) -D -m 0644 -t $(ROOT)/share/doc/osm-failover/docs docs/*.md
	$(INSTALL) -d $(ROOT)/share/man/man1
	$(BIN)/syncctl man $(ROOT)/share/man/man1

clean:
	$(CARGO) clean
