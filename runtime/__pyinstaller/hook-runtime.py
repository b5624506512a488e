"""What PyInstaller adds to a program that imports runtime: the bundled model, and modules that load on first use."""

import os

from PyInstaller.utils.hooks import collect_data_files, collect_submodules

from runtime.bundled import bundled_model
from runtime.errors import ModelError

OPTIONAL = ("runtime.alias", "runtime.bulk", "runtime.integrations", "runtime.serve", "runtime.__pyinstaller")

datas = collect_data_files("runtime", excludes=["models"])
hiddenimports = collect_submodules("runtime", filter=lambda name: not name.startswith(OPTIONAL))
try:
    model = bundled_model()
    datas.append((model, os.path.join("runtime", "models", os.path.basename(model))))
except ModelError:  # none is bundled: the program names its own
    pass
