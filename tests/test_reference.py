"""docs/REFERENCE.md against a running server, so that neither changes without the other."""

import re
import subprocess

import psycopg
import pytest
from throwaway import PROJECT, clean_environment

REFERENCE = (PROJECT / "docs/REFERENCE.md").read_text()
ERROR_RS = (PROJECT / "src/error.rs").read_text()

# How the page says who changes a setting, and pg_settings.context does.
CHANGES_BY = {
    "restart": "postmaster",
    "reload": "sighup",
    "session (superuser)": "superuser",
    "session": "user",
    "nobody": "internal",
}

# The objects that the extensions consist of.
MEMBERS = """
    SELECT classid, objid FROM pg_depend
    WHERE deptype = 'e' AND refclassid = 'pg_extension'::regclass
      AND refobjid IN (SELECT oid FROM pg_extension WHERE extname IN ('snowflake_id', 'snowflake_id_node', 'snowflake_id_migrate'))
"""

# How the page names an object: with its schema only where that is always the same.
NAMED = "CASE WHEN {0}::regnamespace::text ^@ 'snowflake_id_' THEN {0}::regnamespace || '.' ELSE '' END || {1}"
FUNCTION = NAMED.format("pronamespace", "proname")
RELATION = NAMED.format("relnamespace", "relname")


@pytest.fixture
def connection(connection):
    """With all extensions."""
    connection.execute("CREATE EXTENSION snowflake_id_node; CREATE EXTENSION snowflake_id_migrate")
    return connection


