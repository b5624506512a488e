"""A small place to train in: two teachers, a corpus, evaluation text, recipes."""

import json
import lzma
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertModel

from tests.paths import ROOT

SPECIAL = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


WORDS = [f"w{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(120)]


VOCABULARY = [*SPECIAL, *WORDS, "w"]


SECRET = "waa wab wac wad wae waf wag wah wai waj"


RECIPE = """
hidden = 32
heads = 4
layers = [0, 1]
intermediate = 24
batch_tokens = 128
document_tokens = [48, 300]
long_every = 3
steps = 16
warmup_steps = 2
average = 0.5
{more}

[[noise_finetuning]]
steps = 20
noise = 0.1

[[noise_finetuning]]
steps = 8
noise = 0.2
words = 5

[[sources]]
file = "prose.txt"
prose = true

[[sources]]
file = "lines.txt.xz"
texts = 150
"""


def make_teacher(folder: Path, seed: int, width: int = 16) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=512,
        initializer_range=0.3,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    tokenizer = Tokenizer(
        models.WordPiece({token: i for i, token in enumerate(VOCABULARY)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 102), ("[CLS]", 101))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def make_evaluation(folder: Path) -> Path:
    (folder / "sts").mkdir(parents=True)
    (folder / "sts" / "a.tsv").write_text(f"3.0\t{SECRET}\twba wbb\n1.0\twca wcb wcc\twda wdb\n")
    retrieval = folder / "retrieval" / "r"
    retrieval.mkdir(parents=True)
    for name in ("corpus", "queries"):
        (retrieval / f"{name}.jsonl").write_text(
            json.dumps({"_id": "1", "text": "wea web wec wed wee"}) + "\n"
        )
    return folder


def make_place(folder: Path) -> Path:
    """Two teachers, a corpus with a text that must not be in it, evaluation text, recipes."""
    make_teacher(folder / "first", 1)
    make_teacher(folder / "second", 2, width=20)
    make_evaluation(folder / "evaluation")
    rng = np.random.default_rng(3)

    def text(low: int, high: int) -> str:
        return " ".join(rng.choice(WORDS, rng.integers(low, high)))

    (folder / "texts").mkdir()
    prose = [text(8, 40) for _ in range(40)]
    prose[7] = f"wzz {SECRET} wzz"
    (folder / "texts" / "prose.txt").write_text("\n".join(prose) + "\n")
    lines = [text(4, 12) for _ in range(300)]
    (folder / "texts" / "lines.txt.xz").write_bytes(lzma.compress("\n".join(lines).encode()))
    (folder / "one.toml").write_text(RECIPE.format(more=""))
    (folder / "two.toml").write_text(RECIPE.format(more="second_texts = 60"))
    return folder


def command(place: Path, output: Path, *more: str, recipe: str = "one.toml") -> list[str]:
    return [
        *(sys.executable, "-W", "error", "-m", "export.distill", str(place / "texts")),
        *("--teacher", str(place / "first"), "--recipe", str(place / recipe), "--output", str(output)),
        *("--threads", "1", *more),
    ]


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
