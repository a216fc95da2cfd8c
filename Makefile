# make demo          ten agents learn CartPole together, in a minute
# make demo-network  the same with a coordinator and five agents as processes, over mutual TLS
# make test          the tests that take up to three seconds with all their cases, in 15 minutes on two cores
# make test-long     the others, in hours; each is told as it ends
# make test-network those with a coordinator and agents on hosts made of network namespaces, as root: CI runs them
# make chaos         50 federations whose coordinator, agents and links fail 60 times each, in 20 minutes at most
# make chaos-short   10 of them, in 5 minutes at most: CI runs these
# make audit        whether audits of privacy refute planted faults and no right mechanism, over 20 seeds, in 30 minutes
# make audit-short  two of the seeds: CI runs these
# make test-ray      those of Ray, with two workers of its own: a part of the long ones, which CI runs
# make test-gymnax   those of gymnax, in an environment of their own, as it wants an older Gymnasium
# make test-suites   those of other libraries of environments, which bring what replaces packages of the first environment
# make suites        the page of environments that were tried, one row for each id, in the same environments
# make test-torch    those of PyTorch, which is large, in another one
# make test-traffic  our vehicles beside those of SUMO, which is large, in another one
# make test-jax2onnx those of user-defined networks in ONNX, as jax2onnx is large as well
# make combinations  every combination of options, trained, and their page of the documentation
# make check         format, lint, types, layers
# make bench         the numbers of the documentation, measured here
# make bench-peers   federated PPO beside stable-baselines3 and rejax, whose pins want an environment of their own
# make bench-flower  a round over the network beside Flower's, which wants an environment of its own
# make bench-jaxmarl IPPO beside the script of JaxMARL, from a clone of it: make bench-jaxmarl JAXMARL=~/JaxMARL
# make docs          the documentation as a site, in an environment of its own
# make test-docs     that no name and no link is missing in the site
# make test-wheel    that the wheel works in an empty environment outside of the repository
# make test-quickstart   that the README and the quickstart do what they say, block by block, from a fresh clone

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
GYMNAX_BIN := .venv-gymnax/bin
GYMNAX_STAMP := .venv-gymnax/.installed
SUITES_BIN := .venv-suites/bin
SUITES_STAMP := .venv-suites/.installed
TORCH_BIN := .venv-torch/bin
TORCH_STAMP := .venv-torch/.installed
TRAFFIC_BIN := .venv-traffic/bin
TRAFFIC_STAMP := .venv-traffic/.installed
JAX2ONNX_BIN := .venv-jax2onnx/bin
JAX2ONNX_STAMP := .venv-jax2onnx/.installed
DOCS_BIN := .venv-docs/bin
DOCS_STAMP := .venv-docs/.installed
PEERS_BIN := .venv-peers/bin
PEERS_STAMP := .venv-peers/.installed
JAXMARL_BIN := .venv-jaxmarl/bin
JAXMARL_STAMP := .venv-jaxmarl/.installed
FLOWER_BIN := .venv-flower/bin
FLOWER_STAMP := .venv-flower/.installed

.PHONY: suites test-suites
.PHONY: demo demo-network test test-long test-network chaos chaos-short audit audit-short test-ray test-gymnax test-torch test-jax2onnx
.PHONY: test-traffic test-docs test-wheel test-quickstart combinations check bench bench-peers bench-flower bench-jaxmarl docs clean

demo: $(STAMP)
	$(BIN)/fedrl run cartpole

demo-network: $(STAMP)
	$(BIN)/fedrl up cartpole --agents 5 --rounds 60

test: $(STAMP)
	$(BIN)/pytest -n 2 -m "not long"

test-long: $(STAMP)
	$(BIN)/pytest -n 2 -m long -vv --timeout 3600

test-network: $(STAMP)
	$(BIN)/pytest -n 0 -vv tests/network/test_namespaces.py --timeout 3600

chaos: $(STAMP)
	$(BIN)/python -m tests.chaos --seeds 50 --faults 60

chaos-short: $(STAMP)
	$(BIN)/python -m tests.chaos --seeds 10 --faults 60

audit: $(STAMP)
	$(BIN)/python -m tests.audit --document docs/privacy-audit.md

audit-short: $(STAMP)
	$(BIN)/python -m tests.audit --seeds 2

test-ray: $(STAMP)
	$(BIN)/pytest -n 2 -vv tests/engines/test_ray.py tests/studies/test_on_ray.py

test-gymnax: $(GYMNAX_STAMP)
	$(GYMNAX_BIN)/pytest -n 0 tests/with_gymnax

