"""Training of a JinaBert checkpoint from a teacher's vectors: ``python -m export.distill``."""
