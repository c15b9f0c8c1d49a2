"""The import rule: core imports core, downwards; rooms import core, and never each other."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "arc_airv"
# The imports that each part of the core may make, besides itself.
BASE = {"grids", "storage", "tasks"}
CORE = {
    "grids": set(),
    "storage": set(),
    "tasks": BASE,
    "augment": BASE,
    "foreign": BASE | {"augment"},
    "records": BASE | {"foreign"},
    "submission": BASE,
    "prompts": BASE | {"augment", "records"},
    "engines": BASE | {"prompts"},
    "infer": BASE | {"augment", "records", "prompts", "engines"},
    "vote": BASE | {"records"},
    "metrics": BASE | {"records", "vote"},
    "plots": BASE | {"records", "vote", "metrics"},
}
ROOMS = {room: set(CORE) for room in ("kaggle", "training", "studies", "engines.cluster")}
DOORS = {"kaggle": {"training"}, "engines": {"engines.cluster"}}  # only inside a function


def part_of(module):
    """Return the part of the package that holds a module, such as "vote" or "engines.cluster"."""
    inside = module.removeprefix("arc_airv").lstrip(".")
    return next((r for r in ROOMS if f"{inside}.".startswith(f"{r}.")), inside.split(".")[0])


def imports_of(path):
    """Return the parts that a file imports: at load time, and inside functions."""
    tree = ast.parse(path.read_text())
    inner = {n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    parts = [set(), set()]
    for node in ast.walk(tree):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        modules += [name.name for name in node.names] if isinstance(node, ast.Import) else []
        parts[node in inner] |= {part_of(m) for m in modules if m.startswith("arc_airv")} - {""}
    return parts


def test_every_import_follows_the_rule():
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        part = part_of(module.removesuffix(".__init__"))
        if part in ("", "__main__"):
            continue
        allowed = CORE.get(part) or ROOMS.get(part) or set()
        always, inside = imports_of(path)
        allowed = allowed | {part}
        parts = (always - allowed) | (inside - allowed - DOORS.get(part, set()))
        wrong += [f"{module} imports {other}" for other in parts]
    assert not wrong


def test_the_house_has_few_doors():
    entries = {p.name for p in PACKAGE.iterdir() if p.name[0] != "." and p.name != "__pycache__"}
    known = {f"{name}.py" for name in ("grids", "storage", "tasks", "augment", "records")}
    known |= {"foreign.py", "submission.py", "__init__.py", "__main__.py"}
    assert entries <= known | {"prompts", "engines", "infer", "vote", "metrics", "plots"} | {
        "kaggle", "training", "studies"
    }  # fmt: skip
    assert len(entries) <= 18
