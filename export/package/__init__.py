"""A deployment of the runtime with its model for a platform that is not this one: ``python -m export.package``.

wheels.py     numpy's and onnxruntime's wheels for that platform, through pip
contents.py   what of them, of the runtime and of the model goes in, and its compiled bytecode
archive.py    a zip file or folder with the same bytes each time
trial.py      one embedding from what was written, and nothing else
"""
