"""Where the student starts: a BERT teacher's own layers inside the shape of a JinaBert.

What differs between the two, and how it is bridged:

- *Width.* The teacher's H dimensions come first. The others hold nothing, so a LayerNorm over all D sees H / D of the
  variance: its weights are multiplied by sqrt(H / D). (The teacher's mean is not quite 0; training mends what that
  leaves.) They stay empty in training, too: balance.py needs them afterwards.
- *GELU to GeGLU.* Dimension H is constant: LayerNorm weight 0 and bias c. The gate takes the teacher's first linear
  layer, with its bias on the constant dimension, and the up projection is 1 from it, so GELU(gate) * up is the
  teacher's MLP. The biases of what is added to the residual take c away again, so that the constant has no part in the
  statistics of the LayerNorm. c has the size of ordinary activations: a small one would round to nothing in int8
  beside them, while its weights, 1 / c, would blow up the scale of every channel.
- *Positions.* There are none. Their mean stays, in the word embeddings. ALiBi gives each head a slope: the heads that
  looked nearby get the steep ones of those in use, and those in use are the gentlest there are.
- *Heads.* If the student has fewer, those with the largest product of the norms of value and output stay. A narrower
  head of the teacher fills the first dimensions of one of the student's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from transformers import BertModel

from export.distill.recipe import Recipe
from export.errors import ExportError
from export.models.jinabert import JinaBertConfig, JinaBertModel, alibi_slopes

__all__ = ["attention_distances", "freeze_spare_dimensions", "init_from_teacher", "layer_norms"]

UNK = 100


def init_from_teacher(
    teacher: BertModel, recipe: Recipe, vocabulary: int, distances: Tensor
) -> JinaBertModel:
    """Make a student from the teacher's layers.

    :param teacher: a BERT encoder; its first word embeddings are those of the student's vocabulary.
    :param recipe: shape of the student, and which layers it takes over.
    :param vocabulary: entries of the student's vocabulary; those beyond the teacher's get its [UNK].
    :param distances: of ``attention_distances``.
    :return: the student, in fp32.
    :raises ExportError: the teacher does not fit into the student.
    """
    config = teacher.config
    wide = config.hidden_size
    if wide >= recipe.hidden or config.intermediate_size > recipe.intermediate:
        raise ExportError(
            f"a teacher of {wide} dimensions and {config.intermediate_size} units does not fit into "
            f"{recipe.hidden} and {recipe.intermediate}: one dimension must be left over"
        )
    if not all(0 <= layer < config.num_hidden_layers for layer in recipe.layers):
        raise ExportError(f"layers {recipe.layers}: the teacher has {config.num_hidden_layers}, from 0")
    if recipe.hidden // recipe.heads < wide // config.num_attention_heads:
        raise ExportError(f"heads {recipe.heads}: narrower than the teacher's, give fewer")
    student = JinaBertModel(
        JinaBertConfig(
            vocab_size=vocabulary,
            hidden_size=recipe.hidden,
            num_hidden_layers=len(recipe.layers),
            num_attention_heads=recipe.heads,
            intermediate_size=recipe.intermediate,
        )
    )
    shrink = math.sqrt(wide / recipe.hidden)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
        embeddings = teacher.embeddings
        words = embeddings.word_embeddings.weight + embeddings.token_type_embeddings.weight[0]
        words = words + embeddings.position_embeddings.weight[1:64].mean(dim=0)
        table = student.embeddings.word_embeddings.weight
        table[: len(words), :wide] = words[:vocabulary]
        table[len(words) :, :wide] = words[UNK]
        _norm(student.embeddings.LayerNorm, embeddings.LayerNorm, wide, shrink, recipe.constant)
        for i, number in enumerate(recipe.layers):
            old, new = teacher.encoder.layer[number], student.encoder.layer[i]
            last = i == len(recipe.layers) - 1
            _attention(old.attention, new.attention, distances[number], config.num_attention_heads)
            new.attention.output.dense.bias[wide] = -recipe.constant
            _norm(
                new.attention.output.LayerNorm,
                old.attention.output.LayerNorm,
                wide,
                shrink,
                recipe.constant,
            )
            gate_up, units = new.mlp.gated_layers.weight, config.intermediate_size
            gate_up[:units, :wide] = old.intermediate.dense.weight
            gate_up[:units, wide] = old.intermediate.dense.bias / recipe.constant
            gate_up[recipe.intermediate : recipe.intermediate + units, wide] = 1 / recipe.constant
            new.mlp.wo.weight[:wide, :units] = old.output.dense.weight
            new.mlp.wo.bias[:wide] = old.output.dense.bias
            new.mlp.wo.bias[wide] = -recipe.constant
            # Nothing reads the constant of the last layer but the pooling, which must not.
            _norm(new.mlp.layernorm, old.output.LayerNorm, wide, shrink, 0.0 if last else recipe.constant)
        _noise(student, wide, config.intermediate_size, recipe)
    return student


def freeze_spare_dimensions(student: JinaBertModel, wide: int) -> None:
    """Keep training from what is neither the teacher's dimensions nor what is read from the constant one.

    :param student: of ``init_from_teacher``; from now on the gradients of the weights that write to its other
        dimensions are 0.
    :param wide: the teacher's dimensions.
    """

    def hold(parameter: Tensor, axis: int) -> None:
        free = torch.ones_like(parameter)
        free.narrow(axis, wide, parameter.shape[axis] - wide).zero_()
        parameter.register_hook(lambda gradient: gradient * free)

    hold(student.embeddings.word_embeddings.weight, 1)
    writers = [w for layer in student.encoder.layer for w in (layer.attention.output.dense, layer.mlp.wo)]
    for module in (*writers, *layer_norms(student)):
        hold(module.weight, 0)
        hold(module.bias, 0)


def layer_norms(student: JinaBertModel) -> list[torch.nn.LayerNorm]:
    """Return all layer norms, in the order in which they run; the output of the last is pooled."""
    norms = [student.embeddings.LayerNorm]
    for layer in student.encoder.layer:
        norms += [layer.attention.output.LayerNorm, layer.mlp.layernorm]
    return norms


def attention_distances(teacher: BertModel, texts: Iterable[Tensor]) -> Tensor:
    """How far each head looks: the mean distance in tokens, [CLS] and [SEP] left out.

    :param teacher: made with ``attn_implementation="eager"``, so that it gives its attention.
    :param texts: ids, int64 [length], as many as it takes for a stable mean; a dozen of 200 tokens will do.
    :return: float32 [layers, heads].
    """
    total: Tensor | int = 0
    for ids in texts:
        with torch.no_grad():
            layers = teacher(ids[None], output_attentions=True).attentions
        inner = torch.stack([layer[0, :, 1:-1, 1:-1] for layer in layers])
        positions = torch.arange(inner.shape[-1])
        distance = (positions[:, None] - positions[None, :]).abs().to(inner.dtype)
        total = total + (inner * distance).sum((2, 3)) / inner.sum((2, 3))
    if isinstance(total, int):
        raise ExportError("no text to look at the teacher's heads with")
    return total


def _norm(
    new: torch.nn.LayerNorm, old: torch.nn.LayerNorm, wide: int, shrink: float, constant: float
) -> None:
    new.weight[:wide] = old.weight * shrink
    new.bias[:wide] = old.bias
    new.bias[wide] = constant


def _attention(old: torch.nn.Module, new: torch.nn.Module, distances: Tensor, heads: int) -> None:
    wide = old.self.query.weight.shape[0]
    width, new_width = wide // heads, new.head_width
    values = old.self.value.weight.view(heads, width, wide).flatten(1).norm(dim=1)
    outputs = old.output.dense.weight.view(wide, heads, width).transpose(0, 1).flatten(1).norm(dim=1)
    kept = torch.argsort(values * outputs, descending=True)[: new.heads].tolist()
    kept.sort(key=lambda head: float(distances[head]))
    slopes = alibi_slopes(new.heads)
    gentlest = sorted(range(new.heads), key=lambda slot: -slopes[slot])[-len(kept) :]
    for head, slot in zip(kept, gentlest, strict=True):
        source = slice(head * width, (head + 1) * width)
        place = slice(slot * new_width, slot * new_width + width)
        for name in ("query", "key", "value"):
            # Scores are divided by the square root of the new width.
            factor = math.sqrt(new_width / width) if name == "query" else 1.0
            getattr(new.self, name).weight[place, :wide] = getattr(old.self, name).weight[source] * factor
            getattr(new.self, name).bias[place] = getattr(old.self, name).bias[source] * factor
        new.output.dense.weight[:wide, place] = old.output.dense.weight[:, source]
    new.output.dense.bias[:wide] = old.output.dense.bias


def _noise(student: JinaBertModel, wide: int, units: int, recipe: Recipe) -> None:
    """Small random weights where both sides of a product are 0, or their gradients would stay 0 for ever."""
    generator = torch.Generator().manual_seed(recipe.seed)

    def fill(part: Tensor) -> None:
        part += 0.02 * torch.randn(part.shape, generator=generator) * (part == 0)

    for layer in student.encoder.layer:
        fill(layer.attention.self.query.weight[:, :wide])
        fill(layer.attention.self.key.weight[:, :wide])
        fill(layer.attention.self.value.weight[:, :wide])
        fill(layer.mlp.gated_layers.weight[units : recipe.intermediate, :wide])
        fill(layer.mlp.gated_layers.weight[recipe.intermediate + units :, :wide])
