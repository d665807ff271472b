# What continuous integration runs, word for word. Every target makes its own virtual environment first.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# One thread per process: the package is measured on one thread, and two pools on two cores only fight.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.PHONY: setup demo test lint format bench train-tiny

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt setup.py $(shell find src -name "*.[ch]")
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is too old: Paceline needs Python 3.11 or newer; use make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[datasets,hf,onnx,report,tensorboard,dev]'
	@touch $@

demo: $(INSTALLED)
	$(ONE_THREAD) $(BIN)/paceline demo

test: $(INSTALLED)
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2

# Many hours on two cores, and every result file is written anew. main_job makes runs/main_job/outcomes, which learners,
# generalisation, unseen_configurations, reward_slide, decision_overhead and the second ppo_speed judge; the others make
# their own tables or need none. The decision_ ones time microseconds: leave the machine alone while they run.
# gpu_molmoe, gpu_features and gpu_training need a CUDA device: `python -m benchmarks.gpu_molmoe` and so on.
# real_tables needs data of others and is run by hand: `python -m benchmarks.real_tables DATA --seeds 3`, see its docstring for DATA.
bench: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench,hf,onnx]'
	$(ONE_THREAD) $(BIN)/python -m benchmarks.embedded_model
	$(ONE_THREAD) $(BIN)/python -m benchmarks.main_job
	$(ONE_THREAD) $(BIN)/python -m benchmarks.learners
	$(ONE_THREAD) $(BIN)/python -m benchmarks.generalisation
	$(ONE_THREAD) $(BIN)/python -m benchmarks.unseen_configurations
	$(ONE_THREAD) $(BIN)/python -m benchmarks.reward_slide
	$(ONE_THREAD) $(BIN)/python -m benchmarks.sampling_plans
	$(ONE_THREAD) $(BIN)/python -m benchmarks.inputs_ablation runs/inputs_ablation/outcomes
	$(ONE_THREAD) $(BIN)/python -m benchmarks.import_size
	$(ONE_THREAD) $(BIN)/python -m benchmarks.training_scale
	$(ONE_THREAD) $(BIN)/python -m benchmarks.ppo_speed
	$(ONE_THREAD) $(BIN)/python -m benchmarks.ppo_speed --outcomes runs/main_job/outcomes --name embedded_model
	$(ONE_THREAD) $(BIN)/python -m benchmarks.decision_overhead
	$(ONE_THREAD) $(BIN)/python -m benchmarks.decision_memory
	$(ONE_THREAD) $(BIN)/python -m benchmarks.end_to_end
	$(ONE_THREAD) $(BIN)/python -m benchmarks.moe_speed

# Hours on two cores; every stage goes on from its last checkpoint under runs/tiny.
train-tiny: $(INSTALLED)
	$(ONE_THREAD) $(BIN)/python -m training.vision_stage
	$(ONE_THREAD) $(BIN)/torchrun --nproc-per-node 2 -m training.language_stage
	$(ONE_THREAD) $(BIN)/torchrun --nproc-per-node 2 -m training.joint_stage
	$(ONE_THREAD) $(BIN)/torchrun --nproc-per-node 2 -m training.ladder_stage
	$(ONE_THREAD) $(BIN)/python -m training.export

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
