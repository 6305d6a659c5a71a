# Everything runs from a fresh clone: each target first makes .venv when it is missing or out of date.
PYTHON := .venv/bin/python
STAMP := .venv/.installed
# One thread for each of the two test processes: more only compete for the same cores. A file goes to one of them whole,
# which makes its fixtures and compiles its programs once.
BOUNDED := OMP_NUM_THREADS=1 NPROC=1 XLA_FLAGS="--xla_cpu_multi_thread_eigen=false $(XLA_FLAGS)"
# Many tests compile what another has compiled, in processes of their own that are killed and started again.
CACHED := JAX_COMPILATION_CACHE_DIR=$(CURDIR)/build/compiled JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.2

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint venv

help: ## Say what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(STAMP) ## Separate one simulated dust and CMB mixture; the report is runs/demo/report.html
	$(PYTHON) -m inference dust_cmb --output runs/demo --overwrite

test: lint ## Lint, types, import layers and every test that is not slow
	$(BOUNDED) $(CACHED) $(PYTHON) -m pytest -m "not slow" -n 2 --dist loadfile

test-slow: $(STAMP) ## The slow tests alone
	$(PYTHON) -m pytest -m slow

lint: $(STAMP) ## Ruff, pyright and the import layers
	$(PYTHON) -m ruff check .
	$(PYTHON) -m pyright
	.venv/bin/lint-imports

venv: $(STAMP) ## Make .venv and install the pinned environment

# A version manager may put a python3.13 on the PATH that only prints a complaint, so each candidate is run.
$(STAMP): pyproject.toml constraints.txt
	@if ! $(PYTHON) -m pip --version >/dev/null 2>&1; then \
	  pyenv_root=$$(pyenv root 2>/dev/null || echo "$$HOME/.pyenv"); \
	  for candidate in python3.13 python3.12 python3.14 python3 python "$$pyenv_root"/versions/*/bin/python; do \
	    if "$$candidate" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1; then \
	      echo "Making .venv with $$("$$candidate" --version) ($$candidate)"; \
	      "$$candidate" -m venv --clear .venv || exit 1; \
	      break; \
	    fi; \
	  done; \
	fi
	@$(PYTHON) -m pip --version >/dev/null 2>&1 || { \
	  echo "bayesdiff needs Python 3.12 or newer with the venv module, and none was found."; \
	  echo "Install one (https://www.python.org/downloads/, 'apt install python3.13-venv' or 'pyenv install 3.13')"; \
	  echo "and run make again."; \
	  exit 1; }
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[cosmology,simulations,dev]"
	@touch $@
