# make train    the main job: digits, a small ResNet, binary, exported and scored
# make demo     a page that reads the digit one draws on it, served here
# make test     all tests
# Each sets up .venv by itself; nothing is needed but Python 3.11 and make.

PYTHON ?= python3.11
BIN = .venv/bin
ARGS ?=
PYTEST = python -m pytest -n 2 --dist worksteal $(ARGS)
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: train demo types test mutants mutants-tensorflow test-arm test-demo test-jax test-micro test-torch test-oldest test-readers test-runtimes test-train test-wheel lint doctest docs toy-benchmarks clean

train: .venv/installed
	$(BIN)/python train.py $(ARGS)

# The page of examples/web, with the network of the main job and LiteRT.js, which npm fetches.
demo: .venv/installed
	@$(BIN)/python -m examples.web.demo $(ARGS)

test: .venv/installed
	$(BIN)/$(PYTEST) tests

# What can differ on another backend, on JAX.
test-jax: .venv/installed
	KERAS_BACKEND=jax $(BIN)/$(PYTEST) $(ON_ANOTHER_BACKEND:%=tests/%_test.py) \
	  tests/models_test.py::LstmLanguageModelTest

ON_ANOTHER_BACKEND = callbacks golden_trajectory metrics optimizers_automatic optimizers_freeze \
  optimizers_memory optimizers_restarted optimizers_saving optimizers optimizers_truth prox \
  quantizers_golden quantizers_numbers quantizers_storable quantizers schedules selection_axes

# What trains, on PyTorch, in an environment of its own without TensorFlow.
test-torch: .venv-torch/installed
	KERAS_BACKEND=torch .venv-torch/bin/$(PYTEST) tests/optimizers_memory_test.py \
	  tests/optimizers_test.py tests/optimizers_freeze_test.py tests/optimizers_saving_test.py

# The wheel without CUDA where pip finds one, a tenth of the size.
TORCH = torch==2.13.0
.venv-torch/installed: requirements-torch.txt
	$(PYTHON) -m venv .venv-torch
	.venv-torch/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH)+cpu 2>/dev/null || \
	  .venv-torch/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	.venv-torch/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-torch.txt
	touch $@

# Some tests of each floor on the oldest versions that pyproject.toml allows, in their own environment.
test-oldest: .venv-oldest/installed
	.venv-oldest/bin/$(PYTEST) tests/quantizers_test.py tests/callbacks_test.py \
	  tests/optimizers_freeze_test.py tests/litert_inspect_test.py

# What other programs make of exported files; ARGS=--write puts it into docs/readers.md.
test-readers: .venv/installed .venv-readers/installed
	$(BIN)/python -m tests.readers.run $(ARGS)

# Static files in tflite-micro and in Arm's vela.
test-micro: .venv/installed .venv-micro/installed
	$(BIN)/python -m tests.micro.run $(ARGS)

# Exported files in old runtimes, which are set up in .runtimes.
test-runtimes: .venv/installed
	$(BIN)/python -m tests.runtimes.run

# Mutants of the numerical rooms, see docs/mutants.md: make mutants ARGS="'tf_proxquant.prox.*'".
# Without names, those of `mutants-tensorflow` too.
mutants: .venv-mutants/installed
	KERAS_BACKEND=numpy nice .venv-mutants/bin/mutmut run --max-children 1 $(ARGS)
	KERAS_BACKEND=numpy .venv-mutants/bin/mutmut results
	$(if $(ARGS),,$(MAKE) mutants-tensorflow)

# Mutants of what needs TensorFlow: make mutants-tensorflow ARGS="--number=60 --name=plan.small".
mutants-tensorflow: .venv/installed .venv-mutants/installed
	nice $(BIN)/python -m tests.mutants $(ARGS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

doctest: .venv/installed
	$(BIN)/python -m pytest -n 0 --doctest-modules tf_proxquant docs/example.py \
	  --ignore=tf_proxquant/litert/__main__.py

# The reference of the public names, docs/api.md.
docs: .venv/installed
	PYTHONPATH=. $(BIN)/python docs/api.py

# Exported files on AArch64, under an emulator that is set up in .arm; Debian 12 only.
test-arm: .venv/installed
	$(BIN)/python -m tests.arm.run

# The demo page in headless Chromium: an installed one, or Debian's, unpacked in .browser.
test-demo: .venv/installed
	$(BIN)/python -m tests.web.run $(ARGS)

# Every benchmark at toy size; one of them: make toy-benchmarks ARGS=zoo.
toy-benchmarks: .venv/installed
	$(BIN)/python -m benchmarks.toys $(ARGS)

# The main job keeps its promises.
test-train: .venv/installed
	.ci/train

# The package builds, and tests of each floor pass on the installed wheel.
test-wheel: .venv/installed
	.ci/wheel

# Environments of their own beside it; that of PyTorch is made above.
.venv-micro/installed .venv-mutants/installed .venv-oldest/installed .venv-readers/installed: \
    .venv-%/installed: requirements-%.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

clean:
	rm -rf .arm .browser .runtimes .venv .venv-micro .venv-mutants .venv-oldest .venv-readers .venv-torch .web \
	  build dist mutants *.egg-info runs
