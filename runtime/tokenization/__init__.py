"""Texts to token ids, with the standard library alone: the same ids and offsets as `tokenizers` gives."""
