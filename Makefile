# `make demo` shows what the released model is worth, `make test` runs the test suite; both set up .venv themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install test demo cards release adapters release-code style clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m "not slow"

# --- make demo: the released model on the recordings in examples/ and a simulated task; what exists is not made again ---
RELEASED := model_cards/mmwfm-small
PY := $(BIN)/python

demo: runs/demo/report.html
	@echo "Open runs/demo/report.html"

runs/demo/report.html: | $(STAMP)
	HF_HUB_OFFLINE=1 $(PY) training_scripts/demo.py --output_dir $(@D)

# --- make cards: simulate every set at its own size and write its card, with one labelled example per class ---
CARDS := pretrain-iq pretrain-narrowband pretrain-spectrogram pretrain-csi rfp interference has rfs pos-indoor pos-outdoor

cards: $(STAMP)
	set -e; for set in $(CARDS); do \
		$(PY) -m processing.simulate $$set --num_proc 2 --output runs/cards/$$set; \
		$(PY) -m processing.dataset_card runs/cards/$$set --output model_cards/datasets/$$set; \
	done

# --- make release: model_cards/mmwfm-small and its adapters, from nothing; about two hours on two cores ---
ADAPTERS := rfp interference has rfs pos-indoor pos-outdoor
.SECONDARY:
SAMPLES_rfp := 4800
SAMPLES_rfs := 1600
SAMPLES_interference := 2400
SAMPLES_has := 1600
SAMPLES_pos-indoor := 1600
SAMPLES_pos-outdoor := 1600

release: $(STAMP)
	$(PY) training_scripts/pretrain.py configuration/recipes/pretrain-small-transfer.yaml --output_dir runs/small
	$(PY) training_scripts/release.py --model runs/small --output_dir $(RELEASED)
	$(MAKE) adapters

adapters: $(foreach task,$(ADAPTERS),model_cards/adapters/$(task)/test_results.json)

# Released folders carry the model's code; this brings it up to date.
release-code:
	set -e; for file in $(RELEASED)/*.py model_cards/adapters/*/*.py; do cp modeling_mmwfm/$$(basename $$file) $$file; done

runs/adapters/data/%/generation.json: | $(STAMP)
	$(PY) -m processing.simulate $* --samples $(SAMPLES_$*) --num_proc 2 --output $(@D)

model_cards/adapters/%/test_results.json: runs/adapters/data/%/generation.json
	$(PY) training_scripts/finetune.py configuration/tasks/adapter.yaml --model $(RELEASED) --dataset runs/adapters/data/$* \
		--output_dir $(@D)

style: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf runs
