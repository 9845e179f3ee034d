#!/usr/bin/env python3
"""The licences of the crates that the library is made of.

    tools/licences.py check        what `make lint` says: licences and sources that deny.toml does not allow
    tools/licences.py copyright    debian/copyright, with all crates

Needs cargo, and fetches the crates that are not there yet; not where CARGO_NET_OFFLINE is set.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
DENY = tomllib.loads((PROJECT / "deny.toml").read_text())
ALLOWED = DENY["licenses"]["allow"]
HEAD = """
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: snowflake_id
Comment: The library contains the crates that are named below with their versions. Of several
 licences that a crate offers, the one named here is taken.

Files: *
Copyright: 2025-2026 The snowflake_id maintainers
License: Apache-2.0
"""
SOURCES = [f"registry+{url}" for url in DENY["sources"]["allow-registry"]]


def crates(everything=False):
    """Those that are linked or run at build time for Linux; or all of the workspace."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    for target in DENY["graph"]["targets"]:
        command += ["--filter-platform", target]
    metadata = json.loads(subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, check=True).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    kinds = (None, "build", "dev") if everything else (None, "build")
    ahead = metadata["workspace_members"] if everything else [metadata["resolve"]["root"]]
    seen = set()
    while ahead:
        at = ahead.pop()
        if at not in seen:
            seen.add(at)
            ahead += [d["pkg"] for d in nodes[at]["deps"] if any(kind["kind"] in kinds for kind in d["dep_kinds"])]
    found = [packages[at] for at in seen if packages[at]["source"]]
    return sorted(found, key=lambda package: (package["name"], package["version"]))


def chosen(expression):
    """The licences by which a crate is used: of each OR the one that deny.toml names first; None if none is allowed."""
    tokens = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))

    def either():
        options = [both()]
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            options.append(both())
        options = [option for option in options if option is not None]
        return min(options, key=lambda names: [ALLOWED.index(name) for name in names], default=None)

    def both():
        names = one()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            more = one()
            names = None if names is None or more is None else [*names, *(name for name in more if name not in names)]
        return names

    def one():
        token = tokens.pop(0)
        if token == "(":
            names = either()
            tokens.pop(0)
            return names
        if tokens and tokens[0] == "WITH":
            token += " ".join(["", tokens.pop(0), tokens.pop(0)])
        return [token] if token in ALLOWED else None

    return either()


def holders(package):
    """Who has the copyright: what the crate's files say, or else its authors."""
    lines = []
    for file in sorted(Path(package["manifest_path"]).parent.glob("*")):
        if re.match(r"(LICEN[SC]E|COPYING|COPYRIGHT|NOTICE)", file.name, re.IGNORECASE) and file.is_file():
            text = file.read_text(errors="replace")
            # A year or a sign: the words of the licence itself have neither.
            lines += re.findall(r"^[ \t/*#]*(Copyright (?:\(c\)|©|\d{4}).*?)[ \t.]*$", text, re.MULTILINE | re.IGNORECASE)
    named = [re.sub(r"\s+", " ", re.sub(r"(?i)^copyright (\(c\)|©)? ?", "", line)) for line in lines if "yyyy" not in line]
    return list(dict.fromkeys(named)) or package["authors"] or [f"the authors of {package['name']}"]


def copyright():
    """In Debian's machine-readable form."""
    stanzas = [HEAD.strip()]
    used = {"Apache-2.0"}
    for package in crates():
        names = chosen(package["license"])
        used.update(names)
        who = "\n           ".join(holders(package))
        stanzas.append(f"Files: vendor/{package['name']}-{package['version']}/*\nCopyright: {who}\nLicense: {' and '.join(names)}")
    for name in sorted(used):
        if name == "Apache-2.0":
            text = "On Debian systems, the text is in /usr/share/common-licenses/Apache-2.0."
        else:
            text = (PROJECT / "packaging/licences" / name).read_text().strip()
        lines = "\n".join(f" {line.strip()}" if line.strip() else " ." for line in text.splitlines())
        stanzas.append(f"License: {name}\n{lines}")
    return "\n\n".join(stanzas) + "\n"


def complaints():
    """Crates that deny.toml does not allow."""
    for package in crates(everything=True):
        name = f"{package['name']} {package['version']}"
        if package["source"] not in SOURCES:
            yield f"{name} comes from {package['source']}"
        if not package["license"] or chosen(package["license"]) is None:
            yield f"{name} has the licence {package['license']}, which deny.toml does not allow"


def main():
    match sys.argv[1:]:
        case ["check"]:
            found = list(complaints())
            for line in found:
                print(line)
            sys.exit(bool(found))
        case ["copyright"]:
            sys.stdout.write(copyright())
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
