"""The official layouts, written as tiny trees and read back; what is missing, wrong or no data set at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from data import trees
from data.trees import WRITERS, assert_well_formed, names, rows, tree

from fastdml.data import glyphs
from fastdml.data.layouts import LAYOUTS, find_layout, load_dataset
from fastdml.errors import InputError


@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_is_recognised_in_its_folder_and_the_one_above(tmp_path: Path, layout: str) -> None:
    root = tree(tmp_path / "all", layout)
    assert find_layout(root) == (LAYOUTS[layout], root)
    if layout != "folders":
        assert find_layout(root.parent) == (LAYOUTS[layout], root)
    assert find_layout(str(root), layout) == (LAYOUTS[layout], root)
    dataset = load_dataset(root, size=(6, 8))
    assert dataset.layout == layout
    assert_well_formed(dataset)


def test_online_products_keep_their_split_and_super_classes(tmp_path: Path) -> None:
    root = tree(tmp_path, "sop")
    dataset = load_dataset(root, size=(6, 8))
    assert rows(dataset.train, root) == [
        ("toaster_final/11101_0.JPG", 0),
        ("toaster_final/11101_1.JPG", 0),
        ("bicycle_final/11102_0.JPG", 1),
        ("bicycle_final/11102_1.JPG", 1),
    ]
    assert names(dataset.test) == ["11319"] * 3 + ["11320"] * 3
    assert bool((dataset.test.is_query & dataset.test.is_gallery).all())
    for split, expected in ((dataset.train, [1, 1, 0, 0]), (dataset.test, [1, 1, 1, 0, 0, 0])):
        assert split.domains is not None
        assert split.domains.tolist() == expected
        assert split.domain_names == ("bicycle", "toaster")
    assert dataset.ks == (1, 10, 100, 1000)
    assert dataset.notes == (
        "train has 4 images of 2 classes, published are 59,551 images of 11,318 classes: "
        "59,547 images missing, 11,316 classes missing",
        "test has 6 images of 2 classes, published are 60,502 images of 11,316 classes: "
        "60,496 images missing, 11,314 classes missing",
    )


def test_birds_are_divided_by_class_and_not_by_the_other_file(tmp_path: Path) -> None:
    root = tree(tmp_path, "cub")
    dataset = load_dataset(root, size=(6, 8))
    assert names(dataset.train) == ["001.Some_Bird_1"] * 2 + ["100.Some_Bird_100"] * 2
    assert names(dataset.test) == ["101.Some_Bird_101"] * 2 + ["200.Some_Bird_200"] * 2
    grey = dataset.train.images[torch.tensor([0])]
    assert torch.equal(grey[:, 0], grey[:, 2])


@pytest.mark.parametrize(
    ("write", "train", "test"),
    [
        (
            trees.write_cars_original,
            ["car_ims/000002.jpg", "car_ims/000003.jpg", "car_ims/000004.jpg"],
            ["car_ims/000001.jpg", "car_ims/000005.jpg", "car_ims/000006.jpg"],
        ),
        (
            trees.write_cars_devkit,
            ["cars_train/00002.jpg", "cars_train/00003.jpg", "cars_test/00001.jpg"],
            ["cars_train/00001.jpg", "cars_test/00002.jpg", "cars_test/00003.jpg"],
        ),
        (
            trees.write_cars_csv,
            [
                "car_data/car_data/train/Maker Model 98 2012/00002.jpg",
                "car_data/car_data/train/Maker Model 1 2012/00003.jpg",
                "car_data/car_data/test/Maker Model 1 2012/00001.jpg",
            ],
            [
                "car_data/car_data/train/Ram C-V Cargo Van 2012/00001.jpg",
                "car_data/car_data/test/Maker Model 196 2012/00002.jpg",
                "car_data/car_data/test/Ram C-V Cargo Van 2012/00003.jpg",
            ],
        ),
    ],
)
def test_cars_in_their_three_forms_are_divided_by_class(
    tmp_path: Path, write: Callable[[Path], None], train: list[str], test: list[str]
) -> None:
    tmp_path = tmp_path / "cars"
    tmp_path.mkdir()
    write(tmp_path)
    dataset = load_dataset(tmp_path, size=(6, 8))
    assert sorted(path for path, _ in rows(dataset.train, tmp_path)) == sorted(train)
    assert sorted(path for path, _ in rows(dataset.test, tmp_path)) == sorted(test)
    assert dataset.train.class_names == (
        "Maker Model 1 2012",
        "Maker Model 98 2012",
        "Ram C/V Cargo Van 2012",
        "Maker Model 196 2012",
    )
    assert_well_formed(dataset)
    colours = {number: trees.colour(number) for number in (1, 98, 99, 196)}
    for split in (dataset.train, dataset.test):
        pixels = split.images[torch.arange(len(split))][:, :, 3, 4].int()
        for name, pixel in zip(names(split), pixels, strict=True):
            number = 99 if "C/V" in name else int(name.split()[2])
            assert int((pixel - torch.tensor(colours[number])).abs().max()) <= 6


def test_cars_need_the_test_file_with_classes(tmp_path: Path) -> None:
    trees.write_cars_devkit(tmp_path, labelled_in=".")  # beside the devkit it does as well
    assert len(load_dataset(tmp_path).test) == 3
    (tmp_path / "cars_test_annos_withlabels.mat").rename(tmp_path / "devkit" / "cars_test_annos.mat")
    with pytest.raises(InputError, match=r"must hold cars_test_annos_withlabels\.mat"):
        load_dataset(tmp_path)


def test_damaged_matlab_files_are_named(tmp_path: Path) -> None:
    trees.write_cars_original(tmp_path)
    file = tmp_path / "cars_annos.mat"
    file.write_bytes(file.read_bytes()[:400])
    with pytest.raises(InputError, match=r"cars_annos\.mat must be a MATLAB file"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("lists", "images"), [("Eval", "Img/img"), ("Anno", "Img/img_highres"), (".", "img")]
)
def test_in_shop_searches_queries_in_the_gallery(tmp_path: Path, lists: str, images: str) -> None:
    trees.write_in_shop(tmp_path, lists, images)
    dataset = load_dataset(tmp_path, size=(6, 8))
    assert rows(dataset.train, tmp_path) == [
        (f"{images}/WOMEN/Dresses/id_00000001/02_1_front.jpg", 0),
        (f"{images}/WOMEN/Dresses/id_00000001/02_2_side.jpg", 0),
        (f"{images}/MEN/Denim/id_00000002/01_1_front.jpg", 1),
    ]
    assert dataset.test.is_query.tolist() == [True, False, False]
    assert dataset.test.is_gallery.tolist() == [False, True, True]
    assert dataset.test.labels.tolist() == [2, 2, 2]
    assert dataset.train.domains is not None
    assert [dataset.train.domain_names[i] for i in dataset.train.domains.tolist()] == [
        "WOMEN/Dresses",
        "WOMEN/Dresses",
        "MEN/Denim",
    ]
    assert [note.split()[0] for note in dataset.notes] == ["train", "query", "gallery"]


def test_in_shop_says_when_lines_are_missing(tmp_path: Path) -> None:
    trees.write_in_shop(tmp_path)
    file = tmp_path / "Eval/list_eval_partition.txt"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:-1]))
    assert "list_eval_partition.txt says 6 images and lists 5" in load_dataset(tmp_path).notes
    file.write_text("\n".join([*lines, "img/WOMEN/a.jpg id_00000009 val"]))
    with pytest.raises(InputError, match=r"line 9: must be 'image_name item_id train\|query\|gallery'"):
        load_dataset(tmp_path)


def test_market_leaves_junk_out_and_keeps_distractors(tmp_path: Path) -> None:
    root = tree(tmp_path, "market")
    dataset = load_dataset(root, size=(6, 8))
    assert names(dataset.train) == ["0002", "0002", "0007"]
    assert dataset.train.cameras is not None
    assert dataset.train.cameras.tolist() == [1, 2, 3]
    test = dataset.test
    assert [path for path, _ in rows(test, root)] == [
        "query/0003_c1s1_000901_00.jpg",
        "bounding_box_test/0000_c2s1_000151_01.jpg",
        "bounding_box_test/0000_c6s3_000151_02.jpg",
        "bounding_box_test/0003_c1s1_000951_02.jpg",
        "bounding_box_test/0003_c4s6_015641_01.jpg",
    ]
    assert names(test) == ["0003", "0000", "0000", "0003", "0003"]
    assert test.is_query.tolist() == [True, False, False, False, False]
    assert test.is_gallery.tolist() == [False, True, True, True, True]
    assert test.cameras is not None
    assert test.cameras.tolist() == [1, 2, 6, 1, 4]
    assert "-1" not in test.class_names


@pytest.mark.parametrize("layout", ["sop", "cub", "cars", "in-shop"])
def test_missing_images_stop_or_are_left_out(tmp_path: Path, layout: str) -> None:
    root = tree(tmp_path, layout)
    whole = load_dataset(root, size=(6, 8))
    gone, kept = rows(whole.train, root)[0][0], [path for path, _ in rows(whole.train, root)[1:]]
    (root / gone).unlink()
    listed = len(whole.train) + len(whole.test)
    message = f"1 of {listed} listed images are not there: {gone}"
    with pytest.raises(InputError, match=message):
        load_dataset(root)
    dataset = load_dataset(root, size=(6, 8), on_error="skip")
    assert dataset.notes == (*whole.notes, message)
    assert [path for path, _ in rows(dataset.train, root)] == kept
    assert_well_formed(dataset)


def test_a_class_without_images_leaves_no_gap(tmp_path: Path) -> None:
    root = tree(tmp_path, "cub")
    shutil.rmtree(root / "images" / "001.Some_Bird_1")
    dataset = load_dataset(root, size=(6, 8), on_error="skip")
    assert dataset.train.class_names == ("100.Some_Bird_100", "101.Some_Bird_101", "200.Some_Bird_200")
    assert_well_formed(dataset)
    shutil.rmtree(root / "images")
    (root / "images").mkdir()
    with pytest.raises(InputError, match="8 of 8 listed images are not there"):
        load_dataset(root, on_error="skip")


def test_unreadable_images_are_skipped_or_fatal_as_asked(tmp_path: Path) -> None:
    root = tree(tmp_path, "cub")
    path = root / rows(load_dataset(root).train, root)[1][0]
    path.write_bytes(path.read_bytes()[:-30])
    everything = torch.arange(4)
    with pytest.raises(InputError, match=f"{path.name} cannot be read as an image: .*[Tt]runcated"):
        load_dataset(root, size=(6, 8)).train.batch(everything)
    images = load_dataset(root, size=(6, 8), on_error="skip").train.images[everything]
    assert [bool(image.any()) for image in images] == [True, False, True, True]


@pytest.mark.parametrize(
    ("layout", "file", "line", "message"),
    [
        ("sop", "Ebay_train.txt", "5 1 1", r"Ebay_train.txt, line 6: must be 'image_id class_id"),
        ("cub", "images.txt", "99 001.Some_Bird_1/x.jpg", "line 9: image '99' is not in the table of images"),
        ("cub", "images.txt", "nonsense", "line 9: must be a number, a space and a value, got 'nonsense'"),
        ("cub", "image_class_labels.txt", "1 one", "line 1: class must be a whole number, got 'one'"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, layout: str, file: str, line: str, message: str) -> None:
    root = tree(tmp_path, layout)
    with (root / file).open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(InputError, match=message):
        load_dataset(root)


def test_made_glyphs_are_a_layout(tmp_path: Path) -> None:
    root = tmp_path / "my glyphs"
    built_in = Path(glyphs.__file__).parent
    root.mkdir()
    for name in ("glyphs.json", "train.npz", "test.npz"):
        shutil.copy(built_in / name, root / name)
    dataset = load_dataset(tmp_path)
    assert (dataset.name, dataset.layout, dataset.notes) == ("my glyphs", "glyphs", ())
    for split, part in ((dataset.train, "train"), (dataset.test, "test")):
        assert split.name == f"my glyphs/{part}"
        assert torch.equal(split.labels, glyphs.load(part).labels)


def test_what_is_no_data_set_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere does not exist"):
        load_dataset(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"Looked for: Ebay_train.txt .*\(folders\)\. The folder is empty"):
        load_dataset(tmp_path)
    (tmp_path / "CUB.tgz").write_bytes(b"")
    with pytest.raises(InputError, match=r"unpack it first: fastdml data unpack CUB.tgz --out"):
        load_dataset(tmp_path / "CUB.tgz")
    with pytest.raises(InputError, match=r"Found 1 entries: CUB\.tgz"):
        load_dataset(tmp_path)
    with pytest.raises(InputError, match=r"layout must be one of auto, sop, .*; near it: market"):
        load_dataset(tmp_path, "markt")


def test_another_layout_than_asked_for_is_refused(tmp_path: Path) -> None:
    root = tree(tmp_path, "cub")
    with pytest.raises(InputError, match=r"Looked for: Ebay_train.txt and Ebay_test.txt \(sop\)\. Found 5"):
        load_dataset(root, "sop")
    assert load_dataset(root / "images", "folders").layout == "folders"


def test_an_incomplete_copy_does_not_pass_for_class_folders(tmp_path: Path) -> None:
    root = tree(tmp_path, "market")
    shutil.rmtree(root / "query")
    with pytest.raises(InputError, match="incomplete copy of Market-1501"):
        load_dataset(root)
    assert load_dataset(root, "folders").train.class_names == ("bounding_box_test", "bounding_box_train")


def test_several_data_sets_in_a_folder_are_not_guessed_at(tmp_path: Path) -> None:
    for layout in ("cub", "sop"):
        tree(tmp_path, layout)
    with pytest.raises(InputError, match=r"holds several: a cub tree \(cub\), a sop tree \(sop\)"):
        load_dataset(tmp_path)
    assert load_dataset(tmp_path, "sop").layout == "sop"