test-suites: $(SUITES_STAMP)
	$(SUITES_BIN)/pytest -n 0 tests/with_suites

suites: $(SUITES_STAMP) $(GYMNAX_STAMP)
	$(SUITES_BIN)/python -m benchmarks.suites --gymnax $(GYMNAX_BIN)/python

test-torch: $(TORCH_STAMP)
	$(TORCH_BIN)/pytest -n 0 tests/with_torch

test-traffic: $(TRAFFIC_STAMP)
	$(TRAFFIC_BIN)/pytest -n 0 -s tests/with_traffic

test-jax2onnx: $(JAX2ONNX_STAMP)
	$(JAX2ONNX_BIN)/pytest -n 0 tests/with_jax2onnx

combinations: $(STAMP)
	$(BIN)/python -m tests.engines.combinations docs/combinations.md

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python -m benchmarks

bench-peers: $(STAMP) $(PEERS_STAMP)
	$(BIN)/python -m benchmarks peers

bench-flower: $(STAMP) $(FLOWER_STAMP)
	$(BIN)/python -m benchmarks.flower

bench-jaxmarl: $(JAXMARL_STAMP)
	$(JAXMARL_BIN)/python -m benchmarks.jaxmarl_ippo $(JAXMARL)/baselines/IPPO/ippo_ff_mpe.py

docs: $(DOCS_STAMP)
	NO_MKDOCS_2_WARNING=1 $(DOCS_BIN)/mkdocs build --strict

test-docs: docs $(STAMP)
	$(BIN)/pytest -n 0 tests/with_site

test-wheel: $(STAMP)
	$(BIN)/pytest -n 0 tests/installed/test_wheel.py --timeout 3600

test-quickstart: $(STAMP)
	$(BIN)/pytest -n 0 -s tests/installed/test_quickstart.py --timeout 3600

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet --editable . --group test --group check
	touch $@

$(GYMNAX_STAMP): pyproject.toml
	test -x $(GYMNAX_BIN)/python || $(PYTHON) -m venv .venv-gymnax
	$(GYMNAX_BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(GYMNAX_BIN)/pip install --quiet --editable ".[gymnax,jaxmarl]" --group apart
	touch $@

$(SUITES_STAMP): pyproject.toml
	test -x $(SUITES_BIN)/python || $(PYTHON) -m venv .venv-suites
	$(SUITES_BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(SUITES_BIN)/pip install --quiet --editable . --group apart --group suites
	touch $@

$(TORCH_STAMP): pyproject.toml
	test -x $(TORCH_BIN)/python || $(PYTHON) -m venv .venv-torch
	$(TORCH_BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(TORCH_BIN)/pip install --quiet --editable ".[torch]" --group test
	touch $@

$(TRAFFIC_STAMP): pyproject.toml
	test -x $(TRAFFIC_BIN)/python || $(PYTHON) -m venv .venv-traffic
	$(TRAFFIC_BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(TRAFFIC_BIN)/pip install --quiet --editable ".[sumo]" --group apart
	touch $@

$(JAX2ONNX_STAMP): pyproject.toml
	test -x $(JAX2ONNX_BIN)/python || $(PYTHON) -m venv .venv-jax2onnx
	$(JAX2ONNX_BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(JAX2ONNX_BIN)/pip install --quiet --editable ".[jax2onnx]" --group test
	touch $@

$(DOCS_STAMP): pyproject.toml
	test -x $(DOCS_BIN)/python || $(PYTHON) -m venv .venv-docs
	$(DOCS_BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(DOCS_BIN)/pip install --quiet --group docs
	touch $@

$(PEERS_STAMP): pyproject.toml
	test -x $(PEERS_BIN)/python || $(PYTHON) -m venv .venv-peers
	$(PEERS_BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(PEERS_BIN)/pip install --quiet --editable . --group peers
	touch $@

$(JAXMARL_STAMP): pyproject.toml
	test -x $(JAXMARL_BIN)/python || $(PYTHON) -m venv .venv-jaxmarl
	$(JAXMARL_BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(JAXMARL_BIN)/pip install --quiet --editable ".[gymnax,jaxmarl]" --group jaxmarl
	touch $@

$(FLOWER_STAMP): pyproject.toml
	test -x $(FLOWER_BIN)/python || $(PYTHON) -m venv .venv-flower
	$(FLOWER_BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(FLOWER_BIN)/pip install --quiet --group flower
	touch $@

clean:
	rm -rf .venv .venv-gymnax .venv-suites .venv-torch .venv-traffic .venv-jax2onnx .venv-docs .venv-peers .venv-flower .venv-jaxmarl site .mypy_cache .pytest_cache .ruff_cache
