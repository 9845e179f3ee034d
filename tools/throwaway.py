"""Throwaway PostgreSQL servers with the extension installed.

Used by the demo, the tests and the benchmarks; needs Python 3.9 and nothing else.

    with Installation() as installation:
        with Server(installation, {"snowflake_id.worker_id": 1}) as server:
            print(server.psql("SELECT version()"))

Everything lives in one temporary directory: a copy of the server's programs, the
extension, data and sockets. The machine's own server is neither touched nor
needed to be stopped, no network port is opened unless the settings say so, and
nothing needs root. Whoever is root gets servers that run as another user, because
PostgreSQL insists on it.
"""

import atexit
import contextlib
import glob
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent

# How long is waited, in seconds, before it is said that something hangs. No machine is so slow; a wait
# ends with its condition.
PATIENCE = 240


class ServerError(Exception):
    """A server did not do what it was told; the message ends with its log."""


class Installation:
    """A private copy of a PostgreSQL server, with the extension in it.

    PostgreSQL finds its libraries and its share directory relative to its
    executable. So a copy that keeps the paths below another root directory works
    as it is, and installing into it takes no privilege.

    Without arguments, the server and the built extension are those that `make`
    names in the environment, or else the default ones.
    """

    def __init__(self, pg_config=None, package=None):
        self.pg_config = str(pg_config or os.environ.get("SNOWFLAKE_PG_CONFIG") or _default_pg_config())
        paths = _ask_pg_config(self.pg_config)
        self.version = paths["VERSION"]  # 'PostgreSQL 15.8 (Debian ...)'
        self.major = int(re.search(r"\d+", self.version).group())
        self.headers = paths["INCLUDEDIR-SERVER"]
        package = Path(package or os.environ.get("SNOWFLAKE_PACKAGE") or PROJECT / f"target/package/pg{self.major}")
        self._user = _server_user()
        self._servers = []
        self._directories = 0

        # Not below the project: a clone in /root is closed to the server's user.
        self.root = Path(tempfile.mkdtemp(prefix="snowflake_id-"))
        self._pid = os.getpid()
        atexit.register(self.close)
        _die_by_exception()
        try:
            self._copy_server(paths)
            self._install(package, paths)
            # Others may pass through, but not look around. (Copying set the original's mode.)
            self.root.chmod(0o711)
            self._template = self._initdb()
        except BaseException:
            self.close()
            raise

    def lacks(self, libraries):
        """Those of the names that are no libraries of the server's: not every build has all that PostgreSQL comes with."""
        names = [name.strip().strip('"') for name in libraries.split(",")]
        return [name for name in names if name.isidentifier() and not (self._libraries / f"{name}.so").exists()]

    def bin(self, program):
        """The path of one of the server's programs."""
        return str(self._bindir / program)

    def run(self, *command):
        """Run a program as the user whose servers these are; its output is returned."""
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=self.root,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            **self._user,
        )
        try:
            output, _ = process.communicate()
        except BaseException:
            # Interrupted: programs it has started (initdb starts postgres) go as well.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        if process.returncode:
            raise ServerError(f"{' '.join(process.args)} failed:\n{output}")
        return output

    def spawn(self, command, directory, logfile, env=None):
        """Start a server in a directory, as the user whose servers these are."""
        # The environment is cleaned so that a test does not depend on who runs it, and
        # a session of its own keeps the terminal's Ctrl-C for us, who then stop it.
        with open(logfile, "ab") as log:
            return subprocess.Popen(
                [str(word) for word in command],
                cwd=directory,
                env=clean_environment(env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._user,
            )

    def directory(self):
        """A new, empty directory that belongs to the servers' user alone."""
        self._directories += 1
        # Short, because a socket's path may not be longer than some 100 bytes.
        path = self.root / f"s{self._directories}"
        path.mkdir(mode=0o700)
        self.hand_over(path)
        return path

    def hand_over(self, path):
        """Make a file or a directory the servers' user's own."""
        if self._user:
            os.chown(path, self._user["user"], self._user["group"])

    def close(self):
        """Stop what still runs and remove everything. May be called again."""
        # A forked child inherits the atexit handler, but nothing of this is its own.
        if os.getpid() != self._pid:
            return
        for server in self._servers:
            with contextlib.suppress(Exception):
                server.stop("immediate")
        # Once more if a dying process has just written another file.
        for _ in range(50):
            shutil.rmtree(self.root, ignore_errors=True)
            if not self.root.exists():
                break
            time.sleep(0.1)
        atexit.unregister(self.close)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _copy_server(self, paths):
        bindir, libdir = Path(paths["BINDIR"]), Path(paths["LIBDIR"])
        wanted = {bindir, Path(paths["PKGLIBDIR"]), Path(paths["SHAREDIR"])}
        # A self-contained server has its client library beside it. A distribution's
        # is in the system's library directory, where programs find it anyway.
        if libdir == bindir.parent / "lib":
            wanted.add(libdir)
        # One of another Debian brings even its C library: see tools/root.
        own_loader = next(libdir.glob("ld-linux-*.so.*"), None)
        if own_loader:
            wanted.add(libdir)
        # Servers from Python wheels keep some libraries outside their own tree.
        wanted.update((bindir / "../../..").resolve().glob("*.libs"))
        for path in sorted(wanted):
            if not any(parent in wanted for parent in path.parents):
                shutil.copytree(
                    path,
                    self._relocated(path),
                    symlinks=True,
                    dirs_exist_ok=True,
                    # Not needed to run a server, and large.
                    ignore=shutil.ignore_patterns("pgxs", "bitcode", "man", "*.a"),
                )
        self._bindir = self._relocated(bindir)
        if own_loader:
            self._set_loader(self._relocated(own_loader))
        self._libraries = self._relocated(Path(paths["PKGLIBDIR"]))
        # Where the server looks; tests put copies of what is there elsewhere below the root, too.
        self.extensions = self._relocated(Path(paths["SHAREDIR"])) / "extension"
        self.library = self._libraries / "snowflake_id.so"

    def _set_loader(self, loader):
        """Have the copied programs begin with the copied loader: of all paths in them, its alone is absolute."""
        programs = [path for path in self._bindir.iterdir() if path.read_bytes()[:4] == b"\x7fELF"]
        subprocess.run(["patchelf", "--set-interpreter", loader, *programs], check=True)

    def _install(self, package, paths):
        if package.is_dir():
            shutil.copytree(package, self.root, dirs_exist_ok=True)
        if not self.library.exists():
            raise ServerError(
                f"{package} holds no snowflake_id for {self.version}: run 'make PG_CONFIG={self.pg_config}' first"
            )
        # The original may be readable for root only, depending on the umask.
        for directory, names, files in os.walk(self.root):
            for name in names + files:
                path = os.path.join(directory, name)
                if not os.path.islink(path):
                    mode = os.stat(path).st_mode & 0o777
                    os.chmod(path, mode | 0o444 | (0o111 if mode & 0o100 else 0))

    def _initdb(self):
        """One data directory is made, and copied for each server: initdb takes its time."""
        template = self.directory() / "data"
        try:
            self.run(self.bin("initdb"), "-D", template, *INITDB_OPTIONS)
        except PermissionError:
            raise ServerError(
                f"the servers' user cannot run programs below {self.root}: set TMPDIR to a directory where it can"
            ) from None
        return template

    def _relocated(self, path):
        return self.root / path.relative_to("/")


# Trust: the socket's directory keeps everyone else out. C: the same order everywhere.
INITDB_OPTIONS = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]


