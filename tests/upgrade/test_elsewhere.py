"""The tree of the extension image for CloudNativePG, and a server that finds the files there alone."""

import os
import subprocess

import pytest
import releases
from clients import eventually
from nodes import next_id, status
from throwaway import PROJECT, Installation
from versions import NEXT, PRESENT, Package


@pytest.fixture(scope="module")
def elsewhere():
    """An installation without the extension, and the image's tree beside it."""
    with Installation() as installation:
        package = Package(installation)
        tree = installation.root / "image"
        root, libdir, scripts = installation.root, package.library.parent, package.scripts
        names = [os.fspath(path)[len(os.fspath(root)) :] for path in (libdir, scripts)]
        # What is in the package and nothing of the server's.
        built = installation.directory() / "built"
        for path in [package.library, *scripts.glob("snowflake_id*")]:
            target = built / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
        subprocess.run([PROJECT / "packaging/image", built, *names, str(installation.major), tree], check=True)
        tree.chmod(0o755)
        yield installation, tree


def test_the_images_tree(elsewhere):
    """Has exactly what the specification of image volumes has: libraries, scripts, licences."""
    _, tree = elsewhere
    extensions = releases.extensions(tree / "share/extension")
    scripts = {f"share/extension/{name}" for name in os.listdir(tree / "share/extension")}
    wanted = {f"share/extension/{name}.control" for name in extensions} | {f"share/extension/{name}--{PRESENT}.sql" for name in extensions}
    assert scripts >= wanted
    assert all(name.split("/")[-1].split("--")[0].removesuffix(".control") in extensions for name in scripts)
    found = {os.path.relpath(os.path.join(where, name), tree) for where, _, names in os.walk(tree) for name in names}
    assert found == {"lib/snowflake_id.so", "licenses/LICENSE", "licenses/CRATES", *scripts}
    crates = (tree / "licenses/CRATES").read_text()
    assert "Files: vendor/pgrx-" in crates and "\nLicense: MIT\n Permission is hereby granted" in crates


def test_files_outside_of_the_servers_tree(elsewhere, start, connect):
    """Preloading, CREATE EXTENSION, ids, and an upgrade: as where an image is mounted."""
    installation, tree = elsewhere
    if installation.major < 18:
        pytest.skip("extension_control_path is of PostgreSQL 18")
    package = Package(installation, tree)
    paths = {"extension_control_path": f"$system:{tree}/share", "dynamic_library_path": f"$libdir:{tree}/lib"}
    server = start(installation, **paths)
    connection = connect(server)
    connection.execute("CREATE EXTENSION snowflake_id")
    eventually(lambda: status(connection).state == "ready")
    connection.execute("CREATE TABLE orders (id bigint PRIMARY KEY DEFAULT snowflake_nextval())")
    before = connection.execute("INSERT INTO orders DEFAULT VALUES RETURNING id").fetchone()[0]
    assert connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'snowflake_id_node'").fetchone() == (PRESENT,)

    package.install(NEXT)
    server.restart()
    connection = connect(server)
    for extension in "snowflake_id", "snowflake_id_node":
        connection.execute(f"ALTER EXTENSION {extension} UPDATE")
    assert connection.execute("SELECT snowflake_made_up()").fetchone() == (42,)
    eventually(lambda: status(connection).state == "ready")
    assert next_id(connection) > before
