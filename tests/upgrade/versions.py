"""Versions to upgrade from and to: those in sql/, the present one, and a made-up next one."""

import re
import shutil
import subprocess

import releases
from throwaway import PROJECT, compile_library

PRESENT = releases.version()
NEXT = "{}.{}.0".format(PRESENT.split(".")[0], int(PRESENT.split(".")[1]) + 1)

# What the made-up version changes: new things of each kind, and changed ones. Rights are apart,
# because those of a fresh installation are set when everything has been created.
CHANGES = {
    "snowflake_id": """
        CREATE FUNCTION snowflake_made_up(factor bigint DEFAULT 7) RETURNS bigint
        IMMUTABLE STRICT PARALLEL SAFE
        LANGUAGE c AS 'MODULE_PATHNAME', 'snowflake_made_up_wrapper';
        COMMENT ON FUNCTION snowflake_made_up(bigint) IS 'six times';
        CREATE VIEW snowflake_made_up_view AS SELECT snowflake_made_up() AS answer;
        COMMENT ON VIEW snowflake_made_up_view IS 'the answer';
        COMMENT ON COLUMN snowflake_made_up_view.answer IS 'itself';
        ALTER FUNCTION snowflake_base62(bigint) COST 7;
        COMMENT ON FUNCTION snowflake_base62(bigint) IS 'changed';
    """,
    "snowflake_id_node": """
        CREATE TABLE snowflake_id_node.made_up (
            id bigint PRIMARY KEY,
            at timestamptz NOT NULL DEFAULT pg_catalog.now(),
            CHECK (id OPERATOR(pg_catalog.>) 0::bigint)
        );
        CREATE INDEX made_up_at ON snowflake_id_node.made_up (at);
        ALTER TABLE snowflake_id_node.made_up REPLICA IDENTITY FULL;
        COMMENT ON TABLE snowflake_id_node.made_up IS 'made up';
        COMMENT ON COLUMN snowflake_id_node.made_up.at IS 'when';
        SELECT pg_catalog.pg_extension_config_dump('snowflake_id_node.made_up'::pg_catalog.regclass, ''::pg_catalog.text);
        CREATE TRIGGER skip_replicated BEFORE INSERT OR UPDATE OR DELETE ON snowflake_id_node.made_up
        FOR EACH ROW EXECUTE FUNCTION snowflake_id_node.skip_replicated();
        ALTER TABLE snowflake_id_node.made_up ENABLE REPLICA TRIGGER skip_replicated;
    """,
}
RIGHTS = {
    "snowflake_id": """
        GRANT EXECUTE ON FUNCTION snowflake_made_up(bigint) TO pg_monitor;
        GRANT SELECT ON snowflake_made_up_view TO PUBLIC;
    """,
    "snowflake_id_node": "GRANT SELECT ON snowflake_id_node.made_up TO pg_monitor;",
}


class Package:
    """The extension's files in an installation, which are replaced as a package manager does."""

    def __init__(self, installation, directory=None):
        self.installation = installation
        self.scripts = directory / "share/extension" if directory else installation.extensions
        self.library = directory / "lib/snowflake_id.so" if directory else installation.library
        self.extensions = releases.extensions(self.scripts)
        self._present = self.library.with_name("snowflake_id.present")
        shutil.copy(self.library, self._present)
        # Versions that have been released: their scripts are in sql/, and so in the package.
        self.released = sorted({path.stem.split("--")[1] for path in releases.SQL.glob("*--*.sql")} - {PRESENT})

    def install(self, version, library=None, changes=None, grants=None):
        """The files of the present or the next version; the library of one of them alone, if it is said."""
        changes, grants = changes or CHANGES, grants or RIGHTS
        for script in self.scripts.glob(f"*--{NEXT}.sql"):
            script.unlink()
        for extension in self.extensions:
            self._put(self.scripts / f"{extension}.control", self._control(extension, version))
            if version == NEXT:
                fresh = (self.scripts / f"{extension}--{PRESENT}.sql").read_text()
                # A fresh installation creates all, then revokes, then grants.
                created, revoked, granted = fresh.partition("\n-- Rights. By default privileges, ")
                assert revoked
                fresh = created + CHANGES.get(extension, "") + revoked + granted + RIGHTS.get(extension, "")
                self._put(self.scripts / f"{extension}--{NEXT}.sql", fresh)
                step = releases.upgrade(extension, NEXT, changes.get(extension, ""), grants.get(extension, ""))
                self._put(self.scripts / f"{extension}--{PRESENT}--{NEXT}.sql", step)
        new = self.library.with_suffix(".new")
        if (library or version) == NEXT:
            self._compile_next(new)
        else:
            shutil.copy(self._present, new)
        # Another file of the same name: the one that a server has loaded stays what it is.
        new.replace(self.library)

    def _control(self, extension, version):
        text = (self.scripts / f"{extension}.control").read_text()
        return re.sub(r"default_version = '.*'", f"default_version = '{version}'", text)

    def _compile_next(self, new):
        mark = b"snowflake_id.version=%s\0"
        marks = [mark % version.encode() for version in (PRESENT, NEXT)]
        assert len(marks[0]) == len(marks[1])
        built = self._present.read_bytes()
        assert built.count(marks[0]) == 1
        # Some compilers write this name into it, and it is by that name that it is looked for.
        base = self.library.with_name("libsnowflake_id.so")
        base.write_bytes(built.replace(*marks))
        base.chmod(0o755)
        # Linked by its bare name, which is what the library then says that it needs.
        compiled = self.library.with_name("next_version.so")
        compile_library(PROJECT / "tests/upgrade/next_version.c", compiled, [self.installation.headers])
        options = ["-Wl,--no-as-needed", f"-L{base.parent}", f"-l:{base.name}", "-Wl,-rpath,$ORIGIN", "-Wl,--unresolved-symbols=ignore-all"]
        source = PROJECT / "tests/upgrade/next_version.c"
        command = ["cc", "-shared", "-fPIC", f"-I{self.installation.headers}", "-o", new, source, *options]
        subprocess.run(command, check=True)
        new.chmod(0o755)

    @staticmethod
    def _put(path, text):
        path.write_text(text)
        path.chmod(0o644)


