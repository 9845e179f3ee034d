#!/usr/bin/env python3
"""The package of a made-up next version, from the present one: for the test of upgrades.

    packaging/next_package.py PACKAGE DIRECTORY

Its library says the next version, and its scripts lead there; else it is the same.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
import releases

PRESENT = releases.version()
NEXT = "{}.{}.0".format(PRESENT.split(".")[0], int(PRESENT.split(".")[1]) + 1)


def main():
    package, directory = map(Path, sys.argv[1:])
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
        control = tree / "DEBIAN/control"
        control.write_text(re.sub(r"^Version: .*$", f"Version: {NEXT}-1", control.read_text(), flags=re.MULTILINE))
        (tree / "DEBIAN/md5sums").unlink()
        library = next(tree.rglob("snowflake_id.so"))
        marks = [b"snowflake_id.version=%s\0" % version.encode() for version in (PRESENT, NEXT)]
        built = library.read_bytes()
        assert built.count(marks[0]) == 1 and len(marks[0]) == len(marks[1])
        library.write_bytes(built.replace(*marks))
        scripts = next(tree.rglob("snowflake_id.control")).parent
        for extension in releases.extensions(scripts):
            path = scripts / f"{extension}.control"
            path.write_text(path.read_text().replace(PRESENT, NEXT))
            (scripts / f"{extension}--{NEXT}.sql").write_text((scripts / f"{extension}--{PRESENT}.sql").read_text())
            (scripts / f"{extension}--{PRESENT}--{NEXT}.sql").write_text(releases.upgrade(extension, NEXT))
        name = package.name.replace(f"_{PRESENT}-", f"_{NEXT}-")
        subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, directory / name], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
