"""`import jinabert`: the package `runtime` under a name that no other project has.

Where `import runtime` finds this package, `jinabert.x` and `runtime.x` are one module. Where a project's own `runtime`
stands before it, the package is loaded as `jinabert` alone, with its imports of `runtime` read as imports of that, and
the project keeps its own. In the wheel this folder is `jinabert`, beside `runtime`.
"""

from __future__ import annotations

import ast
import os
import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec, spec_from_loader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, ModuleType

    from runtime import *  # noqa: F403

_ABOVE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# In a checkout this file is inside the package, in a wheel beside it.
_PACKAGE = os.path.dirname(_ABOVE) if os.path.basename(_ABOVE) == "alias" else os.path.join(_ABOVE, "runtime")
_ORIGINAL = "runtime"
__path__ = [_PACKAGE]


def export_command() -> int:
    """`jinabert-export`: as `python -m export`, whatever else is called export."""
    sys.path.insert(0, os.path.dirname(_PACKAGE))
    status: int = import_module("export.__main__").main()
    return status


def _is_found() -> bool:
    """Whether `import runtime` gives this package."""
    module = sys.modules.get(_ORIGINAL)
    try:
        spec = find_spec(_ORIGINAL) if module is None else module.__spec__
    except (ImportError, ValueError):
        return False
    origin = None if spec is None else spec.origin
    return origin is not None and os.path.realpath(os.path.dirname(origin)) == os.path.realpath(_PACKAGE)


class _Same(Loader):
    """Gives the module that `runtime.x` is."""

    def __init__(self, name: str) -> None:
        self.name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(self.name)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # the import system has put that of the other name there

    def get_code(self, name: str) -> CodeType | None:
        """For `python -m jinabert.x`."""
        loader = getattr(find_spec(self.name), "loader", None)
        code: CodeType | None = None if loader is None else loader.get_code(self.name)
        return code


class _Copied(SourceFileLoader):
    """Loads a file of this package under the other name. Without a cache, which the first name has."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        tree = ast.parse(self.get_data(path), path)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                node.module = _renamed(node.module)
        return compile(tree, path, "exec", dont_inherit=True)


def _renamed(name: str) -> str:
    first, dot, rest = name.partition(".")
    return f"{__name__}{dot}{rest}" if first == _ORIGINAL else name


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        first, _, rest = fullname.partition(".")
        if first != __name__ or not rest:
            return None
        if _found:
            original = f"{_ORIGINAL}.{rest}"
            spec = find_spec(original)
            if spec is None:
                return None
            is_package = spec.submodule_search_locations is not None
            return spec_from_loader(fullname, _Same(original), origin=spec.origin, is_package=is_package)
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Copied(fullname, spec.loader.path)
        return spec


_found = _is_found()
sys.meta_path.insert(0, _Finder())
if _found:
    _package = import_module(_ORIGINAL)
    __all__ = _package.__all__
    __version__ = _package.__version__

    def __getattr__(name: str) -> object:
        return getattr(_package, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *_package.__all__})
else:
    exec(_Copied(__name__, os.path.join(_PACKAGE, "__init__.py")).get_code(__name__))
