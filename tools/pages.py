"""Whether each Markdown page renders as it is meant: `make lint` runs it.

Pages are parsed as GitHub does. What was meant as a table, a list, a heading, a link or code and has
become text is a complaint, and so is a row with more or fewer cells than its table has columns, of which
the one is dropped and the other left empty without a word. Links within the repository must lead to a
file that there is, and to a heading in it.
"""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt

PROJECT = Path(__file__).resolve().parent.parent

LIST = "a list's item is text"
# What stands in a text only where something was not understood.
MISTAKES = {
    r"^\s*\|.*\|\s*$": "a table's row is text",
    r"\|\s*:?-{3,}:?\s*\|": "a table's rule is text",
    r"^\s*([-*+]|\d+[.)])\s": LIST,
    r"^\s*#": "a heading is text",
    r"`": "code is text",
    r"\*\*": "an emphasis is text",
    r"\]\(|\]\[": "a link is text",
    r"</?[a-z]+[^>]*>": "HTML is text",
}


def parser():
    # What was escaped stays a token of its own.
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).disable("text_join")


def slug(heading, seen):
    """The anchor that GitHub gives a heading."""
    plain = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
    number = seen.get(plain)
    seen[plain] = 0 if number is None else number + 1
    return plain if number is None else f"{plain}-{seen[plain]}"


def plain(inline):
    """What an inline token says, without its marks."""
    return "".join(child.content for child in inline.children if child.type in ("text", "text_special", "code_inline"))


def anchors(text):
    """The anchors of a page."""
    tokens, seen = parser().parse(text), {}
    return {slug(plain(tokens[i + 1]), seen) for i, token in enumerate(tokens) if token.type == "heading_open"}


def cells(line):
    """How many cells a row of a table has as it is written."""
    row = re.sub(r"^[\s>]*(?:(?:[-*+]|\d+[.)])\s+)?", "", line.rstrip())
    row = row.removeprefix("|")
    row = row[:-1] if row.endswith("|") and not row.endswith("\\|") else row
    return len(re.findall(r"(?<!\\)\|", row)) + 1


def texts(inline):
    """The lines of text in an inline token, without code; each with where it begins."""
    line, number = "", 0
    for child in inline.children:
        if child.type in ("softbreak", "hardbreak"):
            yield number, line
            line, number = "", number + 1
        elif child.type == "text":
            line += child.content
        elif child.type in ("code_inline", "html_inline", "text_special"):
            # What was escaped by a backslash is meant as text.
            line += "\0"
    yield number, line


def links(inline):
    for child in inline.children:
        for name in "href", "src":
            if child.attrs and name in child.attrs:
                yield child.attrs[name]


def complaints(text, leads=lambda link: None):
    """What is wrong with a page: a line's number, and what it is. `leads` says what is wrong with a link."""
    lines = text.splitlines()
    columns = 0
    heading = False
    for token in parser().parse(text):
        where = token.map[0] + 1 if token.map else 0
        if token.type == "table_open":
            columns = cells(lines[token.map[0]])
        elif token.type == "tr_open" and cells(lines[token.map[0]]) != columns:
            yield where, f"{cells(lines[token.map[0]])} cells in a table with {columns} columns"
        elif token.type == "html_block" and not token.content.startswith("<!--"):
            yield where, "HTML"
        elif token.type == "code_block":
            yield where, "code by indentation: mark it"
        elif token.type == "fence" and lines[token.map[1] - 1].strip() != token.markup:
            yield where, "code without an end"
        elif token.type == "inline":
            for number, line in texts(token):
                for pattern, mistake in MISTAKES.items():
                    # A heading may begin with a number.
                    if re.search(pattern, line) and not (heading and mistake == LIST):
                        yield where + number, f"{mistake}: {line.strip()}"
            for link in links(token):
                if wrong := leads(link):
                    yield where, wrong
        heading = token.type == "heading_open"


def leads_of(page):
    """What is wrong with a link of a page, if anything is."""

    def leads(link):
        if re.match(r"[a-z]+:", link):
            return None
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            return f"a link to {path}, which is not there"
        if anchor and (target.suffix != ".md" or anchor not in anchors(target.read_text())):
            return f"a link to {link}: no such heading"
        return None

    return leads


def pages():
    """All that git knows, or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "*.md"]
    found = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    return sorted(path for name in found.split("\0") if name and (path := PROJECT / name).exists())


def main():
    wrong = 0
    for page in pages():
        for line, complaint in complaints(page.read_text(), leads_of(page)):
            print(f"{page.relative_to(PROJECT)}:{line}: {complaint}")
            wrong += 1
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
