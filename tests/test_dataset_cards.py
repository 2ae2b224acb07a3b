"""Cards of data sets: complete, parseable, and true about the commands that they show."""

import importlib
import json
import re
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard

from processing.dataset_card import write_card
from processing.simulate import TASKS, simulate

CARDS = sorted((Path(__file__).parents[1] / "model_cards" / "datasets").glob("*/README.md"))


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.parent.name)
def test_card_is_complete_and_its_command_exists(path, capsys):
    card = DatasetCard.load(path)
    assert card.data.license and card.data.pretty_name and "wireless" in card.data.tags
    simulated = "simulated" in card.data.tags
    wanted = ["Make it", "Columns and units", "Splits"]
    wanted += ["Simulation parameters"] if simulated else ["Source", "Known leaks of the usual protocol"]
    for section in wanted:
        text = re.search(rf"^## {section}\n+(.+?)(?=^## |\Z)", card.text, flags=re.M | re.S)
        assert text and len(text[1].strip()) > 10, section
    module, arguments = re.search(r"^python -m (processing\.\w+) (.*)$", card.text, flags=re.M).groups()
    main = importlib.import_module(module).main
    with pytest.raises(SystemExit):
        main(["--help"])
    known = set(re.findall(r"--\w+", capsys.readouterr().out))
    assert set(re.findall(r"--\w+", arguments)) <= known
    if simulated:
        assert arguments.split()[0] in TASKS
    for image in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", card.text):
        assert (path.parent / image).is_file()


def test_every_simulated_task_has_a_card():
    assert set(TASKS) <= {path.parent.name for path in CARDS}


def test_a_written_card_tells_rows_groups_parameters_and_baselines(tmp_path):
    folder = simulate("rfp", tmp_path / "rfp", samples=64, seed=1)
    text = write_card(folder, tmp_path / "card").read_text()
    assert "| test | 12 | 8 |" in text and "bes, browning, honors, meb" in text
    results = json.loads((tmp_path / "card" / "baselines.json").read_text())
    shown = results["grouped"]["linear on hand features"]["mean_class_accuracy"]
    assert f"| linear on hand features | {shown:.3f} |" in text
    with pytest.raises(ValueError, match="expected a folder made by processing.simulate"):
        write_card(tmp_path, tmp_path / "other")
