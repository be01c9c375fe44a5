.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
PY := .venv/bin/python
# uv does not read pip's variables.
export UV_FIND_LINKS := $(or $(UV_FIND_LINKS),$(PIP_FIND_LINKS))

# An option for a variable of the command line; one of the environment may mean anything.
given = $(if $(findstring command,$(origin $(1))),$(2) '$($(1))')

help: ## print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, {sys.executable} is {sys.version.split()[0]}: make PYTHON=python3.11 ...")'
	@$(PYTHON) -m venv .venv || { echo "Install Python's venv module first (Debian, Ubuntu: apt-get install python3-venv)." >&2; exit 1; }
	@sed -n '/^uv==/,/[^\\]$$/p' constraints.txt > .venv/uv.txt && $(PY) -m pip install --quiet --disable-pip-version-check --requirement .venv/uv.txt
	@.venv/bin/uv pip install --quiet --compile-bytecode --python $(PY) --constraints constraints.txt --group dev --editable '.[serving,fleet,runpod]'
	@touch $@

setup: .venv/.installed ## make .venv: the kit, RunPod's SDK and the development tools

setup-engine: setup ## make .venv-engine: vLLM, for CUDA or for the CPU
	@serving/vllm_side/environment/install.sh

serve: setup $(if $(SERVE_ENGINE),,setup-engine) ## start vLLM with the SERVE_* settings and keep it up
	@$(PY) -m serving serve $(ARGS)

fleet: setup $(if $(SERVE_ENGINE),,setup-engine) ## start several engines behind one address and keep them up
	@exec $(PY) -m serving fleet $(ARGS)

reload: setup ## restart the fleet's engines one after the other with today's settings: no request is lost
	@$(PY) -m serving reload $(ARGS)

plan: setup ## say what fits, here or elsewhere: MODEL=google/gemma-4-31b-it GPUS='1x L40S'
	@$(PY) -m serving plan $(call given,MODEL,--model) $(call given,GPUS,--gpus) $(ARGS)

models: setup ## list the models that are known here, with what each takes: GPUS='1x L40S'
	@$(PY) -m serving models $(call given,GPUS,--gpus) $(ARGS)

plan-table: setup ## say what fits on every known GPU, times 1, 2, 4 and 8
	@$(PY) -m serving plan-table $(ARGS)

doctor: setup ## check every precondition of `make serve`
	@$(PY) -m serving doctor $(ARGS)

status: setup ## say what the server does now: ARGS='--watch', '--json', '--url http://10.0.0.5:8000'
	@$(PY) -m serving status $(ARGS)

bench: setup ## say how many users the server carries that LLM_* name: ARGS='--first-token 500ms --speed 20 --price 1.91'
	@$(PY) -m serving bench $(ARGS)

runpod-local: setup $(if $(SERVE_ENGINE),,setup-engine) ## try the RunPod worker here: emulated platform, worker and vLLM together
	@exec $(PY) runpod/emulator.py --worker $(ARGS)

IMAGE_ARGS = $(if $(IMAGE),--tag '$(IMAGE)') $(if $(BAKE),--bake '$(BAKE)') $(ARGS)

image: setup ## build the worker's image (DEPLOY_IMAGE, or IMAGE=...); BAKE=google/gemma-3-27b-it puts weights inside
	@$(PY) runpod/deploy.py image $(IMAGE_ARGS)

push: setup ## build the worker's image and push it
	@$(PY) runpod/deploy.py image --push $(IMAGE_ARGS)

deploy-plan: setup ## show the GPU pools that fit, their prices, and what `make deploy` would change
	@$(PY) runpod/deploy.py plan $(ARGS)

deploy: setup ## create or change the endpoint on RunPod, wait for it, ask it a question
	@$(PY) runpod/deploy.py up $(ARGS)

deploy-status: setup ## show the endpoint: workers, jobs, release, errors, cost
	@$(PY) runpod/deploy.py status $(ARGS)

deploy-logs: setup ## stream a worker's log
	@$(PY) runpod/deploy.py logs $(ARGS)

deploy-rollback: setup ## go back to the release before
	@$(PY) runpod/deploy.py rollback $(ARGS)

undeploy: setup ## delete the endpoint and check that nothing is left that costs
	@$(PY) runpod/deploy.py down $(ARGS)

export: setup ## write the same deployment for Helm, SkyPilot, vllm-router, systemd, and Prometheus, Grafana: ARGS='helm ...'
	@$(PY) -m serving export $(ARGS)

chat: setup ## talk to the endpoint that LLM_BASE_URL names, else to this machine's server; ARGS='a question' asks one
	@$(PY) -m serving chat $(ARGS)

bench-client: setup ## measure the client's CPU per token beside AsyncOpenAI and a bare aiohttp reader (5 minutes)
	@$(PY) -m tests.bench.client_bench

bench-load: setup ## measure how exact `make bench` is, and its CPU per token beside the client's (4 minutes)
	@$(PY) -m tests.bench.load_bench accuracy; $(PY) -m tests.bench.load_bench cost

bench-worker: setup ## measure the RunPod worker's CPU, posts and delays beside forwarding read by read (4 minutes)
	@$(PY) -m tests.bench.worker_bench $(ARGS)

soak-worker: setup ## run 20,000 jobs through the RunPod worker: memory flat (1 minute)
	@$(PY) -m tests.bench.worker_soak $(ARGS)

soak: setup ## run 100,000 short streams over one client: memory flat, no connection left open (5 minutes)
	@$(PY) -m tests.bench.client_soak

# Tests without vLLM mostly wait, so more of them run at once than there are cores; the engines, which take all of them, come one after the other.
FAST = $(PY) -m pytest --numprocesses 4 --dist worksteal -m "not engine and not slow"

test: setup setup-engine ## run all tests but the slow ones, the real vLLM included
	@$(FAST) && $(PY) -m pytest -m "engine and not slow"

test-fast: setup ## run the tests that need no vLLM
	@$(FAST)

# What builds the image in a test; where it is missing, that is said before and after.
NO_BUILDER = $(if $(and $(shell command -v buildah),$(shell command -v crun),$(shell command -v mmdebstrap)),,yes)
NOT_BUILT = echo "NOT TESTED: the worker's image is not built here. Install its builder: apt-get install buildah crun mmdebstrap" >&2;

test-slow: setup setup-engine ## run all tests
	@$(if $(NO_BUILDER),$(NOT_BUILT)) $(PY) -m pytest $(if $(NO_BUILDER),-m "not image"); status=$$?; $(if $(NO_BUILDER),$(NOT_BUILT)) exit $$status

lint: setup ## check style and types
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy client serving runpod/*.py runpod/worker runpod/deployment runpod/emulation tests
	@PYTHONPATH=.:runpod .venv/bin/lint-imports --no-logo

generated: setup ## write what is made from the code: .env.example, tables, plans, the Hub's files, versions
	@PYTHONPATH=.:runpod $(PY) -m tests.support.generated

settings-docs: generated ## the same, by its older name

pins: setup ## write all constraint files anew, with hashes, keeping what can be kept
	@serving/vllm_side/environment/pin.sh

format: setup ## put the code into the house's format
	@.venv/bin/ruff check --fix . && .venv/bin/ruff format .

.PHONY: help setup setup-engine serve models fleet reload status bench chat bench-client bench-load bench-worker soak soak-worker runpod-local image push plan plan-table doctor test test-fast test-slow lint format generated settings-docs pins deploy-plan deploy deploy-status deploy-logs deploy-rollback undeploy export
