"""A checkpoint as a model folder in seconds: what `python -m export` makes, without its proof. For tests and benchmarks
that check the vectors themselves."""

from __future__ import annotations

from pathlib import Path


def make_folder(checkpoint: Path, output: Path, precision: str) -> Path:
    """Export without verification.

    :param checkpoint: folder in Hugging Face layout.
    :param output: the model folder to make.
    :param precision: "int8" or "fp32".
    :return: output.
    """
    import dataclasses
    import tempfile

    from export import description, folder, graph, texts
    from export.checkpoint import load_model, weight_files
    from export.declared import read_declared
    from export.quantization.observed import observe
    from export.quantization.static import settle
    from export.sample import sample
    from export.vocabulary import load_tokenizer_files
    from runtime.manifest import SCHEMA_VERSION, file_facts
    from runtime.modules import MODULES_DATA, pack
    from runtime.tokenization.loading import load_tokenizer

    stated = read_declared(checkpoint)
    model = load_model(stated.backbone)
    if model.head:  # as export.pipeline does
        stated = dataclasses.replace(stated, pooling=("cls",), modules=model.head, normalize=False)
    vocabulary = load_tokenizer_files(stated.backbone, model.config)
    output.parent.mkdir(parents=True, exist_ok=True)
    weights = [*weight_files(stated.backbone), stated.backbone / "config.json"]
    with tempfile.TemporaryDirectory() as staging:
        work = Path(staging)
        encoder = model.export_weights()
        for name, content in vocabulary.files().items():
            (work / name).write_bytes(content)
        if precision == "int8":
            tokenizer = load_tokenizer(str(work), vocabulary.describe(), model.config.vocab_size)
            tokens = sample([tokenizer.encode(text) for text in texts.load()[::10]], 64, 128)
            (work / "observed").mkdir()
            layers, _ = settle(encoder.layers, observe(encoder, tokens, work / "observed", 1))
            encoder = dataclasses.replace(encoder, layers=layers)
        files = folder.save_model(graph.build(encoder, precision=precision), work)
        files += [work / name for name in vocabulary.files()]
        if packed := pack(stated.modules):
            (work / MODULES_DATA).write_bytes(packed)
            files = [*files, work / MODULES_DATA]
        manifest: dict[str, object] = {
            "schema_version": SCHEMA_VERSION,
            "name": checkpoint.name,
            "source": {"name": checkpoint.name, "sha256": {f.name: file_facts(f).sha256 for f in weights}},
            **description.shape(model, vocabulary, stated),
            "precision": precision,
            "scheme": "per-token" if precision == "int8" else None,
            "max_dense_tokens": graph.MAX_DENSE_TOKENS,
            "made_with": {},
            "verification": {},
        }
        folder.write(output, files, manifest)
    return output
