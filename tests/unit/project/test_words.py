# SPDX-License-Identifier: Apache-2.0
"""The words of docs/reference/glossary.md, held: pages, notebooks, help texts, docstrings have none of the old ones."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.helpers import ROOT
from tests.helpers.papers import PAGES
from tests.helpers.public import PUBLIC
from toolkit.cli.commands import SECTIONS
from toolkit.cli.main import cli
from toolkit.cli.topics import TOPICS

# What is not written any more in this sense, and what is written instead.
RETIRED = {
    r"lends?|lent|lending|loans?": "post (to the kernel), borrow (a Batch)",
    r"custody|custodian": "owner",
    r"patience": "timeout",
    r"told": "report, say, ask",
    r"look(s|ed|ing)?(?! (for|up|untagged)\b| something up\b)": "poll (a ring), copies (of packets), read (a file)",
    r"rest(s|ed|ing)|(a|to|it|we) rest": "delay",
    r"twins?": "duplicate, second",
    r"in words": "as text",
    r"so many": "N of them",
    r"doors?": "public names",
    r"fate": "what becomes of",
}
# Passages that may keep one, each with its reason. One that is not there any more has to go from here.
EXCEPTIONS = {
    "docs/benchmarks.md": ["ReceiveCustody.lend"],  # the profile of a run that is on record
    "docs/reference/glossary.md": [
        "| lend, loan | post (a frame to the kernel), borrow (a Batch its frames) |",
        "| custody | owner |",
        "| patience | timeout |",
        "| told | report |",
        "| look | poll (a ring), copy (a packet) |",
        "| rest | delay |",
        "| twins | duplicate |",
        "| in words | as text |",
        "| so many | N of them |",
        "| door | the public names of a package |",
        "| fate | what becomes of a packet |",
    ],
}


def retired(text: str) -> list[str]:
    """The retired words in a text, each with what stands around it and what to write."""
    text = " ".join(text.split())
    return [
        f"…{text[max(found.start() - 40, 0) : found.end() + 20]}…: write {instead}"
        for word, instead in RETIRED.items()
        for found in re.finditer(rf"\b(?:{word})\b", text, re.IGNORECASE)
    ]


def notebook_text(path: Path) -> str:
    """What is written in the cells of a notebook, without their output."""
    return "\n\n".join("".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"])


def help_texts() -> Iterator[tuple[str, str]]:
    """What `--help` of the command and of each subcommand prints, and the texts of `xsk help`, by what is typed."""
    for name in ("", *(name for names in SECTIONS.values() for name in names)):
        words = [*name.split(), "--help"]
        yield f"xsk {' '.join(words)}", CliRunner().invoke(cli, words, prog_name="xsk").output
    for name, topic in TOPICS.items():
        yield f"xsk help {name}", topic.text


def docstrings() -> Iterator[tuple[str, str]]:
    """The docstrings that the reference is made of: of public packages and names, and of what is public in classes."""
    for package in ("toolkit", *(f"toolkit.{name}" for name in sorted(PUBLIC))):
        module = importlib.import_module(package)
        yield package, module.__doc__ or ""
        for name in module.__all__:
            thing = getattr(module, name)
            if not (inspect.isclass(thing) or inspect.isroutine(thing)):
                continue
            yield f"{package}.{name}", thing.__doc__ or ""
            for member in dir(thing) if inspect.isclass(thing) else ():
                text = inspect.getdoc(inspect.getattr_static(thing, member))
                if not member.startswith("_") and text:
                    yield f"{package}.{name}.{member}", text


TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
TEXTS |= {str(path.relative_to(ROOT)): notebook_text(path) for path in sorted((ROOT / "examples").glob("*.ipynb"))}


@pytest.mark.parametrize("page", TEXTS)
def test_a_page_has_no_retired_words(page: str) -> None:
    text = TEXTS[page]
    for passage in EXCEPTIONS.get(page, ()):
        assert passage in text, f"{page} has {passage!r} no more: take it out of EXCEPTIONS"
        text = text.replace(passage, "")
    found = retired(text)
    assert not found, "\n".join(found)


def test_help_texts_have_no_retired_words() -> None:
    texts = dict(help_texts())
    assert len(texts) > 15
    assert all("Usage: xsk" in text for name, text in texts.items() if "--help" in name)
    found = [f"{name}: {each}" for name, text in texts.items() for each in retired(text)]
    assert not found, "\n".join(found)


def test_docstrings_of_public_names_have_no_retired_words() -> None:
    texts = dict(docstrings())
    assert len(texts) > 300
    found = [f"{name}: {each}" for name, text in texts.items() for each in retired(text)]
    assert not found, "\n".join(found)


def test_exceptions_are_about_pages_that_are_there() -> None:
    assert set(EXCEPTIONS) <= set(TEXTS)


@pytest.mark.parametrize(
    "text",
    [
        "frames are lent to the kernel",
        "A Batch is a loan.",
        "to peek takes custody",
        "it is told to stop",
        "tee() looks at copies",
        "one look at the ring",
        "it rests up to 1 ms",
        "the first so\nmany bytes",
        "a veth twin",
        "the time, in words",
        "through the door",
        "its fate is decided",
    ],
)
def test_a_retired_word_is_found(text: str) -> None:
    assert len(retired(text)) == 1


def test_words_in_another_sense_are_not() -> None:
    assert not retired("The rest is looked up; look for it, or look something up: it looks untagged. Indoor, splendid.")
