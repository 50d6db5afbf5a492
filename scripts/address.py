# SPDX-License-Identifier: MIT
"""For a release: makes README's links absolute and fills `project.urls`, so that a package index shows them right.

    python scripts/address.py URL        in a clean checkout of the tag; URL is the repository's, https://HOST/OWNER/NAME

It changes README.md and pyproject.toml of the current folder. These changes are not committed.
"""

import re
import sys
from pathlib import Path

PAGES = {"Repository": "", "Documentation": "blob/{tag}/docs/index.md", "Changelog": "blob/{tag}/CHANGELOG.md"}


def absolute(text: str, url: str, tag: str) -> str:
    """Markdown with the addresses of pictures and pages of a tag in the place of relative ones."""

    def link(found: re.Match[str]) -> str:
        kind = "raw" if found[1].startswith("!") else "blob"
        return f"{found[1]}({url}/{kind}/{tag}/{found[2]})"

    return re.sub(r"(!?\[[^\]]*\])\((?!https?:|#)([^)]+)\)", link, text)


def main(url: str) -> None:
    """Write both files again."""
    url = url.rstrip("/")
    if not re.fullmatch(r"https://[^/\s]+/\S+", url):
        sys.exit(f"{url}: not an address such as https://HOST/OWNER/NAME")
    version = re.search(
        r'^__version__ = "(.+)"$', Path("vqcodec/__init__.py").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert version is not None
    tag = f"v{version[1]}"
    readme, project = Path("README.md"), Path("pyproject.toml")
    urls = "".join(f'{name} = "{url}/{page.format(tag=tag)}"\n' for name, page in PAGES.items()).replace('/"', '"')
    text = project.read_text(encoding="utf-8")
    if "[project.urls]" in text:
        sys.exit("pyproject.toml has [project.urls] already")
    project.write_text(
        text.replace("[project.scripts]\n", f"[project.urls]\n{urls}\n[project.scripts]\n"), encoding="utf-8"
    )
    readme.write_text(absolute(readme.read_text(encoding="utf-8"), url, tag), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
