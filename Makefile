# Two commands: `make run` and `make test`. PYTHON=... names another interpreter than the first in the path.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export PYTHON
# The tests start some thousand Python processes: what they import is compiled once, wherever else that may be unwanted.
unexport PYTHONDONTWRITEBYTECODE

# What builds the Debian package.
DEB_PACKAGES := build-essential debhelper python3-dev python3-venv
# Debian 13 has Valkey beside Redis.
REDIS := $(shell . /etc/os-release && [ "$${VERSION_ID:-13}" -lt 13 ] && echo redis-server || echo valkey-server)
# What the tests start besides the daemon; without them their tests are skipped, in CI (CI=true) they fail.
TEST_PACKAGES := postfix dovecot-core nginx libfaketime strace postgresql mariadb-server $(REDIS) sqlite3 systemd iproute2 $(DEB_PACKAGES) lintian mmdebstrap buildah netavark groff-base chromium
DOMAIN := src/policyd_rate_limit/domain
# Three more than there are processors: tests of daemons wait half of their time.
PARALLEL := --numprocesses $(shell expr $$(nproc) + 3) --dist worksteal
# Of the tests that are marked depends_on_machine alone; what was run again is listed.
RERUNS := --reruns-on-machine 2
# The files and directories whose tests `make test` runs.
ONLY := tests
# Those of them that hold tests marked alone: while these run nothing else does, not even the looking for them.
ALONE = $(shell grep --recursive --include='*.py' --files-with-matches 'mark\.alone' $(ONLY))
# These run against the compiled modules too; the others import those of the checkout.
COMPILED_TESTS := tests/unit/domain tests/unit/maillog tests/unit/test_codec.py tests/unit/test_pace.py tests/storage/test_record.py tests/storage/test_memory.py \
  tests/storage/test_redis_refused.py tests/storage/test_log_refused.py
# The version before, which makes databases for ours to take over. On Python 3.12 and later it lacks a module of the
# standard library, which a package brings back.
OLD_VERSION := .venv-1.2.0/bin/policyd-rate-limit
# What runs the tests that it ships.
OLD_TESTS := .venv-1.2.0/bin/pytest
INTO_OLD := .venv/bin/pip --python .venv-1.2.0/bin/python install --quiet --disable-pip-version-check

# As it is installed: its hot path compiled, where there is a compiler.
COMPILED := .venv-compiled/bin/policyd-rate-limit

.PHONY: help
help: ## say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 18

.PHONY: run
run: venv ## start the daemon in the foreground, with packaging/development.yaml
	@.venv/bin/python packaging/run.py

# What needs nothing but a processor runs beside the compiler of C, for which the others would wait: it goes first.
.PHONY: test
test: test-packages test-venv ## install what the tests need, then all checks and all tests; ONLY=tests/unit: those
	@$(MAKE) --no-print-directory --jobs --output-sync BESIDE='nice -n 10' \
	  check test-domain test-compiled collected $(OLD_VERSION) $(OLD_TESTS)
	$(if $(ALONE),$(COMMANDS) .venv/bin/pytest $(RERUNS) -m alone $(ALONE))
	$(COMMANDS) tests/support/in_memory.sh .venv/bin/pytest $(PARALLEL) $(RERUNS) -m 'not alone' --ignore tests/unit/domain $(ONLY)

# To find the tests leaves them compiled, which each of the processes that run them would do for itself.
.PHONY: collected
collected: test-venv
	@found=$$($(BESIDE) .venv/bin/pytest --quiet --collect-only $(ONLY)) || { echo "$$found"; exit 1; }

# Looking at each line takes three times as long: that is done only where every one must be covered.
.PHONY: test-domain
test-domain: test-venv
	@rm -f .coverage .coverage.*
	$(BESIDE) .venv/bin/pytest --numprocesses $$(nproc) --dist worksteal tests/unit/domain --cov --cov-report=
	.venv/bin/coverage report --include='$(DOMAIN)/*' --fail-under=100

# With the stubs of the tests in place of compiled classes, not every module can be tested so.
.PHONY: test-compiled
test-compiled: $(COMPILED)
	POLICYD_TEST_COMPILED=1 .venv-compiled/bin/python -m pytest --numprocesses $$(nproc) --dist worksteal $(COMPILED_TESTS)

# Each of the two that is installed: `make test` takes Valkey where both are.
REDIS_SERVERS := $(shell for server in redis-server valkey-server; do command -v $$server > /dev/null && echo $$server; done)
.PHONY: test-redis
test-redis: test-venv ## the tests on Redis and Valkey: single, with Sentinel, and as a Cluster, on each that is installed
	@test -n "$(REDIS_SERVERS)" || { echo "neither redis-server nor valkey-server is installed" >&2; exit 1; }
	@for server in $(REDIS_SERVERS); do \
	  echo "== $$server" && \
	  POLICYD_TEST_REDIS_SERVER=$$server .venv/bin/pytest $(PARALLEL) -k redis tests/storage tests/faults tests/integration \
	  || exit; \
	done

SUITE := trixie
.PHONY: test-debian
test-debian: ## as root: make test on a freshly installed Debian, SUITE=bookworm or trixie; ONLY=tests/unit: those
	@packaging/test-debian.sh $(SUITE) $(ONLY)

