"""Vectors of a folder by other programs: each script takes a folder and a JSON file of texts, and prints vectors."""
