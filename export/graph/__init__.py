"""From weights to the graph that ships: long texts in blocks, products in int8.

Read in this order: ``encoder`` (what a graph is built from), ``builder`` (how nodes are written), ``weights`` (where a
layer finds its weights; their int8), ``tokens`` (what each token needs; its normalisation), ``products`` (a matrix
product, fp32 or int8), ``layer`` (an encoder layer, all rows at once), ``windows`` and ``blocks`` (the layers in blocks
of rows, for long texts), ``rewrite`` (the whole graph).
"""

from export.graph.rewrite import (
    EMBEDDINGS,
    MAX_DENSE_TOKENS,
    build,
    build_selectable,
    max_dense_tokens,
    product_names,
)

__all__ = [
    "EMBEDDINGS",
    "MAX_DENSE_TOKENS",
    "build",
    "build_selectable",
    "max_dense_tokens",
    "product_names",
]
