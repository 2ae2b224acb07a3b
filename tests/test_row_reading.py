"""Rows by their numbers: what `datasets` gives, from its own data."""

import numpy as np
import pytest
from datasets import concatenate_datasets

from modeling_mmwfm.data_collator_mmwfm import load_splits
from modeling_mmwfm.row_reading_mmwfm import RowReader
from tests.small_sets import image_rows, tone_rows


def assert_same(rows, index):
    expected, found = rows[index], RowReader(rows)[index]
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == values.dtype and found[name].shape == values.shape, name
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize("make_rows", [tone_rows, image_rows])
@pytest.mark.parametrize("keep_in_memory", [False, True])
def test_rows_are_those_of_the_data_set_in_file_and_memory(tmp_path, make_rows, keep_in_memory):
    for number in range(2):
        make_rows(9, "train", number).to_parquet(tmp_path / f"train-0000{number}-of-00002.parquet", batch_size=4)
    rows = load_splits(str(tmp_path), keep_in_memory=keep_in_memory, cache_dir=str(tmp_path / "cache"))["train"]
    joined = concatenate_datasets([rows, make_rows(5, "train", 2).select_columns(rows.column_names)])
    assert joined.data.column(0).num_chunks > 1
    for index in ([0, 3, 8, 9, 10, 17, 18, 22], [17], [18, 19], list(range(23))):
        assert_same(joined.with_format("numpy"), np.array(index))


def test_arrays_are_read_from_the_data_itself_and_given_as_a_copy():
    rows = tone_rows(6, "train", 0)
    reader = RowReader(rows)
    assert "iq" in reader.arrays and "iq" not in reader.others.column_names
    reader[np.array([1, 4])]["iq"][:] = 0
    np.testing.assert_array_equal(reader[np.array([1, 4])]["iq"], rows[[1, 4]]["iq"])


def test_selected_and_shuffled_rows_are_read_by_datasets():
    rows = tone_rows(12, "train", 0)
    for other in (rows.select([9, 2, 5, 7]), rows.shuffle(seed=1)):
        assert RowReader(other).arrays == []
        assert_same(other, np.array([0, 2, 3]))
    assert_same(rows.select(range(3, 9)), np.array([0, 2, 5]))  # a slice of the Arrow data
    assert_same(rows.select_columns(["iq"]), np.array([0, 2, 5]))
