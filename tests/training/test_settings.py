"""Settings from files, options and words: what wins, what is refused, and the way back to text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fastdml.training.catalogue import LOSSES, find_loss
from fastdml.training.config import ConfigError, TrainConfig
from fastdml.training.settings import (
    find_settings,
    merge_settings,
    parse_assignments,
    read_toml,
    recipe_paths,
    tomllib,
)
from fastdml.training.settings_text import command_of, to_toml

OTHER = TrainConfig(
    data='pictures of "mine" \\ now',
    layout="folders",
    image_size="256x128",
    workers=3,
    loss="contrastive-mined",
    loss_options={"neg_margin": 1, "squared": True, "miner": {"pos_margin": 0.3}},
    memory=256,
    seconds=1.5,
    batch=64,
    chunk=16,
    samples_per_class=2,
    repeat_images=True,
    network="timm:resnet50",
    network_options={"odd key": "none", "sizes": [1, 2.5], "no value": None, "name": "3", "on": False},
    optimiser="sgd",
    learning_rate=1e-05,
    center_rate=100.0,
    augment=False,
    tensorboard=True,
    distill=True,
    seed=7,
)  # fmt: skip


@pytest.fixture
def file(tmp_path):
    """Write a TOML file: file("batch = 64") -> its path."""

    def write(text):
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_each_source_wins_over_the_one_before(file):
    path = file("batch = 64\nsteps = 10\nseed = 1\n[loss_options]\nalpha = 3\nbeta = 40\n")
    resumed = {**TrainConfig(embedding_dim=9, batch=32, steps=9, seed=9).to_dict()}
    given, words = {"steps": 20, "seed": 2}, ["seed=3", "loss_options.beta=41"]
    found = merge_settings(path, given, words, resumed)
    assert (found.embedding_dim, found.batch, found.steps, found.seed) == (9, 64, 20, 3)
    assert found.loss_options == {"alpha": 3, "beta": 41}
    assert merge_settings(path, given, words) == replace(found, embedding_dim=64)
    assert merge_settings() == TrainConfig()


def test_samples_of_a_class_are_the_losss_own_unless_somebody_says_otherwise(file):
    path = file("samples_per_class = 4")
    resumed = TrainConfig(samples_per_class=16).to_dict()
    assert find_loss("arcface").samples_per_class == 2
    assert merge_settings(given={"loss": "arcface"}).samples_per_class == 2
    assert merge_settings(path, {"loss": "arcface"}).samples_per_class == 4
    assert merge_settings(path, {"loss": "arcface"}, ["samples_per_class=8"]).samples_per_class == 8
    assert merge_settings(resumed=resumed).samples_per_class == 16


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["batch=256"], {"batch": 256}),
        (["learning_rate = 1e-4"], {"learning_rate": 1e-4}),
        (["schedule=step"], {"schedule": "step"}),
        (['schedule="step"'], {"schedule": "step"}),
        (["augment=false"], {"augment": False}),
        (["chunk=none"], {"chunk": None}),
        (["image_size=224", "data=2024-01-01"], {"image_size": "224", "data": "2024-01-01"}),
        (["network=timm:a=b"], {"network": "timm:a=b"}),
        (["loss_options.miner.epsilon=0.1"], {"loss_options": {"old": 1, "miner": {"epsilon": 0.1}}}),
        (["loss_options={alpha = 2}"], {"loss_options": {"alpha": 2}}),
        (["loss_options={}", "loss_options.x=a b"], {"loss_options": {"x": "a b"}}),
        (["network_options.sizes=[1, 2]"], {"network_options": {"sizes": [1, 2]}}),
        (["network_options.x=1\nbatch = 3"], {"network_options": {"x": "1\nbatch = 3"}}),
        (["batch=1", "batch=2"], {"batch": 2}),
    ],
)
def test_words_are_read_as_toml_and_else_as_text(words, expected):
    before = {"loss_options": {"old": 1}}
    assert parse_assignments(words, before) == {**before, **expected}
    assert before == {"loss_options": {"old": 1}}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("batch", "set must be key=value, as batch=256, got 'batch'"),
        ("lerning_rate=1", "set has settings that do not exist: 'lerning_rate' (near it: learning_rate)"),
        (
            "batch.size=1",
            "set can have a point after loss_options or network_options alone, got 'batch.size'",
        ),
        ("loss_options.a.b=1", "set needs a table before the last point, got 'loss_options.a.b' where a is"),
    ],
)
def test_words_that_set_nothing_are_refused(word, message):
    with pytest.raises(ConfigError) as error:
        parse_assignments([word], {"loss_options": {"a": 1}})
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps = 10\nbatch 64\n", "line 2"),
        ("lerning_rate = 0.1", "'lerning_rate' (near it: learning_rate)"),
        ("[lossoptions]\nalpha = 2", "'lossoptions' (near it: loss_options)"),
        ("batch = true", "batch must be a whole number, got True"),
        ("image_size = true", "image_size must be a text or absent, got True"),
        ('batch = "64"', "batch must be a whole number, got '64'"),
        ("loss_options = 3", "loss_options must be a table, got 3"),
        (
            "[loss_options]\nalhpa = 2",
            "loss_options of MultiSimilarityLoss must be among alpha, base, beta, ",
        ),
        ("loss = 3", "loss must be one of"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(file, text, message):
    path = file(text)
    with pytest.raises(ConfigError) as error:
        merge_settings(path)
    assert message in str(error.value)


def test_a_damaged_file_is_named_and_so_is_one_that_is_not_there(file, tmp_path):
    path = file("x")
    for content in (b"steps = ", b'data = "\xff"'):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"mine\.toml must be a TOML file of settings: "):
            read_toml(path)
    with pytest.raises(ConfigError, match="must be a TOML file of settings"):
        read_toml(tmp_path)
    with pytest.raises(ConfigError) as error:
        find_settings("cub-multi-similarty")
    assert "got 'cub-multi-similarty'; near it: cub-multi-similarity" in str(error.value)


def test_a_file_comes_before_a_recipe_of_its_name(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_settings("sop-large-batch") == recipe_paths()["sop-large-batch"]
    (tmp_path / "sop-large-batch").write_text("")
    assert str(find_settings("sop-large-batch")) == "sop-large-batch"
    assert read_toml(file("image_size = 224"))["image_size"] == "224"


@pytest.mark.parametrize("config", [TrainConfig(), OTHER], ids=["defaults", "all kinds of values"])
def test_toml_is_read_back_as_the_same_settings(file, config):
    text = to_toml(config)
    known = {name: value for name, value in config.to_dict().items() if value is not None}
    known["network_options"] = {k: v for k, v in config.network_options.items() if v is not None}
    assert tomllib.loads(text) == known
    again = merge_settings(file(text))
    assert again == replace(config, network_options=known["network_options"])


def test_the_command_names_what_differs():
    assert command_of(TrainConfig()) == "fastdml train --data glyphs --loss multi-similarity --seed 0"
    arcface = merge_settings(given={"loss": "arcface"})
    assert command_of(arcface).endswith("--loss arcface --seed 0")  # 2 samples a class are its own
    config = replace(arcface, samples_per_class=8, augment=False, loss_options={"scale": 64}, schedule="step")
    assert command_of(config) == (
        "fastdml train --data glyphs --loss arcface --set loss_options.scale=64 --samples-per-class 8 "
        "--set schedule=step --no-augment --seed 0"
    )


def test_every_setting_can_be_set_by_a_word():
    for name, value in OTHER.to_dict().items():
        if name not in ("loss_options", "network_options"):
            text = str(value).lower() if isinstance(value, bool) or value is None else str(value)
            assert parse_assignments([f"{name}={text}"]) == {name: value}


@pytest.mark.parametrize("name", recipe_paths())
def test_a_recipe_is_a_valid_run_of_a_loss_that_takes_its_options(name):
    config = merge_settings(name)
    data = name.removesuffix("-large-batch").removesuffix(f"-{config.loss}")
    layouts = {"cub": "cub", "cars": "cars", "sop": "sop", "in-shop": "in-shop", "market": "market"}
    layouts["glyphs-large"] = "glyphs"
    assert config.layout == next(layout for begin, layout in layouts.items() if data.startswith(begin))
    assert config.data.startswith("data/")
    find_loss(config.loss).make(4, 8, **config.loss_options)
    assert config.decay_every < config.steps or config.schedule != "step"
    assert config.warmup_steps < config.steps
    assert "measured" in recipe_paths()[name].read_text()


def test_there_is_a_recipe_of_every_loss():
    trained = {merge_settings(name).loss for name in recipe_paths()}
    assert sorted(set(LOSSES) - trained) == []


def test_there_is_a_recipe_of_each_data_set_and_of_batches_that_do_not_fit():
    names = set(recipe_paths())
    assert {"sop-large-batch", "glyphs-large", "market-triplet", "in-shop-multi-similarity"} <= names
    large = merge_settings("sop-large-batch")
    assert (large.batch, large.chunk, large.loss) == (16384, 256, "multi-similarity")
