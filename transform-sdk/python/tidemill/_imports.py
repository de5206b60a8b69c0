"""Loads, when the component is built, what functions import only when they are called: there are no files later."""

import ast
import importlib
import importlib.util
import sys
from types import ModuleType

# What the standard library imports inside functions that transforms may well call.
_STANDARD = (
    "_strptime",
    "base64",
    "bisect",
    "calendar",
    "collections.abc",
    "copy",
    "csv",
    "dataclasses",
    "datetime",
    "decimal",
    "encodings.ascii",
    "encodings.cp1252",
    "encodings.idna",
    "encodings.latin_1",
    "encodings.utf_16",
    "encodings.utf_16_le",
    "encodings.utf_16_be",
    "encodings.utf_8_sig",
    "enum",
    "fractions",
    "functools",
    "hashlib",
    "heapq",
    "hmac",
    "html",
    "ipaddress",
    "itertools",
    "locale",
    "math",
    "operator",
    "random",
    "re",
    "secrets",
    "statistics",
    "string",
    "struct",
    "textwrap",
    "time",
    "traceback",
    "typing",
    "unicodedata",
    "urllib.parse",
    "uuid",
    "zlib",
)


def load_what_functions_import() -> None:
    """Imports every module that loaded code of the project, or of its packages, names in an import statement anywhere."""
    for name in _STANDARD:
        _load(name)
    seen: set[str] = set()
    while True:
        new = [name for name, module in list(sys.modules.items()) if name not in seen and _is_of_the_project(module)]
        if not new:
            return
        seen.update(new)
        for name in new:
            for imported in _imported_by(sys.modules[name]):
                _load(imported)


def _is_of_the_project(module: ModuleType) -> bool:
    name = getattr(module, "__name__", "").partition(".")[0]
    return name not in sys.stdlib_module_names and not name.startswith(
        ("tidemill", "wit_world", "componentize_py", "poll_loop")
    )


def _imported_by(module: ModuleType) -> list[str]:
    file = getattr(module, "__file__", None)
    if not file or not file.endswith(".py"):
        return []
    try:
        with open(file, "rb") as source:
            tree = ast.parse(source.read())
    except (OSError, SyntaxError, ValueError):
        return []
    package = getattr(module, "__package__", None) or ""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            try:
                base = importlib.util.resolve_name(base, package) if node.level else base
            except ImportError:
                continue
            names.append(base)
            names += [f"{base}.{alias.name}" for alias in node.names if alias.name != "*"]
    return names


def _load(name: str) -> None:
    # What cannot be imported here could not be later either, and the code may know that.
    try:
        importlib.import_module(name)
    except BaseException:
        pass