.PHONY: test-pythons
test-pythons: ## static checks and unit tests on every version of Python that is found
	@packaging/test-pythons.sh pythons

.PHONY: test-oldest
test-oldest: ## unit tests and those of the stores with the oldest libraries that pyproject.toml allows
	@packaging/test-pythons.sh oldest tests/unit tests/storage

# CI=true looks for the same examples each time. What this finds becomes an @example of its test.
SEED := $(shell od -An -N4 -tu4 /dev/urandom | tr -d ' ')
EXAMPLES := 2000
TESTS := tests/unit tests/storage
.PHONY: test-random
test-random: test-venv ## hold each property against 2,000 new examples; SEED=... repeats a run, TESTS=... names some
	@echo "seed $(SEED): make test-random SEED=$(SEED) EXAMPLES=$(EXAMPLES) TESTS='$(TESTS)'"
	PYTHONHASHSEED=$(SEED) POLICYD_TEST_EXAMPLES=$(EXAMPLES) .venv/bin/pytest --hypothesis-seed=$(SEED) -m hypothesis \
	  --numprocesses $$(nproc) --dist worksteal --timeout 3600 $(TESTS)

$(OLD_VERSION): | test-venv
	rm -rf .venv-1.2.0
	.venv/bin/python -m venv --without-pip .venv-1.2.0
	$(INTO_OLD) policyd-rate-limit==1.2.0 'zombie-imp; python_version >= "3.12"' || [ "$${CI:-}" != true ]

$(OLD_TESTS): | $(OLD_VERSION)
	$(INTO_OLD) pytest || [ "$${CI:-}" != true ]

# What the tests start: the modules that they import themselves are those of the checkout, and not compiled.
COMMANDS := POLICYD_RATE_LIMIT=$(CURDIR)/$(COMPILED) POLICYD_RATE_LIMIT_1_2_0=$(CURDIR)/$(OLD_VERSION)

$(COMPILED): pyproject.toml packaging/compile_hook.py packaging/make-compiled.sh $(shell find src -type f -not -name '*.pyc') | test-venv
	packaging/make-compiled.sh

.PHONY: check
check: test-venv ## static checks: ruff, mypy, import-linter
	$(BESIDE) .venv/bin/ruff check
	$(BESIDE) .venv/bin/ruff format --check
	$(BESIDE) .venv/bin/mypy
	$(BESIDE) .venv/bin/lint-imports --verbose

# TARGETS=... names some of tests/fuzz/targets, FUZZ_SECONDS how long each is fed, once not compiled and once compiled.
FUZZ_SECONDS := 300
.PHONY: fuzz
fuzz: test-venv $(COMPILED) ## feed the readers of what others write with random input, minutes for each
	.venv/bin/pip install --quiet --disable-pip-version-check 'atheris>=2.3'
	.venv/bin/python tests/fuzz/run.py --seconds $(FUZZ_SECONDS) $(TARGETS)
	.venv-compiled/bin/python tests/fuzz/run.py --seconds $(FUZZ_SECONDS) $(TARGETS)

.PHONY: bench
bench: test-packages $(OLD_VERSION) $(COMPILED) ## measure this daemon beside others, three quarters of an hour, and write docs/benchmark.md
	@packaging/make-venv.sh bench
	.venv/bin/python bench/run.py --ours $(COMPILED) --peer $(OLD_VERSION)

.PHONY: bench-quick
bench-quick: test-packages $(OLD_VERSION) $(COMPILED) ## two minutes: each store beside 1.2.0 and what the machine allows
	.venv/bin/python bench/compare.py --ours $(COMPILED) --peer $(OLD_VERSION)

.PHONY: generated
generated: test-venv ## write what is made from the schema of the settings and the commands' help
	.venv/bin/python -m policyd_rate_limit.config.samples docs/settings.md
	.venv/bin/python -m policyd_rate_limit.cli.manual docs

.PHONY: install
install: ## install on this machine; DESTDIR, PREFIX, EXTRAS=postgresql,mysql,redis,geoip,web: see packaging/install.sh
	@packaging/install.sh install

.PHONY: uninstall
uninstall: ## undo it; configuration, counts and account stay
	@packaging/install.sh uninstall

.PHONY: purge
purge: ## undo it and remove configuration, counts and account
	@packaging/install.sh purge

.PHONY: dist
dist: test-venv ## build sdist and wheel into dist/
	.venv/bin/python -m build

.PHONY: deb
deb: test-venv ## build the Debian package into dist/
	@packaging/debian-install.sh $(DEB_PACKAGES)
	@packaging/build-deb.sh .venv/bin/python

.PHONY: clean
clean: ## remove what these commands made
	rm -rf .venv .venv-1.2.0 .venv-compiled var dist build .coverage .coverage.* coverage.xml .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: venv
venv:
	@packaging/make-venv.sh

.PHONY: test-venv
test-venv:
	@packaging/make-venv.sh test

.PHONY: test-packages
test-packages:
	@packaging/debian-install.sh $(TEST_PACKAGES) || { [ $$? = 3 ] && [ "$${CI:-}" != true ] && echo 'Going on without: the tests that need them are skipped.'; }
