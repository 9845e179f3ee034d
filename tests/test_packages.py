"""What packages say of themselves; `make test-packages` builds and tries them."""

import json
import re

import licences
import pytest
import releases
from throwaway import PROJECT

pytestmark = pytest.mark.once("files of packages are read, no server is asked")


def test_pgxn():
    """META.json has what PGXN's specification requires, and its files exist."""
    meta = json.loads((PROJECT / "META.json").read_text())
    assert set(meta) >= {"name", "version", "abstract", "maintainer", "license", "provides", "meta-spec"}
    assert meta["meta-spec"]["version"] == "1.0.0"
    for name, part in meta["provides"].items():
        assert (PROJECT / part["file"]).exists() and (PROJECT / part["docfile"]).exists(), name
    majors = [int(number) for number in re.findall(r"^pg(\d+) = ", (PROJECT / "Cargo.toml").read_text(), re.MULTILINE)]
    assert meta["prereqs"]["runtime"]["requires"]["PostgreSQL"] == f"{min(majors)}.0.0"


def test_debian_control_is_that_of_its_template():
    """Debian's tool would write the same for the one PostgreSQL that Debian 12 has."""
    template = (PROJECT / "debian/control.in").read_text()
    assert (PROJECT / "debian/control").read_text() == template.replace("PGVERSION", "15")


@pytest.mark.parametrize(
    ("expression", "used"),
    [
        ("MIT OR Apache-2.0", ["Apache-2.0"]),
        ("MIT/Apache-2.0", ["Apache-2.0"]),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", ["Apache-2.0", "Unicode-3.0"]),
        ("Apache-2.0 WITH LLVM-exception OR MIT", ["MIT"]),
        ("MIT AND GPL-3.0-only", None),
        ("GPL-3.0-only OR ISC", ["ISC"]),
        ("LGPL-2.1-or-later", None),
    ],
)
def test_licences(expression, used):
    """Of several the one that deny.toml names first; nothing that it does not name."""
    assert licences.chosen(expression) == used


@pytest.fixture
def release(tmp_path, monkeypatch):
    """A project of one extension, of version 0.2.0 after 0.1.0; what tools/releases.py says of it."""
    for name, text in {
        "Cargo.toml": '[workspace.package]\nversion = "0.2.0"\n',
        "CHANGELOG.md": "## 0.2.0, not yet released\n\n## 0.1.0, 2026-11-28\n",
        "src/sql/upgrade.sql": (PROJECT / "src/sql/upgrade.sql").read_text(),
        "src/sql/revoke.sql": (PROJECT / "src/sql/revoke.sql").read_text(),
        "sql/snowflake_id--0.1.0.sql": "SELECT 1;\n",
        "made/snowflake_id.control": "",
        "made/snowflake_id--0.2.0.sql": "SELECT 2;\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(releases, "PROJECT", tmp_path)
    monkeypatch.setattr(releases, "SQL", tmp_path / "sql")
    return tmp_path, lambda: list(releases.complaints(tmp_path / "made"))


def test_releases(release, capsys):
    """A script is missing, then begun; frozen; changed before the release, and after it."""
    project, complaints = release
    assert complaints() == ["no upgrade script in sql/ leads snowflake_id from version 0.1.0 to 0.2.0"]
    releases.begin("0.1.0")
    assert complaints() == []
    with pytest.raises(FileExistsError):
        releases.begin("0.1.0")
    releases.freeze(project / "made")
    assert complaints() == []
    (project / "made/snowflake_id--0.2.0.sql").write_text("SELECT 3;\n")
    assert complaints() == ["sql/snowflake_id--0.2.0.sql is not what src/sql says: run 'make freeze'"]
    releases.freeze(project / "made")
    assert complaints() == []
    (project / "CHANGELOG.md").write_text("## 0.2.0, 2026-12-24\n")
    assert complaints() == []
    (project / "made/snowflake_id--0.2.0.sql").write_text("SELECT 4;\n")
    assert complaints() == ["src/sql has changed since version 0.2.0 was released: give Cargo.toml the next version"]
    with pytest.raises(SystemExit, match="version 0.2.0 is released"):
        releases.freeze(project / "made")
    script = project / "sql/snowflake_id--0.1.0--0.2.0.sql"
    script.write_text("CREATE VIEW v AS SELECT 1;\n")
    assert complaints()[1:] == [
        "sql/snowflake_id--0.1.0--0.2.0.sql does not begin with what src/sql/upgrade.sql says",
        "sql/snowflake_id--0.1.0--0.2.0.sql creates something, and does not take away what default privileges gave",
    ]
    function = "CREATE FUNCTION f(id bigint, OUT a text{}) RETURNS record\nSTABLE\nLANGUAGE c AS 'MODULE_PATHNAME', 'f_wrapper';\n"
    (project / "sql/snowflake_id--0.1.0.sql").write_text(function.format(""))
    (project / "made/snowflake_id--0.2.0.sql").write_text(function.format(", OUT b text").replace("STABLE", "VOLATILE"))
    crash = "what has been installed would crash; give it a new name"
    assert f"f_wrapper is declared otherwise in sql/snowflake_id--0.1.0.sql: {crash}" in complaints()
    (project / "made/snowflake_id--0.2.0.sql").write_text(function.format("").replace("STABLE", "VOLATILE"))
    assert not any(crash in line for line in complaints())
    (project / "META.json").write_text('{\n    "version": "0.1.0",\n    "provides": {}\n}\n')
    capsys.readouterr()
    assert [complaints()[n] for n in (0, -1)] == [
        "META.json says version 0.1.0, and Cargo.toml 0.2.0",
        "META.json does not provide snowflake_id of version 0.2.0",
    ]
