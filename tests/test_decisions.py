# SPDX-License-Identifier: MIT
"""The decisions: every page has its parts and its row in the index, every number that is named has a page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import vqcodec

ROOT = Path(vqcodec.__file__).parents[1]
FOLDER = ROOT / "docs" / "decisions"
if not FOLDER.is_dir():
    pytest.skip("the documentation is not here", allow_module_level=True)

PAGES = sorted(FOLDER.glob("[0-9]*.md"))
HEADINGS = ["Context", "Decision", "Measured", "Consequences"]
MAX_LINES = 40


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name[:4])
def test_a_page_has_its_parts(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_LINES
    assert re.fullmatch(rf"# {int(path.name[:4])}\. \S.*", lines[0])
    assert re.fullmatch(r"- Status: (accepted|superseded by \[\d+\]\(\S+\)).*", lines[2])
    assert re.fullmatch(r"- Date: \d{4}-\d\d-\d\d", lines[3])
    assert [line[3:] for line in lines if line.startswith("## ")] == HEADINGS


def test_numbers_are_consecutive_and_the_index_lists_every_page() -> None:
    assert [int(path.name[:4]) for path in PAGES] == list(range(1, len(PAGES) + 1))
    rows = re.findall(r"^\| (\d+) \| \[(.+)\]\((\S+)\) \| (.+) \|$", (FOLDER / "index.md").read_text("utf-8"), re.M)
    listed = {name: (number, title, status) for number, title, name, status in rows}
    assert list(listed) == [path.name for path in PAGES]
    for path in PAGES:
        lines = path.read_text(encoding="utf-8").splitlines()
        number, title, status = listed[path.name]
        assert lines[0] == f"# {number}. {title}"
        assert lines[2] == f"- Status: {status}"


def test_every_decision_that_is_named_has_its_page() -> None:
    known = {int(path.name[:4]) for path in PAGES}
    named: dict[int, Path] = {}
    for folder in ("vqcodec", "bench", "tests", "docs", ".ci", "."):
        files = (ROOT / folder).glob("*") if folder == "." else (ROOT / folder).rglob("*")
        for path in files:
            if path.suffix in (".py", ".md", ".toml", ".html") and path != Path(__file__):
                text = path.read_text(encoding="utf-8")
                for numbers in re.findall(r"\bdecisions? (\d+(?:(?:, | and | to )\d+)*)", text, re.IGNORECASE):
                    named |= {int(number): path for number in re.findall(r"\d+", numbers)}
    assert len(named) > 10
    assert {number: path for number, path in named.items() if number not in known} == {}
