"""Images and features of one's own: class folders, CSV tables, files of features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from data import trees
from data.trees import assert_well_formed, names, rows, tree
from safetensors.torch import save_file

from fastdml.data.layouts import load_dataset
from fastdml.errors import InputError


def test_class_folders_are_halved_by_name(tmp_path: Path) -> None:
    root = tree(tmp_path, "folders")
    dataset = load_dataset(root, size=(6, 8))
    assert rows(dataset.train, root) == [
        ("ant/shot 0.jpg", 0),
        ("ant/shot 1.JPG", 0),
        ("bee hive/shot 0.jpg", 1),
        ("bee hive/shot 1.JPG", 1),
    ]
    assert names(dataset.test) == ["cat", "cat"]
    assert dataset.notes == ()


def test_class_folders_may_be_divided(tmp_path: Path) -> None:
    trees.write_folders(tmp_path / "train", ("9", "10"))
    trees.write_folders(tmp_path / "test", ("2", "10"))
    dataset = load_dataset(tmp_path, size=(6, 8))
    assert dataset.train.class_names == ("9", "10", "2")
    assert dataset.train.labels.tolist() == [1, 1, 0, 0]
    assert dataset.test.labels.tolist() == [1, 1, 2, 2]
    assert dataset.notes == ("1 of the classes are both in train and in test: 10",)


def test_one_class_cannot_be_divided(tmp_path: Path) -> None:
    trees.write_folders(tmp_path, ("ant",))
    with pytest.raises(InputError, match=r"at least two classes to be divided, got \['ant'\]"):
        load_dataset(tmp_path)


def write_table(folder: Path, *lines: str) -> Path:
    for number, name in enumerate(("one.png", "two, three.png", "sub/four.png", "five.png")):
        trees.write_image(folder / name, trees.colour(number))
    path = folder / "my table.csv"
    path.write_text("\n".join(lines), encoding="utf-8-sig")
    return path


def test_a_table_says_everything(tmp_path: Path) -> None:
    path = write_table(
        tmp_path,
        "Label,path,split,query,gallery,camera,category",
        "b,one.png,train,,,3,x",
        'a,"two, three.png",TRAIN,1,yes,1,y',
        "c,sub/four.png,test,true,no,2,x",
        f"c,{tmp_path}/five.png,test,0,,5,x",
    )
    for given in (path, tmp_path):
        dataset = load_dataset(given, size=(6, 8))
        assert dataset.name == "my table"
        assert dataset.layout == "csv"
        assert_well_formed(dataset)
        assert rows(dataset.train, tmp_path) == [("one.png", 1), ("two, three.png", 0)]
        assert rows(dataset.test, tmp_path) == [("sub/four.png", 2), ("five.png", 2)]
        assert dataset.test.is_query.tolist() == [True, False]
        assert dataset.test.is_gallery.tolist() == [False, True]
        assert dataset.test.cameras is not None
        assert dataset.test.cameras.tolist() == [2, 5]
        assert dataset.train.domains is not None
        assert dataset.train.domains.tolist() == [0, 1]


def test_a_table_of_two_columns_is_halved(tmp_path: Path) -> None:
    path = write_table(
        tmp_path, "path,label,colour", "one.png,10,", "five.png,9,", "five.png,9,", "sub/four.png,100,"
    )
    dataset = load_dataset(path)
    assert names(dataset.train) == ["10", "9", "9"]
    assert dataset.train.class_names == ("9", "10", "100")
    assert dataset.train.cameras is None
    assert dataset.notes == (
        "my table.csv has columns that nothing reads: colour",
        "1 of the paths are listed more than once: five.png",
    )


@pytest.mark.parametrize(
    ("header", "line", "message"),
    [
        ("path,label", "one.png", r"my table\.csv, line 2: must have 2 cells as the header has, got 1"),
        ("path,label", "one.png,", "line 2: label must not be empty"),
        ("path,label,split", "one.png,a,val", "line 2: split must be train or test, got 'val'"),
        ("path,label,split", "one.png,a,", "line 2: split must be train or test, got ''"),
        ("path,label,query", "one.png,a,perhaps", "line 2: query must be one of 1, true, yes, 0, false, no"),
        ("path,label,camera", "one.png,a,c1", "line 2: camera must be a whole number, got 'c1'"),
        ("path,label", '"one.png,a', "line 2: must be comma-separated values"),
        ("path,label", "", "must hold images, its annotations list none"),
        ("path,lable", "one.png,a", "is no data set that is known"),
    ],
)
def test_wrong_tables_are_refused_by_line(tmp_path: Path, header: str, line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_dataset(write_table(tmp_path, header, line))


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_features_become_splits(tmp_path: Path, ending: str) -> None:
    features = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    columns = {
        "features": features.to(torch.float16),
        "labels": torch.tensor([30, 7, 7, 12, 30, 12], dtype=torch.int32),
        "split": torch.tensor([0, 1, 1, 0, 0, 0], dtype=torch.uint8),
        "query": torch.tensor([1, 1, 0, 1, 1, 1], dtype=torch.bool),
        "camera": torch.arange(6),
    }
    path = tmp_path / f"vectors.{ending}"
    if ending == "npz":
        np.savez(path, **{name: column.numpy() for name, column in columns.items()})
    else:
        save_file(columns, path)
    dataset = load_dataset(path)
    assert (dataset.layout, dataset.name) == ("features", "vectors")
    assert dataset.train.class_names == ("12", "30", "7")
    assert dataset.train.labels.tolist() == [1, 0, 1, 0]
    assert dataset.test.labels.tolist() == [2, 2]
    assert isinstance(dataset.train.images, torch.Tensor)
    assert torch.equal(dataset.train.images, features[[0, 3, 4, 5]].half().float())
    assert dataset.test.is_query.tolist() == [True, False]
    assert dataset.test.is_gallery.tolist() == [True, True]
    assert dataset.test.cameras is not None
    assert dataset.test.cameras.tolist() == [1, 2]


def test_features_without_a_split_are_halved_by_class(tmp_path: Path) -> None:
    path = tmp_path / "features.npz"
    np.savez(path, features=np.ones((4, 2), dtype=np.float32), labels=np.array([5, 2, 9, 2]))
    dataset = load_dataset(tmp_path)
    assert names(dataset.train) == ["5", "2", "2"]
    assert names(dataset.test) == ["9"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "must hold labels, got features"),
        ({"features": np.ones((2, 2, 2), np.float32)}, r"features must be floating point \[N, F\]"),
        (
            {"features": np.ones((2, 2), np.int64)},
            r"features must be floating point \[N, F\], got torch.int64",
        ),
        ({"features": np.array([[1.0, 2.0], [np.nan, 1.0]])}, "got 1 rows that are not, the first is 1"),
        ({"labels": np.array([0.0, 1.0])}, r"labels must be whole numbers \[2\], got torch.float64 \[2\]"),
        ({"labels": np.array([0, 1, 2])}, r"labels must be whole numbers \[2\], got torch.int64 \[3\]"),
        ({"split": np.array([0, 2])}, r"split must hold 0 and 1 alone, got \[0, 2\]"),
        ({"labels": np.array(["a", "b"])}, r"must be a whole \.npz file of number columns"),
        ({"labels": np.array([{}, {}], dtype=object)}, r"must be a whole \.npz file of number columns"),
    ],
)
def test_wrong_features_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    columns = {"features": np.ones((2, 2), np.float32), "labels": np.array([0, 1]), **changes}
    path = tmp_path / "a.npz"
    np.savez(path, **{name: column for name, column in columns.items() if column is not None})
    with pytest.raises(InputError, match=message):
        load_dataset(path)


def test_damaged_feature_files_are_named(tmp_path: Path) -> None:
    for name in ("a.npz", "a.safetensors"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 cut off")
        with pytest.raises(InputError, match=f"{name} must be a whole"):
            load_dataset(tmp_path / name)