def section(heading):
    """What stands below a heading, up to the next one."""
    return re.split(r"^#+ ", REFERENCE.split(f"\n{heading}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def subheadings(heading):
    """The sub-headings of a section."""
    whole = REFERENCE.split(f"\n{heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^### (.*)$", whole, flags=re.MULTILINE)


def table(heading, number=0):
    """The rows of a table below a heading, without code marks and the table's head."""
    found = re.findall(r"^\|(?:---\|)+\n((?:\|.*\n)+)", section(heading), flags=re.MULTILINE)[number]
    rows = [line.replace("`", "").strip("|").split("|") for line in found.splitlines()]
    return [tuple(cell.strip() for cell in row) for row in rows]


def examples():
    """Each example's line, its SQL and, where the page shows it, its output."""
    block = r"^```sql\n(.*?)^```\n(?:```output\n(.*?)^```\n)?"
    for match in re.finditer(block, REFERENCE, flags=re.MULTILINE | re.DOTALL):
        yield REFERENCE.count("\n", 0, match.start()) + 1, match[1], match[2]


def test_functions(connection):
    """Signatures as psql shows them, and what the planner is told; all have a comment."""
    rows = connection.execute(
        f"""
        SELECT format('%s(%s)', {FUNCTION}, pg_get_function_arguments(oid)) || coalesce(' → ' || pg_get_function_result(oid), ''),
               concat_ws(', ',
                   CASE provolatile WHEN 'i' THEN 'IMMUTABLE' WHEN 's' THEN 'STABLE' ELSE 'VOLATILE' END,
                   CASE WHEN proisstrict THEN 'STRICT' ELSE 'CALLED ON NULL INPUT' END,
                   CASE proparallel WHEN 's' THEN 'PARALLEL SAFE' WHEN 'r' THEN 'PARALLEL RESTRICTED'
                                    ELSE 'PARALLEL UNSAFE' END),
               {FUNCTION}, obj_description(oid, 'pg_proc')
        FROM pg_proc WHERE ('pg_proc'::regclass, oid) IN ({MEMBERS})
        """
    ).fetchall()
    written = re.findall(r"^```text\n((?:snowflake|pg_stat)_[\w.]+\(.*)\n```\n(.*)$", REFERENCE, flags=re.MULTILINE)
    assert sorted(written) == sorted(row[:2] for row in rows)
    headings = re.findall(r"^### ((?:snowflake_id_(?:node|migrate)\.|snowflake_|pg_stat_)\w+)$", REFERENCE, flags=re.MULTILINE)
    assert sorted(set(headings) - set(subheadings("## Views and tables"))) == sorted({row[2] for row in rows})
    assert [row[2] for row in rows if not row[3]] == []


def test_views(connection):
    """All views and the tables, with a comment; and nothing else belongs to the extensions but functions and a schema."""
    rows = connection.execute(
        f"""
        SELECT {RELATION}, relkind, obj_description(oid, 'pg_class')
        FROM pg_class WHERE ('pg_class'::regclass, oid) IN ({MEMBERS})
        """
    ).fetchall()
    assert sorted(subheadings("## Views and tables")) == sorted(row[0] for row in rows)
    assert {row[0]: row[1] for row in rows if row[1] != "v"} == {
        "snowflake_id_migrate.conversions": "r",
        "snowflake_id_node.audits": "r",
        "snowflake_id_node.high_water_marks": "r",
        "snowflake_id_node.registry": "r",
        "snowflake_id_node.samples": "r",
    }
    assert [row for row in rows if not row[2]] == []
    kinds = connection.execute(f"SELECT DISTINCT classid::regclass::text FROM ({MEMBERS}) AS members").fetchall()
    # Since PostgreSQL 17 a view's row type counts, too.
    assert {kind for (kind,) in kinds} <= {"pg_class", "pg_namespace", "pg_proc", "pg_type"}


def test_columns(connection):
    """Every column of them, in its order, with its type and a comment on it."""
    rows = connection.execute(
        f"""
        SELECT {RELATION}, attname, replace(format_type(atttypid, NULL), 'timestamp with time zone', 'timestamptz'),
               col_description(attrelid, attnum)
        FROM pg_class JOIN pg_attribute ON attrelid = oid AND attnum > 0
        WHERE ('pg_class'::regclass, oid) IN ({MEMBERS}) ORDER BY attnum
        """
    ).fetchall()
    # The presets have the columns of snowflake_layout().
    relations = set(subheadings("## Views and tables")) - {"snowflake_layouts"}
    for relation in relations:
        written = []
        for names, types, _ in table(f"### {relation}"):
            names, types = names.split(", "), types.split(", ")
            written += zip(names, types if len(types) > 1 else types * len(names), strict=True)
        assert written == [row[1:3] for row in rows if row[0] == relation], relation
    assert [row for row in rows if row[0] in relations and not row[3]] == []


def test_states():
    """Every word that snowflake_status has for what the keeper says."""
    source = (PROJECT / "crates/core/src/keeper/verdict.rs").read_text()
    states = set(re.findall(r'\(State::\w+, "(\w+)"\)', source))
    written = {word for row in table("### snowflake_status", 1) for word in row[0].split(", ")}
    assert states
    assert states - written == set()


def test_settings(connection):
    """Type, unit, default, range and context of every setting; no other is named anywhere."""
    rows = connection.execute(
        """
        SELECT name, vartype, coalesce(unit, ''), coalesce(nullif(boot_val, ''), 'empty'),
               coalesce(min_val, ''), coalesce(max_val, ''), context
        FROM pg_settings WHERE starts_with(name, 'snowflake_id.')
        """
    ).fetchall()
    written = [(*row[:-1], CHANGES_BY[row[-1]]) for row in table("## Settings")]
    assert sorted(written) == sorted(rows)
    assert [row[:2] for row in table("## Settings", 1)] == list(CHANGES_BY.items())
    names = {row[0] for row in rows}
    assert set(subheadings("## Settings")) == names
    assert set(re.findall(r"\bsnowflake_id\.\w+", REFERENCE)) == names


def test_presets(connection):
    rows = connection.execute(
        """
        SELECT name, layout, epoch::text, nodes::text, ids_per_tick::text, extract(year FROM ends_at)::text, source
        FROM snowflake_layouts
        """
    ).fetchall()
    assert table("### Presets") == rows


def test_errors():
    """Every SQLSTATE and every message that the extension has, and no other."""
    names = re.findall(r"\bERRCODE_([A-Z_]+)", ERROR_RS)
    sqlstates = {getattr(psycopg.errors, name.title().replace("_", "")).sqlstate for name in names}
    # What follows the kind.
    kind = r"(?:\w+|Code\((?:[^()]|\{[^}]*\})*\))"
    messages = re.findall(rf'Text::new\(\s*{kind},\s*(?:format!\(\s*)?"((?:[^"\\]|\\.)*)"', ERROR_RS)
    assert len(messages) == ERROR_RS.count("=> Text::new(") + ERROR_RS.count("                Text::new(")
    texts = {text.replace('\\"', '"') for text in messages}
    written = table("## Errors")
    assert {sqlstate for row in written for sqlstate in row[0].split(", ")} == sqlstates
    assert sorted(row[1] for row in written) == sorted(re.sub(r"\{.*?\}", "…", text) for text in texts)


def test_every_client_can_read_the_errors():
    """A client's encoding may lack anything but ASCII; an error in an error would hide the first."""
    assert ERROR_RS.isascii()
    assert (PROJECT / "src/settings.rs").read_text().isascii()


def test_examples(installation, start_server):
    """All run, in the order of the page, as psql's input; what stands below one is what it prints."""
    server = start_server(postgres={"shared_preload_libraries": "pg_stat_statements, snowflake_id"})
    server.psql("CREATE DATABASE examples")
    assert REFERENCE.count("```output") == sum(output is not None for _, _, output in examples())
    for line, sql, output in examples():
        done = subprocess.run(
            [installation.bin("psql"), "-Xq", "-d", server.conninfo("examples")],
            input=sql,
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        )
        if output is None:
            assert "ERROR:" not in done.stdout, f"docs/REFERENCE.md:{line}"
        else:
            assert done.stdout.strip("\n") == output.strip("\n"), f"docs/REFERENCE.md:{line}"
