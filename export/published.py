"""What others have published about the official checkpoints: vectors, token ids, hashes, scores.

From the tests of fastembed (``tests/test_text_onnx_embeddings.py``, ``tests/test_text_cross_encoder.py``), of
text-embeddings-inference (``backends/candle/tests``; its GELU is the tanh approximation, so that its vectors are
compared by cosine), of transformers.js (``packages/transformers/tests/models``) and of transformers' jina_bert branch
(``tests/models/jina_bert``); from llama.cpp (``convert_hf_to_gguf.py``: SHA-256 of a text's token ids) and mobius
(``_tokenizer_evidence.py``: hashes of base-code's tokenizer and files); from a project that pins turbo's files.
No hash of official weights has been found, so that ``weights`` is empty everywhere: a file's SHA-256, which the hub
shows, can be put there.
"""

from __future__ import annotations

from export.gates import (
    Digits,
    Direction,
    Gate,
    HiddenStates,
    IdHash,
    Ids,
    Official,
    PairCosine,
    Scores,
    TokenizerHash,
)

__all__ = ["OFFICIAL"]

FASTEMBED, TEI, LLAMA = "fastembed", "text-embeddings-inference", "llama.cpp"
BRANCH, JS, MOBIUS = "transformers' jina_bert branch", "transformers.js", "mobius"
WHAT, IS = "What is Deep Learning?", "Deep Learning is..."
LLAMA_TEXT = (
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n\U0001f680 (normal) \U0001f636\u200d\U0001f32b\ufe0f "
    "(multiple emojis concatenated) \u2705 \U0001f999\U0001f999 3 33 333 3333 33333 333333 3333333 33333333 "
    "3.3 3..3 3...3 \u1780\u17b6\u1793\u17cb\u178f\u17c2\u1796\u17b7\u179f\u17c1\u179f\u17a2\u17b6\u1785"
    "\U0001f601 ?\u6211\u60f3\u5728apple\u5de5\u4f5c1314151\u5929\uff5e ------======= "
    "\u043d\u0435\u0449\u043e \u043d\u0430 \u0411\u044a\u043b\u0433\u0430\u0440\u0441\u043a\u0438 "
    "''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he's there, 'RE you sure? 'M not sure I'll make it, "
    "'D you like some tea? We'Ve a'lL"
)


def hello(*values: float) -> Gate:
    """The first components of fastembed's vector of "hello world", of length 1."""
    return Digits(FASTEMBED, "hello world", values, 1e-3)


def llama(digest: str) -> Gate:
    """The hash of the token ids of llama.cpp's text."""
    return IdHash(LLAMA, LLAMA_TEXT, digest)


ZH_TOKENIZER: tuple[Gate, ...] = (
    llama("c7699093ba4255a91e702aa38a596aa81669f3525dae06c2953267dde580f448"),
    Ids(JS, "How are you doing?", (0, 21431, 21182, 21166, 22540, 61, 2)),
    Ids(JS, "1\x002\ufffd3", (0, 47, 5, 48, 20321, 49, 2)),
    Ids(JS, " \tH\xe4LLo!how  \n Are yoU?  ", (0, 76, 168, 48932, 31, 21431, 21182, 21166, 61, 2)),
    Ids(LLAMA, "\u4f60\u597d", (0, 49226, 2)),
)
T5_TOKENIZER: tuple[Gate, ...] = (
    Ids(JS, "How are you doing?", (571, 33, 25, 692, 58, 1)),
    Ids(JS, "weird \uff5e edge \uff5e case", (10088, 3, 2, 3023, 3, 2, 495, 1)),
    Ids(JS, "trailing space   ", (5032, 53, 628, 1)),
    Ids(JS, "Hey </s>. how are you", (9459, 1, 3, 5, 149, 33, 25, 1)),
)
CAPITAL = "What is the capital of France?"
CAPITALS = ("Paris is the capital of France.", "Berlin is the capital of Germany.")
PLAIN = "jinabert"

