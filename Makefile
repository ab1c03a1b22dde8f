# lsmkit: everything that is done to the tree. `make` lists the targets.
#
# Products go to build/ (C objects by variant: build/debug, asan, tsan, strict, clang),
# the environment of tools to .venv/, wheels to dist/; the one thing outside of these is the
# extension module, which is put in place beside its source. The C files are read from SOURCES.
#
#   PYTHON=python3.12 make test     another interpreter for a new .venv
#   make test K=recovery            the tests whose name contains a word
#   make test EXTRA=test-min        without the packages that some interpreters cannot have yet
#   make fuzz T=block SECONDS=600   longer

CC ?= cc
JOBS ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
VENV := .venv
EXTRA ?= test
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check -q
CORE := src/lsmkit/_core
SRC := $(CORE)/src
BREW := $(shell command -v brew >/dev/null 2>&1 && brew --prefix)

C_SOURCES := $(shell awk '$$1 ~ /^[a-z0-9_]+[.]c$$/ { print $$1 }' $(SRC)/SOURCES)
C_TESTS := $(patsubst tests/c/%.c,%,$(wildcard tests/c/test_*.c))
C_THREAD_TESTS := $(filter test_thread_%,$(C_TESTS))
FUZZERS := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
C_FILES := $(wildcard $(SRC)/*.[ch] tests/c/*.[ch] tests/fuzz/*.[ch])
BORDER := $(wildcard $(CORE)/*.pyx $(CORE)/*.pxi $(CORE)/*.pxd $(SRC)/*.[ch]) $(SRC)/SOURCES setup.py
PYTHON_DIRS := $(wildcard src tests bench tools setup.py)

.DEFAULT_GOAL := help
.PHONY: help setup build test test-c test-py check format bench demo wheel fuzz soak clean distclean
.SUFFIXES:
.SECONDARY:
.DELETE_ON_ERROR:

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# ------------------------------------------------------------------ environment

$(VENV)/.made: tools/bootstrap.sh
	@bash tools/bootstrap.sh venv $(VENV)
	@$(PIP) install 'setuptools>=77' 'Cython>=3.1' wheel
	@touch $@

# The requirements of one extra of pyproject.toml, without the package.
$(VENV)/.with-%: $(VENV)/.made pyproject.toml
	@echo "installing the requirements of lsmkit[$*]"
	@$(PY) tools/requirements.py $* >$(VENV)/$*.txt
	@$(PIP) install -r $(VENV)/$*.txt
	@touch $@

# The package itself, editable: its name, its version and its command.
$(VENV)/.installed: pyproject.toml | build/.extension
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.sanitizers: tools/bootstrap.sh
	@bash tools/bootstrap.sh sanitizers
	@mkdir -p $(@D) && touch $@

build/.extension: $(BORDER) | $(VENV)/.made
	@echo "building the extension module"
	@$(PY) setup.py -q build_ext --inplace
	@mkdir -p $(@D) && touch $@

setup: $(VENV)/.with-dev $(VENV)/.installed

build: build/.extension $(VENV)/.installed $(VENV)/.with-cli ## the extension module, in place

# ------------------------------------------------------------------ the C part by itself

WARNINGS := -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Wstrict-prototypes \
    -Wmissing-prototypes
C_FLAGS := -std=c11 -D_GNU_SOURCE -pthread -I$(SRC) -Itests/c $(WARNINGS) $(BREW:%=-I%/include)
C_LIBS := $(BREW:%=-L%/lib) -llz4 -lzstd -lm -pthread

FLAGS_debug := -O1 -g -DLK_DEBUG=1
FLAGS_asan := -O1 -g -DLK_DEBUG=2 -fno-omit-frame-pointer \
    -fsanitize=address,undefined -fno-sanitize-recover=all
FLAGS_tsan := -O1 -g -DLK_DEBUG=1 -fsanitize=thread
FLAGS_strict := -O3 -Werror
FLAGS_clang := -O2 -Werror
CC_clang := $(firstword $(foreach c,clang clang-19 clang-18 clang-17 clang-16 clang-15 clang-14,\
    $(shell command -v $(c) 2>/dev/null)))

# Objects and tests of one variant. A test takes from the archive what it uses.
define VARIANT
OBJECTS_$(1) := $$(C_SOURCES:%.c=build/$(1)/%.o)

build/$(1)/%.o: $(SRC)/%.c Makefile | $(VENV)/.made
	@mkdir -p $$(@D)
	$$(or $$(CC_$(1)),$$(CC)) $$(C_FLAGS) $$(FLAGS_$(1)) -MMD -MP -c $$< -o $$@

build/$(1)/lsmkit.a: $$(OBJECTS_$(1)) $(SRC)/SOURCES
	@rm -f $$@
	$$(AR) -rcs $$@ $$(OBJECTS_$(1))

build/$(1)/test_%: tests/c/test_%.c build/$(1)/lsmkit.a Makefile
	$$(or $$(CC_$(1)),$$(CC)) $$(C_FLAGS) $$(FLAGS_$(1)) -MMD -MP -MF $$@.d $$< build/$(1)/lsmkit.a \
	    -o $$@ $$(C_LIBS)

-include $$(wildcard build/$(1)/*.d)
endef
$(foreach variant,debug asan tsan strict clang,$(eval $(call VARIANT,$(variant))))

.PHONY: c-tests-debug c-tests-asan c-tests-tsan
c-tests-debug: $(C_TESTS:%=build/debug/%)
c-tests-asan: $(C_TESTS:%=build/asan/%)
c-tests-tsan: $(C_THREAD_TESTS:%=build/tsan/%)
$(C_TESTS:%=build/asan/%) $(C_THREAD_TESTS:%=build/tsan/%) $(FUZZERS:%=build/asan/fuzz_%): \
    | $(VENV)/.sanitizers

# ------------------------------------------------------------------ tests

test: test-c test-py ## the C tests, then the Python tests

test-c:
	@$(MAKE) --no-print-directory -s -j$(JOBS) c-tests-debug
	@bash tools/run_c_tests.sh debug $(JOBS) $(C_TESTS:%=build/debug/%)

test-py: build/.extension $(VENV)/.installed $(VENV)/.with-$(EXTRA)
	@$(PY) -m pytest $(if $(K),-k '$(K)')

# ------------------------------------------------------------------ checks

CHECKS := check-layers check-format check-lint check-types check-strict check-asan check-tsan \
    check-fuzz
.PHONY: $(CHECKS)

check: ## all of CI but the tests: format, lint, types, layers, sanitizers
	@$(MAKE) --no-print-directory $(CHECKS)
	@echo "check: all is well"

check-layers: | $(VENV)/.made
	@$(PY) tools/layering.py $(SRC)

check-format: $(VENV)/.with-check
	@$(VENV)/bin/clang-format --dry-run -Werror $(C_FILES)
	@$(VENV)/bin/ruff format --check -q $(PYTHON_DIRS)
	@echo "format: as .clang-format and ruff have it"

check-lint: $(VENV)/.with-check
	@$(VENV)/bin/ruff check -q $(PYTHON_DIRS)
	@echo "lint: clean"

check-types: $(VENV)/.with-check
	@$(VENV)/bin/mypy

check-strict: | $(VENV)/.made
	@$(MAKE) --no-print-directory -s -j$(JOBS) $(C_SOURCES:%.c=build/strict/%.o) \
	    $(C_TESTS:%=build/strict/%)
	@echo "warnings: none by $(CC)"
ifneq ($(CC_clang),)
	@$(MAKE) --no-print-directory -s -j$(JOBS) $(C_SOURCES:%.c=build/clang/%.o)
	@echo "warnings: none by $(CC_clang)"
endif

check-asan:
	@$(MAKE) --no-print-directory -s -j$(JOBS) c-tests-asan
	@bash tools/run_c_tests.sh asan $(JOBS) $(C_TESTS:%=build/asan/%)

check-tsan:
	@$(MAKE) --no-print-directory -s -j$(JOBS) c-tests-tsan
	@bash tools/run_c_tests.sh tsan $(JOBS) $(C_THREAD_TESTS:%=build/tsan/%)

format: $(VENV)/.with-check ## rewrites C and Python files in the form that check asks for
	@$(VENV)/bin/clang-format -i $(C_FILES)
	@$(VENV)/bin/ruff format -q $(PYTHON_DIRS)
	@$(VENV)/bin/ruff check -q --select I --fix $(PYTHON_DIRS)

# ------------------------------------------------------------------ fuzzing
#
# A target is tests/fuzz/fuzz_<T>.c with LLVMFuzzerTestOneInput, its inputs tests/fuzz/corpus/<T>/.
# libFuzzer is used where there is a clang that has it; else tests/fuzz/standalone.c changes the
# inputs blindly. The check replays each corpus.

SECONDS ?= 60
FUZZ_CLANG := $(CC_clang)
FUZZ_FLAGS := -O1 -g -DLK_DEBUG=1 -fno-omit-frame-pointer -fno-sanitize-recover=all

build/asan/fuzz_%: tests/fuzz/fuzz_%.c tests/fuzz/standalone.c build/asan/lsmkit.a Makefile
	$(CC) $(C_FLAGS) $(FLAGS_asan) -MMD -MP -MF $@.d $< tests/fuzz/standalone.c build/asan/lsmkit.a \
	    -o $@ $(C_LIBS)

build/fuzz/fuzz_%: tests/fuzz/fuzz_%.c $(C_SOURCES:%=$(SRC)/%) $(wildcard $(SRC)/*.h) Makefile
	@mkdir -p $(@D)
	$(FUZZ_CLANG) $(C_FLAGS) $(FUZZ_FLAGS) -fsanitize=fuzzer,address,undefined $< \
	    $(C_SOURCES:%=$(SRC)/%) -o $@ $(C_LIBS)

fuzz: ## T=block: looks for inputs that break a parser, for SECONDS=60
	@if [ -z "$(T)" ]; then echo "make fuzz T=...: one of $(FUZZERS)"; exit 2; fi
	@mkdir -p tests/fuzz/corpus/$(T) build/fuzz/found/$(T)
	@if [ -n "$(FUZZ_CLANG)" ] && $(MAKE) --no-print-directory -s build/fuzz/fuzz_$(T) 2>/dev/null; then \
	    echo "libFuzzer on $(T), $(SECONDS) s; what it finds goes to build/fuzz/found/$(T)"; \
	    build/fuzz/fuzz_$(T) -max_total_time=$(SECONDS) -rss_limit_mb=2048 -timeout=10 \
	        -artifact_prefix=build/fuzz/found/$(T)/ build/fuzz/found/$(T) tests/fuzz/corpus/$(T); \
	else \
	    $(MAKE) --no-print-directory -s build/asan/fuzz_$(T) && \
	    build/asan/fuzz_$(T) --seconds $(SECONDS) --found build/fuzz/found/$(T) tests/fuzz/corpus/$(T); \
	fi

check-fuzz:
	@$(MAKE) --no-print-directory -s -j$(JOBS) $(FUZZERS:%=build/asan/fuzz_%)
	@for t in $(FUZZERS); do build/asan/fuzz_$$t tests/fuzz/corpus/$$t || exit 1; done

# ------------------------------------------------------------------ the model, for long
#
# The state machine of tests/model, driven by chance for STEPS steps in JOBS processes; SEED repeats.

STEPS ?= 1000000

soak: build/.extension $(VENV)/.with-$(EXTRA) ## STEPS=1000000: random operations against the model, in every option
	@PYTHONPATH=src $(PY) tests/model/soak.py --steps $(STEPS) --jobs $(JOBS) $(if $(SEED),--seed $(SEED))

# ------------------------------------------------------------------ use

bench: build/.extension $(VENV)/.installed $(VENV)/.with-bench ## B=put: each claim beside the best peer, measured in one run
	@$(PY) -m pytest -q bench $(if $(B),-k '$(B)')

demo: build/.extension $(VENV)/.installed $(VENV)/.with-demo ## real events written, killed, reopened, compared
	@$(PY) -m lsmkit demo

wheel: $(VENV)/.with-wheel ## a wheel that carries its libraries, proved in an empty environment
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" bash tools/make_wheel.sh

clean: ## removes what was built, keeps the environment of tools
	rm -rf build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .benchmarks .hypothesis
	rm -f $(CORE)/*.so $(CORE)/core.c
	find src tests bench tools -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
