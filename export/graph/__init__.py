"""From weights to the graph that ships: dense attention for short texts, blockwise for long ones, int8 linear layers.

Read in this order: ``encoder`` (what a graph is built from), ``builder`` (how nodes are written), ``weights`` (where a
layer finds its weights; their int8), ``tokens`` (what each token needs; its normalisation), ``linear`` (a linear
layer, fp32 or int8), ``attention`` and ``layer`` (an encoder layer, all rows at once), ``windows`` and ``blocks`` (the
layers in blocks of rows, for long texts), ``assembly`` (the whole graph).
"""

from export.graph.assembly import (
    EMBEDDINGS,
    MAX_DENSE_TOKENS,
    build,
    build_selectable,
    linear_names,
)

__all__ = [
    "EMBEDDINGS",
    "MAX_DENSE_TOKENS",
    "build",
    "build_selectable",
    "linear_names",
]
