"""Who is measured at reranking, each in a process of its own (worker.py), on one checkpoint of a cross-encoder.

As the peers of peers.py, with a query and its documents instead of texts: encode([query, *documents]) gives their
scores [n, 1] in the order given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["RANKERS"]


class _Ranker:
    """What a worker asks besides."""

    about: dict[str, Any]

    def special(self, what: str, request: dict[str, Any]) -> dict[str, Any]:
        raise ValueError(f"no {what}")


class Ours(_Ranker):
    """A cross-encoder in this project's runtime."""

    def __init__(self, model: str, threads: int) -> None:
        from runtime.reranker import Reranker

        self.reranker = Reranker(model, threads=threads)
        self.about = {"onnxruntime": version("onnxruntime")}

    def encode(self, texts: Sequence[str]) -> Any:
        query, *documents = texts
        return self.reranker.score([(query, document) for document in documents])[:, None]


class LateInteraction(_Ranker):
    """`Embedder.rerank`: token vectors of an embedding model."""

    def __init__(self, model: str, threads: int) -> None:
        from runtime import Embedder

        self.embedder = Embedder(model, threads=threads)
        self.about = {"onnxruntime": version("onnxruntime")}

    def encode(self, texts: Sequence[str], spans: bool = True) -> Any:
        query, *documents = texts
        scores = np.empty((len(documents), 1), np.float32)
        for found in self.embedder.rerank(query, documents, spans=spans):
            scores[found.index] = found.score
        return scores


class FastEmbed(_Ranker):
    """fastembed's TextCrossEncoder with a model of one's own: batches of 64 in arrival order."""

    def __init__(self, folder: str, file: str, threads: int) -> None:
        from fastembed.common.model_description import ModelSource
        from fastembed.rerank.cross_encoder import TextCrossEncoder

        TextCrossEncoder.add_custom_model(
            model="local/reranker", sources=ModelSource(hf="local/reranker"), model_file=file
        )
        self.model = TextCrossEncoder("local/reranker", specific_model_path=folder, threads=threads)
        self.about = {"fastembed": version("fastembed"), "onnxruntime": version("onnxruntime")}

    def encode(self, texts: Sequence[str]) -> Any:
        query, *documents = texts
        return np.array(list(self.model.rerank(query, documents)), np.float32)[:, None]


class SentenceTransformers(_Ranker):
    """sentence-transformers' CrossEncoder: batches of 32 by length, in torch or in onnxruntime."""

    def __init__(self, folder: str, threads: int, file: str | None = None) -> None:
        """Load the model.

        :param folder: of reranker_files: torch or onnx.
        :param file: the graph in that folder; None for torch.
        """
        import torch
        from sentence_transformers import CrossEncoder, __version__

        torch.set_num_threads(threads)
        if file is None:
            _register()
            self.model = CrossEncoder(folder, num_labels=1, device="cpu", local_files_only=True)
        else:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            self.model = CrossEncoder(
                folder,
                num_labels=1,
                device="cpu",
                backend="onnx",
                local_files_only=True,
                model_kwargs={
                    "file_name": file,
                    "provider": "CPUExecutionProvider",
                    "session_options": options,
                },
            )
        self.identity = torch.nn.Identity()
        self.about = {"sentence-transformers": __version__, "torch": torch.__version__}

    def encode(self, texts: Sequence[str]) -> Any:
        query, *documents = texts
        pairs = [(query, document) for document in documents]
        scores = self.model.predict(pairs, activation_fn=self.identity, show_progress_bar=False)
        return np.asarray(scores, np.float32)[:, None]


def _register() -> None:
    """Make Transformers load a seeded checkpoint as the published ones are, whose code is on the hub: the encoder of
    export/ and BERT's head."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import SequenceClassifierOutput

    from export.checkpoint import load_model, read_state

    class Config(PretrainedConfig):
        model_type = "bench-reranker"

    class Model(PreTrainedModel):
        config_class = Config

        def __init__(self, config: Config) -> None:
            super().__init__(config)
            width = config.hidden_size
            self.dense, self.classifier = torch.nn.Linear(width, width), torch.nn.Linear(width, 1)

        @classmethod
        def from_pretrained(cls, name: str, *_: Any, config: Config, **__: Any) -> Model:
            model = cls(config)
            source = Path(config.checkpoint)
            state = read_state(source)
            for part, key in ((model.dense, "bert.pooler.dense"), (model.classifier, "classifier")):
                part.load_state_dict({kind: state[f"{key}.{kind}"].float() for kind in ("weight", "bias")})
            model.encoder = load_model(source)
            return model.eval()

        def forward(self, input_ids: Any, attention_mask: Any, **_: Any) -> Any:
            hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask, return_dict=True)
            pooled = torch.tanh(self.dense(hidden.last_hidden_state[:, 0]))
            return SequenceClassifierOutput(logits=self.classifier(pooled))

    AutoConfig.register("bench-reranker", Config)
    AutoModelForSequenceClassification.register(Config, Model)


RANKERS: dict[str, Callable[..., Any]] = {
    "rank-ours": Ours,
    "rank-late-interaction": LateInteraction,
    "rank-fastembed": FastEmbed,
    "rank-sentence-transformers": SentenceTransformers,
}
