"""Figures show one example of every class."""

import pytest
from datasets import load_dataset

from processing.figures import choose_examples, main
from processing.simulate import simulate


@pytest.mark.parametrize(("task", "panels"), [("rfp", 4), ("pretrain-iq", None)])
def test_every_class_is_drawn_once(task, panels, tmp_path, capsys):
    folder = simulate(task, tmp_path / task, samples=24)
    examples = choose_examples(load_dataset(str(folder)))
    names = [name for name, _ in examples]
    assert len(set(names)) == len(names) == (panels or len(names)) > 3
    if task == "rfp":
        assert names == ["bes", "browning", "honors", "meb"]
    main([str(folder), "--output", str(tmp_path / "figures" / "examples.png")])
    assert (tmp_path / "figures" / "examples.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        main([str(folder), "--output", str(tmp_path / "no.png"), "--split", "holdout"])
    assert "expected split to be one of" in capsys.readouterr().err
