#!/usr/bin/env python3
"""Builds a project into a component. `transform build` runs it; README.md says how."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

COMPONENTIZE_PY = "componentize-py==0.25.1"
#: The Python inside of a component made by it.
COMPONENT_PYTHON = "3.14"
PYTHON_MIN = (3, 10)
SDK = Path(__file__).resolve().parent
WORLD = "tidemill:transform/batch-transform@0.2.0"
MODULE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")


class BuildError(Exception):
    """Why there is no component; the message says what to do."""


def main() -> int:
    if sys.version_info < PYTHON_MIN:
        say(f"error: Python 3.10 or newer is needed to build; this is {sys.version.split()[0]} ({sys.executable})")
        return 1
    arguments = argparse.ArgumentParser(description="Builds a Python transform into a component.")
    arguments.add_argument("--project", type=Path, default=Path("."), help="folder of transform.toml")
    arguments.add_argument("--module", default="transform", help="module that has the transform")
    arguments.add_argument("--output", type=Path, required=True, help="the component to write")
    given = arguments.parse_args()
    try:
        build(given.project.resolve(), given.module, given.output.resolve())
    except BuildError as error:
        say(f"error: {error}")
        return 1
    return 0


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def build(project: Path, module: str, output: Path) -> None:
    """Makes the component of `project`'s `module` in `output`."""
    check_module(project, module)
    work = project / ".tidemill"
    python = environment(work / "venv")
    packages = requirements(python, project / "requirements.txt", work / "packages")
    generated = work / "build"
    generated.mkdir(parents=True, exist_ok=True)
    (generated / "tidemill_project.py").write_text(f"MODULE = {module!r}\n")
    output.parent.mkdir(parents=True, exist_ok=True)
    componentize(python, [project, packages, SDK, generated], output)


def check_module(project: Path, module: str) -> None:
    if not MODULE_NAME.fullmatch(module):
        raise BuildError(f'module = "{module}" in transform.toml is no name of a Python module; write it without .py')
    path = project.joinpath(*module.split("."))
    source = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
    if not source.is_file():
        raise BuildError(
            f"{project} has no {'/'.join(module.split('.'))}.py; write the transform there, or name another module "
            'in transform.toml: module = "..."'
        )
    if module.split(".")[0] in sys.stdlib_module_names | {"tidemill", "wit_world"}:
        raise BuildError(f"the module {module} hides one that Python or the SDK has; give it another name")
    try:
        compile(source.read_bytes(), str(source), "exec", dont_inherit=True)
    except SyntaxError as error:
        raise BuildError(
            f"{source.relative_to(project)}:{error.lineno}: {error.msg}\n    {(error.text or '').strip()}"
        ) from None


def environment(folder: Path) -> Path:
    """The Python of the virtual environment in `folder`, made where it is not there or not the right one."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / "tidemill-stamp"
    wanted = f"{COMPONENTIZE_PY} {sys.version_info[0]}.{sys.version_info[1]}\n"
    if python.exists() and stamp.is_file() and stamp.read_text() == wanted:
        return python
    say(f"making {folder} with {COMPONENTIZE_PY} (once; 72 MB)")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        venv.create(folder, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(
            f"a virtual environment cannot be made: {error}; on Debian and Ubuntu install python3-venv"
        ) from None
    pip(python, "install", COMPONENTIZE_PY)
    stamp.write_text(wanted)
    return python


def requirements(python: Path, listed: Path, folder: Path) -> Path:
    """The folder with the packages of requirements.txt, made anew when that changed."""
    text = listed.read_text() if listed.is_file() else ""
    lines = [line.split(" #")[0].strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    stamp = folder / ".tidemill-stamp"
    wanted = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if lines:
        say(f"installing the packages of {listed.name} into {folder}")
        install(python, listed, folder)
        refuse_machine_code(folder)
    stamp.write_text(wanted)
    return folder


def install(python: Path, listed: Path, folder: Path) -> None:
    into = ["install", "--target", str(folder), "-r", str(listed)]
    pure = [
        "--only-binary=:all:",
        "--platform=any",
        "--implementation=py",
        "--abi=none",
        f"--python-version={COMPONENT_PYTHON}",
    ]
    try:
        pip(python, *into, *pure)
    except BuildError:
        # Some are published as source only, or have a pure form that only their own build makes.
        shutil.rmtree(folder)
        folder.mkdir()
        pip(python, *into)


def refuse_machine_code(folder: Path) -> None:
    found = sorted(file.relative_to(folder) for end in ("so", "pyd", "dylib") for file in folder.rglob(f"*.{end}"))
    if found:
        names = sorted({file.parts[0].split(".")[0] for file in found})
        raise BuildError(
            f"of the packages that were installed, {', '.join(names)} has machine code ({found[0]}), which does not run "
            "in a transform; use packages in pure Python"
        )


def pip(python: Path, verb: str, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet", verb, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        lines = [line for line in done.stdout.splitlines() if "ERROR" in line] or done.stdout.splitlines()
        raise BuildError("pip could not install what is needed:\n  " + "\n  ".join(lines[-6:]))


def componentize(python: Path, path: list[Path], output: Path) -> None:
    tool = python.parent / ("componentize-py.exe" if os.name == "nt" else "componentize-py")
    command = [str(tool), "--quiet", "--wit-path", str(SDK / "tidemill" / "wit"), "--world", WORLD, "componentize"]
    for folder in path:
        command += ["--python-path", str(folder)]
    unfinished = output.with_suffix(".unfinished")
    command += ["--output", str(unfinished), "tidemill._entry"]
    # Otherwise it looks for packages of the Python that runs this.
    variables = {**os.environ, "VIRTUAL_ENV": str(python.parent.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        unfinished.unlink(missing_ok=True)
        raise BuildError(reason(done.stdout, path[0]))
    if done.stdout.strip():
        say(done.stdout.rstrip())
    os.replace(unfinished, output)


def reason(printed: str, project: Path) -> str:
    """What to tell of the output of a componentize-py that failed: the error, and the lines of the project it came from."""
    trace, found, cause = printed.partition("\nCaused by:\n")
    if not found:
        return "componentize-py failed:\n" + printed.partition("\nStack backtrace:")[0].strip()[-2000:]
    message = cause.partition("\n\nStack backtrace:")[0].strip()
    if message.startswith("NotATransform: "):
        return message.removeprefix("NotATransform: ")
    lines = trace.splitlines()
    shown: list[str] = []
    for at, line in enumerate(lines):
        # The folders of `componentize` are mounted by number; the project is the first, its packages the second.
        place = re.fullmatch(r'  File "/([01])/(.*)", line ([0-9]+), in .*', line)
        if place:
            folder = "" if place[1] == "0" else "packages/"
            code = lines[at + 1].strip() if at + 1 < len(lines) else ""
            shown.append(f"  {folder}{place[2]}:{place[3]}: {code}")
    return "\n".join([f"{project.name} cannot be loaded: {message}", *shown, *hints(message, trace)])


def hints(message: str, trace: str) -> list[str]:
    if message.startswith("ModuleNotFoundError"):
        return [
            "  name the package in requirements.txt; what needs machine code, sockets or threads is not there in a transform"
        ]
    if message.startswith("KeyError") and "<frozen os>" in trace:
        return [
            "  a module is loaded when it is built, without the transform's environment: read that inside the function"
        ]
    return []


if __name__ == "__main__":
    sys.exit(main())
