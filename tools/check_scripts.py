#!/usr/bin/env python3
"""Looks for what others could put in the way of the extensions' scripts, by pgspot.

    tools/check_scripts.py SCRIPT...

pgspot warns of names that a search_path decides. Those of snowflake_id are names of what the script
itself creates: it is relocatable, so it cannot say which schema it goes to. Nobody can be there before:
CREATE without OR REPLACE is an error where such a name is taken, functions are called with all their
arguments, each of exactly its type, and pg_catalog is searched first. Every other finding is a fault.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

# What pgspot says of the extension's own names: unqualified call, unqualified reference.
BY_NAME = re.compile(r"PS01[67]: Unqualified (?:function call|object reference): (\w+) at line \d+$")
CREATED = re.compile(r"^CREATE (?:FUNCTION|PROCEDURE|VIEW|TABLE) (\w+)", re.MULTILINE)
# pgspot does not know bodies in standard SQL; as a query, the body is looked at like any other.
STANDARD_BODY = re.compile(r"^CREATE FUNCTION \w+\([^)]*\)(?:(?!AS )[^;])*?^RETURN ([^;]*);", re.MULTILINE)

# A procedure that commits can have no SET clause. What its body names, is looked at all the same.
COMMITS = re.compile(r"^CREATE PROCEDURE (\w+)\([^;]*?\)\nLANGUAGE plpgsql AS \$\$\n(?:(?!\$\$).)*?^ +COMMIT;$", re.MULTILINE | re.DOTALL)
NO_PATH = re.compile(r"PS005: Function without explicit search_path: (\w+)\(")


def findings(script):
    """What pgspot finds in a script, but for what is argued above."""
    # The first line is for psql.
    text = re.sub(r"\A\\.*\n", "", script)
    text = STANDARD_BODY.sub(r"CREATE VIEW body AS SELECT \1;", text)
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(text)
        file.flush()
        command = [Path(sys.executable).with_name("pgspot"), "--ignore-lang", "c", file.name]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    # It ends with this line where it could read all of it.
    if not re.search(r"^ *Errors: \d+ Warnings: \d+ Unknown: 0 *\n\s*\Z", done.stdout, re.MULTILINE):
        return [f"pgspot could not read it: {done.stdout.strip()}"]
    own = {*CREATED.findall(script), "body"}
    found = re.findall(r"^PS\d+: .*$", done.stdout, re.MULTILINE)
    found = [line for line in found if not ((name := BY_NAME.match(line)) and name[1] in own)]
    commits = COMMITS.findall(script)
    return [line for line in found if not ((name := NO_PATH.match(line)) and name[1] in commits)]


def main():
    failed = False
    for path in sys.argv[1:]:
        found = findings(Path(path).read_text())
        failed |= bool(found)
        print(f"{path}: {len(found)} findings")
        for line in found:
            print(f"  {line}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