class Server:
    """One server with a data directory and a socket directory of its own.

    `settings` go into its configuration file, over defaults that preload the
    extension; None removes one. `env` is added to its environment. A `clock` (see
    FakeClock) makes it live in another time. `data` says how the data directory
    comes about: "copy" of the one that the installation made, "initdb" anew, which
    gives the cluster a system identifier of its own, or "none", which leaves it to
    the caller to make `server.data` (with pg_basebackup, say) before start(). The
    `port` is nothing but the socket file's name, unless `settings` have it listen.
    `under` is a program, with its arguments, that the server is run by (valgrind, say);
    it must keep the process.
    """

    def __init__(self, installation, settings=None, env=None, clock=None, data="copy", port=5432, under=()):
        self.installation = installation
        self.port = port
        self.clock = clock
        self._under = under
        self._env = {**(clock.env if clock else {}), **(env or {})}
        self.directory = installation.directory()
        self.data = self.directory / "data"
        self.logfile = self.directory / "log"
        self._config = self.directory / "server.conf"
        self._process = None
        socket = f"{self.directory}/.s.PGSQL.{self.port}"
        if len(socket) >= 100:
            raise ServerError(f"{socket} is too long for a socket: set TMPDIR to a shorter path")
        if data == "copy":
            installation.run("cp", "-a", installation._template, self.data)
        elif data == "initdb":
            installation.run(installation.bin("initdb"), "-D", self.data, *INITDB_OPTIONS)
        self.settings = {
            "shared_preload_libraries": "snowflake_id",
            "listen_addresses": "",
            "unix_socket_directories": self.directory,
            "port": self.port,
            # These servers outlive the crash of a process, but not of the machine.
            "fsync": "off",
            # Below the data directory, where it goes when all goes; in /dev/shm a
            # killed server would leave it behind.
            "dynamic_shared_memory_type": "mmap",
            "timezone": "UTC",
            "log_timezone": "UTC",
            # With the SQLSTATE: see crashes().
            "log_line_prefix": "%m [%p] %b %e ",
        }
        self.configure(settings or {})
        installation._servers.append(self)

    def configure(self, settings):
        """Change settings; reload() or restart() lets the server know. None removes one."""
        self.settings.update(settings)
        self.settings = {name: value for name, value in self.settings.items() if value is not None}
        lines = [f"{name} = {_quote(value)}\n" for name, value in self.settings.items()]
        _write(self._config, "".join(lines))

    def start(self, wait=PATIENCE):
        """Start, and wait until connections are accepted (wait=0: don't)."""
        command = [self.installation.bin("postgres"), "-D", self.data, "-c", f"config_file={self._config}"]
        self._process = self._spawn([*self._under, *command])
        if wait:
            self.wait_ready(wait)
        return self

    def _spawn(self, command):
        return self.installation.spawn(command, self.directory, self.logfile, self._env)

    def wait_ready(self, seconds=PATIENCE):
        """Wait until connections are accepted."""
        self._wait_until(self.ready, seconds, "did not accept connections")

    def ready(self, seconds=3):
        """Whether connections are accepted; so long is waited for an answer."""
        if not self.running():
            raise self._error("ended instead of accepting connections")
        command = [self.installation.bin("pg_isready"), "-q", "-t", str(seconds), "-h", self.directory, "-p", str(self.port)]
        return subprocess.run(command, env=clean_environment(), check=False).returncode == 0

    def running(self):
        """Whether its postmaster exists."""
        return self._process is not None and self._process.poll() is None

    def stop(self, mode="fast", seconds=PATIENCE):
        """Stop in PostgreSQL's modes smart, fast or immediate. Nothing happens if it does not run."""
        if self.running():
            number = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode]
            # A stopped process (SIGSTOP is one of the tests' faults) could not end.
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill9()
                raise self._error(f"had to be killed: a {mode} shutdown took over {seconds} s") from None

    def remove(self):
        """Stop at once, and give the disk space back; the log stays until the installation goes."""
        self.stop("immediate")
        shutil.rmtree(self.data, ignore_errors=True)

    def restart(self, mode="fast"):
        """Stop and start."""
        self.stop(mode)
        return self.start()

    def reload(self):
        """Let the server read its configuration again, and wait until all its processes have been told.

        A session reads it before its next statement then, the keeper before its next look. (The postmaster tells
        one after the other, the oldest, like the keeper, last; connections it answers when it has told them all.)
        """
        self._process.send_signal(signal.SIGHUP)
        self.ready(PATIENCE)

    def kill9(self):
        """Kill all its processes at once, as a power failure would (but see fsync)."""
        if not self.running():
            return
        processes = self.suspend()
        self._process.kill()
        self._process.wait()
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # Shared memory is in use, and a new start refused, until the last has gone.
        self._wait_until(lambda: all(state_of(pid) in "ZX" for pid in processes), PATIENCE, "left processes behind")
        # What libfaketime tidies up itself after an end in peace.
        for name in glob.glob(f"/dev/shm/*faketime_*_{self._process.pid}"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)

    def suspend(self):
        """Stop the postmaster with SIGSTOP, so that it starts no further processes; children()."""
        self._process.send_signal(signal.SIGSTOP)
        # A fork that is under way still ends, and its child would be missed.
        self._wait_until(lambda: state_of(self.pid) in "TZ", PATIENCE, "did not stop")
        return self.children()

    def children(self):
        """The ids of the postmaster's child processes."""
        found = []
        for stat in glob.glob("/proc/[0-9]*/stat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                # The second field is a name in parentheses that may hold anything.
                pid, fields = int(stat.split("/")[2]), Path(stat).read_text().rpartition(")")[2].split()
                if int(fields[1]) == self.pid:
                    found.append(pid)
        return found

    @property
    def pid(self):
        """The postmaster's process id."""
        return self._process.pid

    @property
    def log(self):
        """All that the server has logged."""
        return self.logfile.read_text(errors="replace") if self.logfile.exists() else ""

    def crashes(self):
        """Lines of the log that no test may cause. SIGKILL is not among them: tests send it."""
        pattern = re.compile(r"PANIC:|TRAP:|panicked at|was terminated by signal (?!9\b)|\bXX000\b")
        return [line for line in self.log.splitlines() if pattern.search(line)]

    def conninfo(self, dbname="postgres"):
        """What libpq and psycopg need to connect."""
        return f"host={self.directory} port={self.port} user=postgres dbname={dbname}"

    def environment(self):
        """The same for programs that read PGHOST and so on, with a clean rest."""
        return clean_environment({"PGHOST": str(self.directory), "PGPORT": str(self.port), "PGUSER": "postgres"})

    def psql(self, sql, dbname="postgres", *options):
        """Run SQL; the result is psql's unaligned output without the last newline."""
        command = [self.installation.bin("psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", self.conninfo(dbname)]
        done = subprocess.run(
            [*command, *options], input=sql, env=clean_environment(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ServerError(f"psql: {done.stderr.strip()}")
        return done.stdout.rstrip("\n")

    def __enter__(self):
        return self if self.running() else self.start()

    def __exit__(self, *_):
        self.stop("immediate")

    def _wait_until(self, condition, seconds, complaint):
        wait_until(condition, seconds, lambda: self._error(f"{complaint} within {seconds} s"))

    def _error(self, complaint):
        return ServerError(f"the server {complaint}; the end of its log:\n{self.log[-4000:]}")


class FakeClock:
    """A wall clock that is set at will, for servers that are started with it.

    libfaketime reads the file at each look at the clock, so a change is seen at
    once by all processes of all servers that share this object. Monotonic clocks
    go on as ever: PostgreSQL's own waits must still end.
    """

    def __init__(self, path):
        libraries = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
        if not libraries:
            raise ServerError("libfaketime is missing: apt-get install faketime")
        self.path = Path(path)
        waits = self.path.with_suffix(".waits.so")
        compile_library(PROJECT / "tools/faketime_waits.c", waits)
        self.env = {
            "LD_PRELOAD": f"{waits}:{libraries[0]}",
            "FAKETIME_TIMESTAMP_FILE": str(self.path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # A file's times are the real ones. For theirs libfaketime takes a semaphore that all
            # processes share; one that is killed inside would leave it taken, and the postmaster
            # would wait for it for ever.
            "NO_FAKE_STAT": "1",
        }
        self.offset(0)

    def set(self, text):
        """Set the clock, in libfaketime's words."""
        _write(self.path, text + "\n")

    def offset(self, seconds):
        """Set the clock this far before (negative) or after the real one."""
        self.set(f"{seconds:+.6f}")


def compile_library(source, library, include=()):
    """Compile what a server shall load. The source says what it is for."""
    # cc is what Rust links with.
    options = [f"-I{directory}" for directory in include]
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", *options, "-o", library, source], check=True)
    # The servers' user must be able to read it, whatever the umask.
    library.chmod(0o755)


HOST = "127.0.0.1"
# Tests can run in several processes, which pytest calls gw0, gw1 and so on.
_PROCESSES = 8
_process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _PROCESSES
# Below those that outgoing connections take, and none of another process's: nobody else shall have
# a server's port while that server is down. Each comes once, as it may be some time before its
# server listens.
_ports = range(20_000 + _process, 32_768, _PROCESSES)
_ports = iter(random.sample(_ports, len(_ports)))


def free_port():
    """A port that nobody uses."""
    for port in _ports:
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind((HOST, port))
            return port
    raise ServerError("no port is free")


def wait_until(condition, seconds, error):
    """Wait until a condition holds; raise what `error` returns if it does not for so long."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise error()
        time.sleep(0.02)


def program(name):
    """The path of a program, also of one that Debian has where not everybody looks; None if there is none."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


def clean_environment(extra=None):
    """The environment without what would change a server's or a client's ways."""
    env = {
        name: value
        for name, value in os.environ.items()
        # A backtrace would land in the DETAIL of errors.
        if not re.match(r"PG|LC_|LANG|RUST_|LD_PRELOAD$|FAKETIME|TZ$", name)
    }
    env.update(LANG="C.UTF-8", LC_ALL="C.UTF-8")
    env.update(extra or {})
    return env


def forget_libpq_variables():
    """Have this process's own connections not follow the caller's PGOPTIONS and so on."""
    for variable in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[variable]


def _default_pg_config():
    setup = subprocess.run([PROJECT / "tools/setup", "pg_config"], stdout=subprocess.PIPE, text=True, check=False)
    if setup.returncode:
        raise ServerError("no PostgreSQL server with headers found: run 'make setup'")
    return setup.stdout.strip()


def _ask_pg_config(pg_config):
    output = subprocess.run([pg_config], stdout=subprocess.PIPE, text=True, check=True).stdout
    return dict(line.split(" = ", 1) for line in output.splitlines() if " = " in line)


def _server_user():
    """The subprocess options that make a process run as a user PostgreSQL agrees to."""
    if os.getuid() != 0:
        return {}
    for name in "postgres", "nobody":
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise ServerError("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")


def _quote(value):
    """A value as postgresql.conf wants it."""
    return "'" + str(value).replace("\\", "\\\\").replace("'", "''") + "'"


def _write(path, text):
    """Replace a file so that a reader sees the old or the new one, whoever it is."""
    new = f"{path}.new"
    with open(new, "w") as file:
        file.write(text)
    os.chmod(new, 0o644)
    os.replace(new, path)


def state_of(pid):
    """The letter that ps shows for a process: R, S, T ... A gone one is X, as a dying one."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def _die_by_exception():
    """Let SIGTERM and SIGHUP end us as Ctrl-C does, so that servers are stopped on the way out."""
    if threading.current_thread() is threading.main_thread():
        for number in signal.SIGTERM, signal.SIGHUP:
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, signal.default_int_handler)


if __name__ == "__main__":
    # By hand: a server to try things on, until Ctrl-C.
    with Installation() as installation, Server(installation, {"snowflake_id.worker_id": 1}) as server:
        print(f"{installation.version}: {installation.bin('psql')} '{server.conninfo()}'")
        with contextlib.suppress(KeyboardInterrupt):
            sys.exit(server._process.wait())
