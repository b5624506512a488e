"""Texts to token ids and back, with the standard library alone: the same ids, offsets, texts as `tokenizers` gives."""
