"""What the examples of sentence-transformers train: made-up requests, and a small transformer for them."""

from __future__ import annotations

import itertools
import random
import tempfile

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from fastdml.retrieval import evaluate

# what can be asked for, each in three wordings; and what says nothing about the meaning
ACTIONS = "book reserve arrange, cancel revoke drop, pay settle cover, move shift postpone"
THINGS = "room suite chamber, flight plane jet, meal dinner supper, car taxi cab, bill invoice receipt, "
THINGS += "ticket pass permit, parcel package box, form sheet page"
OPENINGS = "please, could you, hey, kindly, i want to, can somebody, we have to, time to, just, do"
PEOPLE = "anna, my boss, the team, our guests, mister brown, both of us, a client, her sister, everyone, me"
TIMES = "today, on monday, next week, at noon, before lunch, in june, right away, tomorrow, by four, soon"


def make_sentences(test: bool, each: int = 32) -> tuple[list[str], Tensor]:
    """Requests and their classes: an action on a thing. A quarter of the 32 classes is for testing alone."""
    draw, texts, labels = random.Random(int(test)), [], []
    split = (words.split(", ") for words in (ACTIONS, THINGS, OPENINGS, PEOPLE, TIMES))
    actions, things, openings, people, times = split
    for (a, action), (t, thing) in itertools.product(enumerate(actions), enumerate(things)):
        if ((a + t) % 4 == 0) == test:
            for _ in range(each):
                request = f"{draw.choice(action.split())} the {draw.choice(thing.split())}"
                rest = f"for {draw.choice(people)} {draw.choice(times)}"
                texts.append(f"{draw.choice(openings)} {request} {rest}")
                labels.append(len(things) * a + t)
    return texts, torch.tensor(labels)


def make_model(texts: list[str]) -> SentenceTransformer:
    """Two layers of BERT with random weights, over the words of the texts; nothing is downloaded."""
    words = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=["[PAD]", "[UNK]"]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
    )
    with tempfile.TemporaryDirectory() as folder:
        BertModel(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        transformer = Transformer(folder, max_seq_length=32)
    return SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension())])


def recall_at_1(model: SentenceTransformer, texts: list[str], labels: Tensor) -> float:
    """The share of texts whose nearest other one means the same."""
    return evaluate(model.encode(texts, convert_to_tensor=True).cpu(), labels, ks=(1,)).recall[1]