# What an extension has made in a database, as lines that another database has too. No number of an
# object stands in it, and nobody's name but where it is a right.
CATALOG = r"""
WITH member AS (
    SELECT d.classid, d.objid
    FROM pg_depend d JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
    WHERE d.deptype = 'e' AND e.extname = %(extension)s
    UNION ALL
    SELECT 'pg_extension'::regclass, oid FROM pg_extension WHERE extname = %(extension)s
), part AS (
    -- What belongs to a member: a table's indexes, constraints, triggers, defaults, its type; a view's rule.
    SELECT classid, objid FROM member
    UNION
    SELECT d.classid, d.objid FROM pg_depend d JOIN member m ON (d.refclassid, d.refobjid) = (m.classid, m.objid)
    WHERE d.deptype IN ('i', 'a', 'P', 'S')
), relation AS (
    SELECT c.* FROM pg_class c JOIN part ON part.classid = 'pg_class'::regclass AND part.objid = c.oid
)
SELECT 'member ' || pg_describe_object(classid, objid, 0) FROM member
UNION ALL
SELECT format('extension relocatable %%s, schema %%s, conditions %%s, tables %%s', extrelocatable, extnamespace::regnamespace,
              extcondition, (SELECT array_agg(t::regclass ORDER BY t::regclass::text) FROM unnest(extconfig) t))
FROM pg_extension WHERE extname = %(extension)s
UNION ALL
SELECT pg_get_functiondef(p.oid) || ' owned by ' || p.proowner::regrole || ' rights '
       || coalesce((SELECT string_agg(a::text, ',' ORDER BY a::text) FROM unnest(p.proacl) a), 'default')
FROM pg_proc p JOIN member ON classid = 'pg_proc'::regclass AND objid = p.oid
UNION ALL
SELECT format('schema %%s rights %%s', nspname, (SELECT string_agg(a::text, ',' ORDER BY a::text) FROM unnest(nspacl) a))
FROM pg_namespace JOIN member ON classid = 'pg_namespace'::regclass AND objid = oid
UNION ALL
SELECT format('relation %%s kind %%s persistence %%s identity %%s security %%s options %%s owned by %%s rights %%s',
              oid::regclass, relkind, relpersistence, relreplident, relrowsecurity, reloptions, relowner::regrole,
              coalesce((SELECT string_agg(a::text, ',' ORDER BY a::text) FROM unnest(relacl) a), 'default'))
FROM relation
UNION ALL
SELECT format('column %%s.%%s %%s %%s not null %%s identity %%s generated %%s default %%s storage %%s statistics %%s collation %%s rights %%s',
              r.oid::regclass, a.attname, row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum),
              format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated,
              pg_get_expr(d.adbin, d.adrelid), a.attstorage, a.attstattarget, a.attcollation::regcollation, a.attacl)
FROM pg_attribute a JOIN relation r ON r.oid = a.attrelid
LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
WHERE a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT format('view %%s %%s', oid::regclass, pg_get_viewdef(oid)) FROM relation WHERE relkind = 'v'
UNION ALL
SELECT format('index %%s', pg_get_indexdef(oid)) FROM relation WHERE relkind = 'i'
UNION ALL
SELECT format('constraint %%s of %%s: %%s', conname, conrelid::regclass, pg_get_constraintdef(oid))
FROM pg_constraint WHERE conrelid IN (SELECT oid FROM relation)
UNION ALL
SELECT format('trigger %%s enabled %%s', pg_get_triggerdef(oid), tgenabled) FROM pg_trigger WHERE tgrelid IN (SELECT oid FROM relation)
UNION ALL
SELECT format('policy %%s of %%s', polname, polrelid::regclass) FROM pg_policy WHERE polrelid IN (SELECT oid FROM relation)
UNION ALL
SELECT format('comment on %%s: %%s', pg_describe_object(d.classoid, d.objoid, d.objsubid), d.description)
FROM pg_description d JOIN part ON (d.classoid, d.objoid) = (part.classid, part.objid)
UNION ALL
SELECT format('rights at first of %%s: %%s', pg_describe_object(i.classoid, i.objoid, i.objsubid),
              (SELECT string_agg(a::text, ',' ORDER BY a::text) FROM unnest(i.initprivs) a))
FROM pg_init_privs i JOIN part ON (i.classoid, i.objoid) = (part.classid, part.objid)
UNION ALL
SELECT format('%%s depends on %%s (%%s)', pg_describe_object(d.classid, d.objid, d.objsubid),
              pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid), d.deptype)
FROM pg_depend d JOIN part ON (d.classid, d.objid) = (part.classid, part.objid)
"""


def catalog(connection, extension):
    """All that the extension has made there, as sorted lines."""
    rows = connection.execute(CATALOG, {"extension": extension}).fetchall()
    # TOAST tables and rules of views are named by numbers.
    return sorted(re.sub(r"pg_toast_\d+", "pg_toast_…", line) for (line,) in rows)
