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

    from export import description, folder, graph
    from export.checkpoint import load_model, weight_files
    from export.declared import read_declared
    from export.vocabulary import load_tokenizer_files
    from runtime.manifest import SCHEMA_VERSION, file_facts
    from runtime.modules import MODULES_DATA, pack

    stated = read_declared(checkpoint)
    model = load_model(stated.backbone)
    if model.head:  # as export.pipeline does
        stated = dataclasses.replace(stated, pooling=("cls",), modules=model.head, normalize=False)
    vocabulary = load_tokenizer_files(stated.backbone, model.config)
    output.parent.mkdir(parents=True, exist_ok=True)
    weights = [*weight_files(stated.backbone), stated.backbone / "config.json"]
    with tempfile.TemporaryDirectory() as staging:
        work = Path(staging)
        files = folder.save_model(graph.build(model.export_weights(), precision=precision), work)
        for name, content in vocabulary.files().items():
            (work / name).write_bytes(content)
            files.append(work / name)
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
