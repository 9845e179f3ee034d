#!/usr/bin/env python3
"""The scripts of releases, in sql/, and the versions that several files name.

    tools/releases.py check DIRECTORY    what `make lint` says of them
    tools/releases.py freeze DIRECTORY   take the install scripts of this version into sql/
    tools/releases.py begin VERSION      upgrade scripts from that version to this one, to be filled in

DIRECTORY holds control files and scripts as `make` has put them together. sql/README.md has the rules.
"""

import json
import os
import re
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
SQL = PROJECT / "sql"
NUMBERS = r"\d+\.\d+\.\d+"

# What else says the version, and must say the same. A file that is not there says nothing.
NAMED_IN = {
    "META.json": r'^    "version": "(.*)",$',
    "debian/changelog": r"\A\S+ \((.*)-\d+\) ",
    "packaging/snowflake_id.spec": r"^Version: +(.*)$",
}


def version():
    """The one in Cargo.toml."""
    return re.search(r'^version = "(.*)"', (PROJECT / "Cargo.toml").read_text(), re.MULTILINE)[1]


def is_released(of):
    """Whether the changelog gives the version a date."""
    state = re.search(rf"^## {re.escape(of)}, (.*)$", (PROJECT / "CHANGELOG.md").read_text(), re.MULTILINE)
    if not state:
        raise SystemExit(f"CHANGELOG.md has no heading '## {of}, not yet released'")
    if not re.fullmatch(r"not yet released|\d{4}-\d\d-\d\d", state[1]):
        raise SystemExit(f"CHANGELOG.md: '{state[1]}' is neither a date nor 'not yet released'")
    return state[1] != "not yet released"


def head(extension, to):
    """What every upgrade script begins with: it refuses a library that is too old."""
    text = (PROJECT / "src/sql/upgrade.sql").read_text()
    return text.replace("@extension@", extension).replace("@to@", to)


def revoke(extension):
    """What takes away all rights on what the script has created, and on nothing that was there before."""
    text = (PROJECT / "src/sql/revoke.sql").read_text().replace("@extension@", extension)
    # A member since this transaction, whose age is 0, or since a subtransaction of it, which is younger.
    # Those of very long ago seem to be younger, too, but by far more.
    member = "            AND d.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog.\"char\"\n"
    new = (
        "            AND pg_catalog.pg_current_xact_id() IS NOT NULL\n"
        "            AND pg_catalog.age(d.xmin) OPERATOR(pg_catalog.<=) 0::pg_catalog.int4\n"
        "            AND pg_catalog.age(d.xmin) OPERATOR(pg_catalog.>=) (-1000000)::pg_catalog.int4\n"
    )
    assert text.count(member) == 1
    return text.replace(member, member + new)


def upgrade(extension, to, changes="", grants=""):
    """An upgrade script: what it changes, and who may use what it has created."""
    return f"{head(extension, to)}\n{changes}\n{revoke(extension)}{grants}"


def declared(script):
    """What a script says of its C functions, by their symbols: arguments and result."""
    found = re.findall(r"^CREATE FUNCTION \S+?(\(.*?)\bLANGUAGE c AS 'MODULE_PATHNAME', '(\w+)'", script, re.MULTILINE | re.DOTALL)
    properties = r"\n(?:IMMUTABLE|STABLE|VOLATILE|STRICT|PARALLEL|SECURITY|SET|ROWS|COST)\b"
    return {symbol: " ".join(re.split(properties, text)[0].split()) for text, symbol in found}


def extensions(directory):
    """The extensions' names."""
    return sorted(path.stem for path in directory.glob("snowflake_id*.control"))


def complaints(directory):
    """What is wrong, in sentences."""
    current = version()
    if not re.fullmatch(NUMBERS, current):
        yield f"Cargo.toml: version {current} is not three numbers"
    for name, pattern in NAMED_IN.items():
        path = PROJECT / name
        if path.exists() and (found := re.search(pattern, path.read_text(), re.MULTILINE)) and found[1] != current:
            yield f"{name} says version {found[1]}, and Cargo.toml {current}"
        elif path.exists() and not found:
            yield f"{name} says no version"
    yield from extension_complaints(directory, current)
    if (PROJECT / "META.json").exists():
        provided = json.loads((PROJECT / "META.json").read_text())["provides"]
        for extension in extensions(directory):
            if provided.get(extension, {}).get("version") != current:
                yield f"META.json does not provide {extension} of version {current}"


def extension_complaints(directory, current):
    """What is wrong with the scripts."""
    for extension in extensions(directory):
        script = f"{extension}--{current}.sql"
        kept = SQL / script
        composed = (directory / script).read_text()
        if not kept.exists():
            if is_released(current):
                yield f"sql/{script} is missing: version {current} is released"
        elif kept.read_text() != composed:
            if is_released(current):
                yield f"src/sql has changed since version {current} was released: give Cargo.toml the next version"
            else:
                yield f"sql/{script} is not what src/sql says: run 'make freeze'"
        steps = {}
        for path in sorted(SQL.glob(f"{extension}--*--*.sql")):
            _, start, end = path.stem.split("--")
            steps.setdefault(start, []).append(end)
            text = path.read_text()
            if not text.startswith(head(extension, end)):
                yield f"sql/{path.name} does not begin with what src/sql/upgrade.sql says"
            if re.search(r"^CREATE ", text, re.MULTILINE) and revoke(extension) not in text:
                yield f"sql/{path.name} creates something, and does not take away what default privileges gave"
        for path in sorted(SQL.glob(f"{extension}--*.sql")):
            for symbol, was in declared(path.read_text()).items():
                if declared(composed).get(symbol, was) != was:
                    yield f"{symbol} is declared otherwise in sql/{path.name}: what has been installed would crash; give it a new name"
            start = path.stem.split("--")[1]
            seen, ahead = set(), [start]
            while ahead:
                at = ahead.pop()
                if at not in seen:
                    seen.add(at)
                    ahead += steps.get(at, [])
            if current not in seen:
                yield f"no upgrade script in sql/ leads {extension} from version {start} to {current}"


def freeze(directory):
    """Take the composed scripts over."""
    current = version()
    for extension in extensions(directory):
        script = f"{extension}--{current}.sql"
        text, kept = (directory / script).read_text(), SQL / script
        if kept.exists() and kept.read_text() == text:
            continue
        if is_released(current):
            raise SystemExit(f"version {current} is released: sql/{script} does not change again")
        kept.write_text(text)
        print(f"sql/{script}")


def begin(start):
    """Upgrade scripts that change nothing yet."""
    current = version()
    for path in sorted(SQL.glob(f"*--{start}.sql")):
        extension = path.stem.split("--")[0]
        new = SQL / f"{extension}--{start}--{current}.sql"
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w") as file:
            file.write(upgrade(extension, current, "-- What changes.\n", "-- Rights on what is new.\n"))
        print(f"sql/{new.name}")


def main():
    match sys.argv[1:]:
        case ["check", directory]:
            found = list(complaints(Path(directory)))
            for line in found:
                print(line)
            sys.exit(bool(found))
        case ["freeze", directory]:
            freeze(Path(directory))
        case ["begin", start]:
            begin(start)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
