"""What PyInstaller adds to a program that imports jinabert: the package that it stands for.

Adapters to a library need `--hidden-import runtime.integrations.NAME`, as their names do not stand in the program.
"""

hiddenimports = [
    "runtime",
    "runtime.integrations.cross_encoder",
    "runtime.integrations.sentence_transformers",
]
