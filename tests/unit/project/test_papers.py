# SPDX-License-Identifier: Apache-2.0
"""README, docs and what stands beside them: short enough, whole, and true where a test can tell."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import click
import pytest
from guests.__main__ import options as guest_options

import toolkit
from tests.helpers import ROOT
from tests.helpers.papers import PAGES, prose_of
from tests.helpers.public import PUBLIC
from toolkit.cli.main import cli

README = (ROOT / "README.md").read_text(encoding="utf-8")
GLOSSARY = (ROOT / "docs" / "reference" / "glossary.md").read_text(encoding="utf-8")


def test_the_readme_is_short_and_has_what_comes_first() -> None:
    assert len(README.splitlines()) <= 150
    for wanted in ("sudo scripts/demo", "sudo scripts/test", "scripts/test --all", "## The idea", "## First program"):
        assert wanted in README
    assert README.index("## The command") < README.index("## Where to go next")


def missing_targets(page: Path) -> list[str]:
    """The files that a page links to, and that are not there; headings of pages are Sphinx's to check."""
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", prose_of(page))
    files = [target for target in targets if "://" not in target]
    return [target for target in files if not (page.parent / target).exists()]


def test_links_between_files_lead_somewhere() -> None:
    assert len(PAGES) > 30, "no pages found: the test looks in the wrong place"
    missing = [f"{page.relative_to(ROOT)}: {target}" for page in PAGES for target in missing_targets(page)]
    assert not missing, "\n".join(missing)


def test_a_link_to_nothing_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("[one](page.md#heading) [two](nothing.md) [three](https://example.org/x)\n")
    assert missing_targets(page) == ["nothing.md"]


def test_the_readme_leads_to_every_page_for_people() -> None:
    """Those of the site's own (index, names, commands, versions) are found there."""
    site = {
        "index.md",
        "install.md",
        "command.md",
        "topics.md",
        "versions.md",
        "debian.md",
        "aarch64.md",
        "benchmarks.md",
    }
    pages = [page for page in PAGES if page.parent != ROOT and page.parent.name != "api" and page.name not in site]
    missing = [page.name for page in pages if f"]({page.relative_to(ROOT)})" not in README]
    assert not missing


def test_every_public_package_has_a_page() -> None:
    pages = {page.stem for page in (ROOT / "docs" / "reference" / "api").glob("*.md")}
    assert pages == PUBLIC | {"toolkit", "index"}


def test_the_glossary_has_thirty_terms_at_most_and_each_is_short() -> None:
    terms = re.findall(r"^(\S[^\n]*)\n: (.*?)\n\n", GLOSSARY + "\n", re.DOTALL | re.MULTILINE)
    assert 20 <= len(terms) <= 30
    for term, text in terms:
        sentences = re.findall(r"[.)](?=\s|$)", " ".join(text.split()))
        assert 1 <= len(sentences) <= 3, term
    assert [term.lower() for term, _ in terms] == sorted(term.lower() for term, _ in terms)


def bold_words(text: str) -> list[str]:
    """The words in bold of a page's prose, in the singular; those of tables are headings."""
    prose = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
    return [word.removesuffix("s") for word in re.findall(r"\*\*(.+?)\*\*", prose)]


def test_the_bold_words_of_the_readme_are_in_the_glossary() -> None:
    """A newcomer meets these first, and the README says that the glossary has them."""
    terms = {term.lower() for term in re.findall(r"^(\S[^\n]*)\n: ", GLOSSARY, re.MULTILINE)}
    words = bold_words(README)
    assert len(words) >= 6
    assert {"XDP program", "AF_XDP socket", "UMEM"} <= set(words)
    missing = [word for word in words if word.lower() not in terms]
    assert not missing, missing


def test_the_changelog_has_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (\S+)", text, re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert versions[1] == toolkit.__version__


def test_pre_commit_runs_what_the_test_script_runs() -> None:
    hooks = re.findall(r"entry: \.venv/bin/python -m (.+)", (ROOT / ".pre-commit-config.yaml").read_text())
    script = (ROOT / "scripts" / "test").read_text()
    steps = re.findall(r'^step "[^"]+" "\$bin/python" -m (.+)', script, re.MULTILINE)
    assert hooks
    assert hooks == steps


@pytest.mark.parametrize("extra", ["arrow", "dev", "docs", "notebook", "pandas", "zstd"])
def test_the_installation_page_names_every_extra(extra: str) -> None:
    assert f"| `{extra}` |" in (ROOT / "docs" / "how-to" / "install.md").read_text()
    known = set(metadata.metadata("afxdp-toolkit").get_all("Provides-Extra") or ())
    assert extra in known
    assert len(known) == 6, "another extra: name it on the page, and here"


def test_the_extra_notebook_opens_a_notebook() -> None:
    needs = metadata.requires("afxdp-toolkit") or []
    assert any(re.match(r"jupyterlab\b.*notebook", need) for need in needs)
    run = subprocess.run([sys.executable, "-m", "jupyter", "lab", "--version"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    subprocess.run([sys.executable, "-c", "import ipykernel, matplotlib, pandas"], check=True)


# --- command lines --------------------------------------------------------------------------------------------------


def command_lines() -> list[tuple[str, str]]:
    """Every line `xsk …` of a code block, and `sudo scripts/demo …`: its page, and the words before the explanation."""
    found = []
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            begins = re.match(r"(?:sudo )?(?:\.venv/bin/)?(?:xsk|scripts/demo) .*", line)
            if begins:
                words = re.split(r"\s{2,}|\s[#|]\s", line.removeprefix("sudo ").removeprefix(".venv/bin/"))[0]
                found.append((page.name, words.replace("scripts/demo", "xsk demo")))
    return found


def test_there_are_command_lines() -> None:
    assert len(command_lines()) >= 16
    assert "README.md" in dict(command_lines())


@pytest.mark.parametrize(("page", "line"), command_lines())
def test_command_lines_are_understood(page: str, line: str) -> None:
    _, name, *words = shlex.split(line)
    command = cli.get_command(click.Context(cli), name)
    assert command is not None, f"{page}: {line}"
    command.make_context(name, words)


def test_options_in_prose_are_there() -> None:
    """`--option` between backquotes: one of a subcommand, of a script, or of a tool that is named beside it."""
    known = {"--help", "--version", "--json", "--all", "--dev", "--tables", "--write", "--guests"}
    known |= set(guest_options()._option_string_actions)
    for name in cli.list_commands(click.Context(cli)):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        known |= {spelled for param in command.params for spelled in (*param.opts, *param.secondary_opts)}
    unknown = [
        f"{page.name}: {option}"
        for page in PAGES
        for option in re.findall(r"`(--[a-z-]+)", prose_of(page))
        if option not in known
    ]
    assert not unknown
