"""Hooks of mkdocs: the README and the page on manifests join the site; links to files of the repository are checked."""

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
# Pages that lie elsewhere in the repository, by their name on the site.
JOINED = {"index.md": ROOT / "README.md", "manifests.md": ROOT / "manifests" / "README.md"}
LINK = re.compile(r"\[([^\]]+)\]\((?!\w+:|#)([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    for name, path in JOINED.items():
        files.append(File.generated(config, name, content=path.read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as the site has them: between its pages; to a file of the repository its path, which must exist."""
    home = JOINED.get(page.file.src_uri, ROOT / "docs" / page.file.src_uri).parent

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found[1], (home / found[2]).resolve(), found[3] or ""
        if not target.exists():
            raise PluginError(f"{page.file.src_uri}: links to {found[2]}, and there is no such file")
        for name, path in JOINED.items():
            if target == path:
                return f"[{text}]({name}{anchor})"
        if target.parent == ROOT / "docs" and target.suffix == ".md":
            return f"[{text}]({target.name}{anchor})"
        path = target.relative_to(ROOT).as_posix()
        return f"{text} (`{path}`)" if path not in text else text

    return LINK.sub(link, markdown)