OFFICIAL = {
    "jinaai/jina-embeddings-v2-small-en": Official(
        (PLAIN, 4, 512, 30528),
        (
            hello(-0.0455, -0.0428, -0.0122, 0.0613, 0.0015),
            Direction(TEI, WHAT, (-0.071772, -0.033150, -0.006980, 0.010570, 0.013847), (), 10.2631),
            Direction(TEI, IS, (-0.058591, -0.051307, 0.012952, 0.031533, 0.011056), (), 10.68183),
            PairCosine(TEI, (WHAT, IS), 0.957946, 1e-3),
        ),
    ),
    "jinaai/jina-embeddings-v2-base-en": Official(
        (PLAIN, 12, 768, 30528),
        (
            hello(-0.0332, -0.0509, 0.0287, -0.0043, -0.0077),
            llama("0876d13b50744004aa9aeae05e7b0647eac9d801b5ba4668afc01e709c15e19f"),
        ),
    ),
    "jinaai/jina-embeddings-v2-base-de": Official(
        (PLAIN, 12, 768, 61056),
        (
            hello(-0.0085, 0.0417, 0.0342, 0.0309, -0.0149),
            llama("27949a2493fc4a9f53f5b9b029c82689cfbe5d3a1929bb25e043089e28466de6"),
            Ids(JS, "How are you doing?", (0, 3267, 459, 426, 3174, 35, 2)),
            Ids(JS, "Hi  Hello", (0, 10103, 225, 29546, 2)),
        ),
    ),
    "jinaai/jina-embeddings-v2-base-es": Official(
        ("jinabert-qk-devlin-norm", 12, 768, 61056),
        (
            hello(-0.0108, -0.0092, -0.0373, 0.0171, -0.0301),
            llama("171aeeedd6fb548d418a7461d053f11b6f1f1fc9b387bd66640d28a4b9f5c643"),
        ),
    ),
    "jinaai/jina-embeddings-v2-base-zh": Official(
        (PLAIN, 12, 768, 61056),
        (hello(0.0381, 0.0286, -0.0231, 0.0052, -0.0151), *ZH_TOKENIZER),
    ),
    "jinaai/jina-embeddings-v2-base-code": Official(
        files=(  # config.json, tokenizer.json, tokenizer_config.json
            "e426aa684c7f9a95c5f020aa855faf93a24f065f5fad0c9e17b124670cabdea6",
            "b01c78a902aa4facb2f47f95449f48e2f7bbfea5d2472ee2f6ce92323c6f86e5",
            "f477aeb15ff9f78d3c1ddf2361d2b0b8b20cf55220f839f29a37f3a18efddd89",
        ),
        shape=("jinabert-qk-post-norm", 12, 768, 61056),
        gates=(
            hello(0.0145, -0.0164, 0.0136, -0.0170, 0.0734),
            llama("7967bfa498ade6b757b064f31e964dddbb80f8f9a4d68d4ba7998fcf281c531a"),
            Ids(JS, "hello world", (0, 9522, 7550, 2)),
            Ids(MOBIUS, "  spaced  text\n", (0, 225, 4113, 72, 225, 1460, 203, 2)),
            TokenizerHash(
                MOBIUS,
                "5a8d8f6a0dad37e10cb27a75ece22d44e96259419bdfe8f4e334a676483d9f78",
                "3c0cca5349df26b361d55c0498b4a46fb52a92a05e185754cf709b8de160c5da",
            ),
            Direction(
                TEI,
                WHAT,
                (-0.151091, -0.021904, -0.083915, -0.128804, 0.357957, 0.296490, -0.770026, -0.623209),
                (0.013236, -0.963328, 0.569677, -0.134566, -0.117322, 0.342156, 0.699170, 0.125866),
                13.012288,
            ),
            Direction(
                TEI,
                IS,
                (-0.077861, -0.453574, -0.045069, 0.457300, 0.136526, 0.486430, -0.712635, -0.457846),
                (-0.073343, -0.646926, 0.495473, 0.263931, -0.030149, 0.464933, 0.711937, 0.129135),
                12.960930,
            ),
            PairCosine(TEI, (WHAT, IS), 0.876239, 1e-3),
            HiddenStates(
                BRANCH,
                (0, 345, 232, 328, 740, 140, 1695, 69, 6078, 1588, 2),
                (0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1),
                1,
                ((0.2854, 0.7062, 0.1720), (0.3288, 0.6177, 0.3865), (0.2126, 0.2910, 0.5779)),
                1e-3,
            ),
            Digits(
                BRANCH,
                "How do I access the index while iterating over a sequence with a for loop?",
                (-0.257177, -1.175581, 0.398105),
                1e-3,
                first=1,
                unit=False,
            ),
            Digits(
                BRANCH,
                "# Use the built-in enumerator\nfor idx, x in enumerate(xs):\n    print(idx, x)",
                (-0.341458, -0.333318, -0.086880),
                1e-3,
                first=1,
                unit=False,
            ),
        ),
    ),
    "jinaai/jina-embedding-s-en-v1": Official(("t5", 6, 512, 32128), T5_TOKENIZER),
    "jinaai/jina-embedding-b-en-v1": Official(("t5", 12, 768, 32128), T5_TOKENIZER),
    "jinaai/jina-embedding-l-en-v1": Official(("t5", 24, 1024, 32128), T5_TOKENIZER),
    "jinaai/jina-reranker-v1-tiny-en": Official(
        (PLAIN, 4, 384, 61056),
        (*ZH_TOKENIZER, Scores(FASTEMBED, CAPITAL, CAPITALS, (2.5911, 0.1122), 1e-3)),
    ),
    "jinaai/jina-reranker-v1-turbo-en": Official(
        files=(  # config.json, tokenizer.json, tokenizer_config.json
            "e050ff6a15ae9295e84882fa0e98051bd8754856cd5201395ebf00ce9f2d609b",
            "0046da43cc8c424b317f56b092b0512aaaa65c4f925d2f16af9d9eeb4d0ef902",
            "d291c6652d96d56ffdbcf1ea19d9bae5ed79003f7648c627e725a619227ce8fa",
        ),
        shape=(PLAIN, 6, 384, 61056),
        gates=(*ZH_TOKENIZER, Scores(FASTEMBED, CAPITAL, CAPITALS, (1.8295, -2.8908), 1e-3)),
    ),
}
