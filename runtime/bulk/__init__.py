"""Whole corpora: files of texts in, shards of vectors out, over many processes or a Ray cluster.

`python -m runtime.bulk --help` is the way in. Needs the extra `bulk` (pyarrow, tqdm); `--engine ray` the extra `ray`,
spark.py the extra `spark`. Nothing else of runtime/ imports this package.
"""

from __future__ import annotations
