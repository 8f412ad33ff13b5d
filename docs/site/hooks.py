"""Add the generated pages to the documentation site: methods, examples, reference, changelog."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import example_pages
import method_pages
import reference_pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the generated pages in the navigation, in the sections that name them."""
    for section in config.nav or []:
        for title, entries in section.items():
            if title == "Methods":
                entries += [f"methods/{name}.md" for name in method_pages.pages()]
            elif title == "Examples":
                entries += [f"examples/{path.stem}.md" for path in example_pages.notebooks()]
            elif title == "Reference":
                entries += [
                    f"reference/{name}.md" for name in (*reference_pages.PUBLIC, "commands")
                ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages and the figures of the examples."""
    for path, content in generated().items():
        files.append(File.generated(config, path, content=content))
    return files


@cache
def generated() -> dict[str, Any]:
    """Return the content of each generated file by its path in the site."""
    pages: dict[str, Any] = {"changelog.md": _changelog()}
    pages |= {f"methods/{name}.md": text for name, text in method_pages.pages().items()}
    pages |= {f"reference/{name}.md": text for name, text in reference_pages.pages().items()}
    pages["reference/commands.md"] = reference_pages.commands()
    for path in example_pages.notebooks():
        text, figures = example_pages.page(path)
        pages[f"examples/{path.stem}.md"] = text
        pages |= {f"examples/{name}": png for name, png in figures.items()}
    return pages


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Show links to files of the repository, which are not part of the site, as their paths."""
    return re.sub(r"\[([^\]]+)\]\(\.\./([^)]+)\)", r"\1 (`\2`)", markdown)


def _changelog() -> str:
    return (ROOT / "CHANGELOG.md").read_text().replace("](docs/", "](")
