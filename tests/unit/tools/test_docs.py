"""The generated pages follow the source, and a stale one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

import docs

FILES = {
    "src/redline/__init__.py": '"""The door."""\n',
    "src/redline/errors.py": '"""Every error, as\none tree.\n\nMore.\n"""\n',
    "src/redline/env.py": 'A = Variable("REDLINE_CACHE", None, "Where models lie.")\n',
    "src/redline/kernels/__init__.py": '"""One file per op."""\n',
    "src/redline/plan/__init__.py": '"""Plans."""\n',
    "src/redline/plan/claims.py": '"""What was promised."""\ndef page():\n    return "7B: 77 of 180\\n"\n',
    "src/saidata/__init__.py": '"""The application."""\n',
    "src/saidata/check/__init__.py": '"""Rules."""\n',
    "src/saidata/check/shape.py": '"""Shape."""\n\n\n@rule("SD102", "error")\ndef bad_shape(look):\n    """It is crooked.\n\n    Straighten it.\n    """\n',
    "src/redline/kernels/tolerance.py": 'TOLERANCES: dict = {\n    # Sums,\n    # one rounding.\n    "norm": {"f32": 0.0, "bf16": 8e-3},\n}\n',
}


@pytest.fixture
def top(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_pages_hold_docstrings_variables_and_tolerances(top):
    assert docs.main([str(top)]) == 0
    page = (top / "docs/map.md").read_text()
    assert "| `errors.py` | yes | Every error, as one tree. |" in page
    assert page.index("## ground") < page.index("One file per op.") < page.index("## door")
    assert "| `REDLINE_CACHE` |  | Where models lie. |" in (top / "docs/env.md").read_text()
    assert "saidata" not in page and "## check (floor 3)" in (top / "docs/saidata/map.md").read_text()
    rules = (top / "docs/saidata/rules.md").read_text()
    assert "| [SD102](#sd102) | error | It is crooked. |" in rules
    assert "## SD102\n\n**It is crooked.** (`bad-shape`, error)\n\nStraighten it.\n" in rules
    assert (top / "docs/claims.md").read_text().endswith("\n\n7B: 77 of 180\n")
    assert "| norm | 0 | 0.008 | Sums, one rounding. |" in (top / "docs/tolerances.md").read_text()


def test_check_fails_on_a_stale_page_and_writes_nothing(top, capsys):
    assert docs.main([str(top), "--check"]) == 3
    assert not (top / "docs").exists()
    docs.main([str(top)])
    assert docs.main([str(top), "--check"]) == 0
    (top / "src/redline/errors.py").write_text('"""Something new."""\n')
    capsys.readouterr()
    assert docs.main([str(top), "--check"]) == 3
    assert "docs/map.md: stale" in capsys.readouterr().out
