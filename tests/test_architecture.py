"""The house keeps its floor plan: imports run one way, public names are where promised, docstrings are whole."""

import ast
import doctest
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vlmcourse

PACKAGE = Path(vlmcourse.__file__).parent
API_PAGES = PACKAGE.parent / "book" / "api"

# What each room may import from the others. ops is the ground floor; nothing may import the command line.
MAY_IMPORT = {
    "ops": {"ops", "_checks", "_devices", "_precision"},
    "models": {"ops", "models", "_checks", "_devices", "_precision", "_files"},
    "data": {"data", "_checks", "_devices", "_precision", "_files"},
    "train": {"ops", "models", "data", "train", "_checks", "_devices", "_precision", "_files"},
    "course": {"ops", "models", "data", "train", "course", "_checks", "_devices", "_precision", "_files", ""},
    "homework": {"ops", "models", "data", "train", "homework", "_checks", "_devices", "_precision", "_files"},
    "cli": {"ops", "models", "data", "train", "course", "homework", "cli", ""},
    "__main__": {"cli"},
    "_checks": set(),
    "_devices": set(),
    "_precision": set(),
    "_files": set(),
    "": {""},
}
OPS_LIBRARIES = {"torch", "einops"}


def imports(source: str, package: str) -> set[str]:
    """Return the full names of all modules and names that ``source``, a module of ``package``, imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def forbidden(source: str, room: str, package: str) -> list[str]:
    """Return the imports of ``source`` that go against the arrows."""
    complaints = []
    for name in sorted(imports(source, package)):
        top, _, rest = name.partition(".")
        if top == "vlmcourse":
            # The package itself hands out every room's names, so importing from it counts as a room of its own: "".
            target = rest.partition(".")[0] if rest.partition(".")[0] in MAY_IMPORT else ""
            if target not in MAY_IMPORT[room]:
                complaints.append(f"{room} imports {name}")
        elif room == "ops" and top not in OPS_LIBRARIES | sys.stdlib_module_names:
            complaints.append(f"ops imports {name}, and may only use {' and '.join(sorted(OPS_LIBRARIES))}")
    return complaints


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", modules(), ids=module_name)
def test_imports_follow_the_arrows(path):
    inside = path.relative_to(PACKAGE).with_suffix("").parts
    room = "" if inside == ("__init__",) else inside[0]
    package = ".".join(path.parent.relative_to(PACKAGE.parent).parts)
    assert forbidden(path.read_text(encoding="utf-8"), room, package) == []


@pytest.mark.parametrize(
    ("source", "room", "package"),
    [
        ("from vlmcourse.models import cnn", "ops", "vlmcourse.ops"),
        ("import numpy as np", "ops", "vlmcourse.ops"),
        ("def f():\n    from ..train import runtime", "ops", "vlmcourse.ops"),
        ("from vlmcourse import train", "models", "vlmcourse.models"),
        ("from vlmcourse import fit", "models", "vlmcourse.models"),
        ("import vlmcourse.ops.patches", "data", "vlmcourse.data"),
        ("from .. import ops", "data", "vlmcourse.data"),
        ("from vlmcourse.cli import main", "course", "vlmcourse.course"),
        ("from vlmcourse.course import results", "train", "vlmcourse.train"),
        ("from vlmcourse.course import results", "homework", "vlmcourse.homework"),
        ("from vlmcourse.homework import check_patchify", "course", "vlmcourse.course"),
    ],
)
def test_an_import_against_the_arrows_is_found(source, room, package):
    assert forbidden(source, room, package)


def private_imports(source: str, package: str) -> list[str]:
    """Return the private names that ``source`` takes from other modules of the package; a module may be private."""
    tree = ast.parse(source)
    taken = [name for name in imports(source, package) if name.startswith("vlmcourse.")]
    aliases = {
        a.asname or a.name for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom) for a in n.names
    }
    private = [name for name in taken if name.rpartition(".")[2].startswith("_") and not is_module(name)]
    reached = [
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases
    ]
    return sorted(
        private + [name for name in reached if re.search(r"\._(?!_)", name) and not name.startswith(("sys.", "os."))]
    )


def is_module(name: str) -> bool:
    return (PACKAGE.parent / Path(*name.split("."))).with_suffix(".py").exists() or name.endswith("__version__")


@pytest.mark.parametrize("path", modules(), ids=module_name)
def test_private_names_stay_in_their_modules(path):
    package = ".".join(path.parent.relative_to(PACKAGE.parent).parts)
    assert private_imports(path.read_text(encoding="utf-8"), package) == []


@pytest.mark.parametrize(
    "source",
    [
        "from vlmcourse.data.scenes import _WHERE",
        "from .scenes import _WHERE as where",
        "from vlmcourse.data import scenes\nscenes._WHERE",
        "def f():\n    from vlmcourse.data import scenes as drawn\n    return drawn._WHERE",
    ],
)
def test_a_private_name_of_another_module_is_found(source):
    assert private_imports(source, "vlmcourse.data")


@pytest.mark.slow
@pytest.mark.parametrize("statement", ["import vlmcourse", "import vlmcourse.ops.patches, vlmcourse.ops.contrastive"])
def test_importing_the_package_or_the_formulas_loads_no_heavy_library(statement):
    heavy = {"torchvision", "sklearn", "matplotlib", "pandas", "IPython", "PIL", "scipy"}
    code = f"{statement}; import sys; print(*sys.modules, sep='\\n')"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert set(loaded.stdout.split()) & heavy == set()


def test_importing_the_package_does_not_even_load_torch():
    code = "import vlmcourse, sys; print('torch' in sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert loaded.stdout.strip() == "False"


@pytest.mark.parametrize("name", vlmcourse.__all__)
def test_every_public_name_can_be_imported_from_the_package(name):
    exported = getattr(vlmcourse, name)
    home = importlib.import_module(vlmcourse._EXPORTS[name])
    assert exported is (
        importlib.import_module(f"{home.__name__}.{name}") if inspect.ismodule(exported) else getattr(home, name)
    )


def test_a_name_that_does_not_exist_is_refused_with_the_names_that_are_near():
    with pytest.raises(AttributeError, match=r"no attribute 'patchfy'.*patchify"):
        _ = vlmcourse.patchfy
    with pytest.raises(ImportError, match=r"no attribute 'patchfy'.*patchify"):
        exec("from vlmcourse import patchfy")
    assert not hasattr(vlmcourse, "patchfy")


@pytest.mark.slow
def test_a_type_checker_sees_the_types_of_public_names(tmp_path):
    program = tmp_path / "homework.py"
    program.write_text(
        "from torch import Tensor\n"
        "from vlmcourse import ConvEncoder, fit, patchify\n"
        "from vlmcourse import patchfy\n"
        "reveal_type(patchify)\n"
        "def loss(model: ConvEncoder, batch: Tensor) -> Tensor: return model(batch).mean()\n"
        "def callback(model: ConvEncoder, step: int) -> dict[str, Tensor]: return {}\n"
        "fit(ConvEncoder(), loss, 0, lr=1, callback=callback)\n"
        "fit(1)\n"
        "fit(ConvEncoder(), loss, 0, lr=1, optimizer='adam')\n"
    )
    command = [sys.executable, "-m", "mypy", "--no-error-summary", str(program)]
    said = subprocess.run(command, capture_output=True, text=True, cwd=PACKAGE.parent).stdout
    assert 'Revealed type is "def (images: torch' in said
    assert 'of "fit" cannot be "int"' in said
    assert 'argument "optimizer"' in said.lower()
    assert "homework.py:7" not in said  # functions of the model's own type are welcome
    assert 'Module "vlmcourse" has no attribute "patchfy"' in said


@pytest.mark.parametrize("name", vlmcourse.__all__)
def test_every_public_name_is_on_an_api_page(name):
    exported = getattr(vlmcourse, name)
    home = exported.__name__ if inspect.ismodule(exported) else vlmcourse._EXPORTS[name]
    pages = "\n".join(page.read_text(encoding="utf-8") for page in API_PAGES.glob("*.md"))
    documented = re.findall(r"^\.\. automodule:: (\S+)\n   :members:$", pages, re.MULTILINE)
    assert home in documented, f"{name} is public; give its module an automodule on a page in book/api/"
    # What a module leaves out of __all__ or of its docstrings, autodoc leaves out of the page.
    is_constant = not (inspect.isroutine(exported) or inspect.isclass(exported) or inspect.ismodule(exported))
    assert is_constant or inspect.getdoc(exported)
    assert name in getattr(importlib.import_module(home), "__all__", [name]) or inspect.ismodule(exported)


def public_members() -> list[tuple[str, object]]:
    """Return the functions and classes that the package defines under a public name."""
    found = []
    for path in modules():
        if any(part.startswith("_") and part != "__init__.py" for part in path.relative_to(PACKAGE).parts):
            continue
        module = importlib.import_module(module_name(path))
        for name, member in vars(module).items():
            is_ours = (inspect.isfunction(member) or inspect.isclass(member)) and member.__module__ == module.__name__
            if is_ours and not name.startswith("_"):
                found.append((f"{module.__name__}.{name}", member))
    return found


MEMBERS = public_members()


@pytest.mark.parametrize("member", [m for _, m in MEMBERS], ids=[n for n, _ in MEMBERS])
def test_every_public_function_and_class_has_a_docstring_that_starts_with_a_sentence(member):
    docstring = inspect.getdoc(member)
    assert docstring
    first = docstring.split("\n\n")[0]
    assert first.count("\n") == 0, "the first line stands alone"
    assert first.endswith("."), "the first line is a sentence"


EXPORTED = [(n, m) for n, m in MEMBERS if n.rpartition(".")[2] in vlmcourse._EXPORTS]


@pytest.mark.parametrize("member", [m for _, m in EXPORTED], ids=[n for n, _ in EXPORTED])
def test_every_exported_function_and_class_shows_an_example_that_runs(member):
    assert doctest.DocTestParser().get_examples(inspect.getdoc(member) or "")


FORMULAS = [(n, m) for n, m in MEMBERS if n.startswith("vlmcourse.ops.")]


@pytest.mark.parametrize("member", [m for _, m in FORMULAS], ids=[n for n, _ in FORMULAS])
def test_every_formula_states_its_shapes_and_its_slide(member):
    docstring = inspect.getdoc(member) or ""
    for section in ("Shapes:", "Source:"):
        assert f"\n{section}\n" in docstring, f"{section} is missing"
    assert re.search(r"\bS\d\d\b", docstring.split("\nSource:\n")[1]), "Source names no slide"
