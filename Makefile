# What can be done here: `make help`. Every target makes the clone ready by itself (make.d/bootstrap) and may be repeated.

PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest
JOBS ?= 2
N ?= 1
KEEP ?=
IMAGE ?=
TEST ?=
VMS ?=
KERNEL ?=
ONLY ?=
export KEEP IMAGE VMS KERNEL

ready := @make.d/bootstrap
ready_to_check := @make.d/bootstrap check
with_libvirt := $(PYTHON) -m demo.libvirtd --
compared := tests/system/daemon/test_sick_parts.py# compares latencies: nothing else may run beside it
around := tests/around# runs of these targets that are ended half-way
fast_tests := $(wildcard tests/unit tests/contract tests/daemon)

.DEFAULT_GOAL := help
.PHONY: help demo check format lint types rules schema generated unit system lab lab-shell bench soak requirements clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: ## run a real virtual machine through the daemon's API [KEEP=1: leave it running] [IMAGE=disk.qcow2: boot that]
	$(ready)
	@$(PYTHON) -m demo

check: ## everything below that proves the code, in this order; needs no lab
	@make.d/check lint types rules generated unit system

format: ## rewrite the sources in the house format
	$(ready)
	$(PYTHON) -m ruff format
	$(PYTHON) -m ruff check --fix

lint: ## format and lint (ruff)
	$(ready)
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m ruff check

types: ## strict types (mypy)
	$(ready)
	$(PYTHON) -m mypy --strict src demo lab

rules: ## the house rules: imports, sizes, names, doors, documents
	$(ready_to_check)
	$(PYTEST) -q tests/rules

schema: ## write schema/ anew from the declarations
	$(ready)
	$(PYTHON) -m vdsm.wire.schema

generated: ## are the generated files current?
	$(ready)
	@make.d/generated

unit: ## unit, contract and whole-daemon tests: no libvirt, no root
	$(ready_to_check)
	$(PYTEST) -q -n $(JOBS) --dist worksteal $(fast_tests)

system: ## tests with real libvirt and qemu, in namespaces of their own
	$(ready_to_check)
	$(PYTEST) -q -n $(JOBS) --dist loadfile tests/system --ignore $(compared)
	$(PYTEST) -q $(compared)

lab: ## tests in VMs with Debian's kernel: storage servers, networks, their faults [TEST=…: only that] [KEEP=1: a shell when one fails] [KERNEL=stock: emulated]
	@make.d/bootstrap check lab
	@$(PYTHON) -m lab $(if $(TEST),test $(TEST),all)

lab-shell: ## a prompt in that VM
	@make.d/bootstrap lab
	@$(PYTHON) -m lab shell

bench: ## figures beside those of rivals: a table, and JSON in bench/results/ [ONLY=migration: not all] [VMS=50: not 200]
	@make.d/bootstrap bench
	$(with_libvirt) $(PYTHON) -m bench $(if $(ONLY),--only $(ONLY)) $(if $(VMS),--vms $(VMS))

soak: ## the same tests with full counts, for hours [N=2: twice of that]
	$(ready_to_check)
	VDSM_SOAK=$(N) $(PYTEST) -o timeout=0 -n $(JOBS) --dist loadfile $(fast_tests) tests/system
	@make.d/bootstrap check lab
	VDSM_SOAK=$(N) $(PYTHON) -m lab test
	KERNEL=stock VMS=2 $(PYTHON) -m lab test # with quick counts
	VDSM_SOAK=$(N) $(PYTEST) -o timeout=0 $(around)

requirements: ## write requirements*.txt anew from requirements*.in
	$(ready)
	@make.d/requirements

clean: ## remove all that these targets made, .venv and caches included
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist src/*.egg-info bench/results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
