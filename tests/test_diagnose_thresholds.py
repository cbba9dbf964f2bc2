"""Each threshold is used, and its docstring says what it bounds and where it comes from."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1] / "tasks/diagnose"
TABLE = ROOT / "thresholds.py"


def entries() -> dict[str, str]:
    """Name -> its docstring."""
    body = ast.parse(TABLE.read_text(encoding="utf-8")).body
    said = {}
    for entry, text in zip(body[1::2], body[2::2], strict=True):
        assert isinstance(entry, ast.Assign)
        (name,) = [target.id for target in entry.targets if isinstance(target, ast.Name)]
        assert isinstance(text, ast.Expr), name
        said[name] = " ".join(ast.literal_eval(text.value).split())
    return said


def test_every_number_says_what_it_bounds_and_its_origin() -> None:
    for name, said in entries().items():
        assert re.search(r"^[A-Z].{20,}\. Origin: (theory|measured|tuned|by hand)", said), name


def test_every_number_is_used() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in ROOT.rglob("*.py") if path != TABLE)
    assert {name for name in entries() if not re.search(rf"\b{name}\b", code)} == set()
