"""Registries that nodes lease their worker ids from, and what happens to them: they stop, hang, and go back in time."""

import asyncio
import base64
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from urllib.parse import quote, urlencode

import pytest
import trustme
from clients import eventually, suspend
from throwaway import HOST, PATIENCE, Server, ServerError, free_port


class Certificates:
    """Files of an authority, and of the certificates that it gave a server here and a client.

    Those of another object are as good, but of an authority that nobody trusts.
    """

    def __init__(self, installation):
        authority = trustme.CA()
        server, client = authority.issue_cert(HOST, "localhost"), authority.issue_cert("node.example")
        self._installation = installation
        self._directory = installation.directory()
        self.authority = self._write("authority.pem", authority.cert_pem)
        self.server = self._write("server.pem", server.cert_chain_pems[0])
        self.server_key = self._write("server.key", server.private_key_pem)
        self.client = self._write("client.pem", client.cert_chain_pems[0])
        self.client_key = self._write("client.key", client.private_key_pem)

    def _write(self, name, content):
        path = self._directory / name
        content.write_to_path(str(path))
        # PostgreSQL wants keys that nobody else can read.
        path.chmod(0o600)
        self._installation.hand_over(path)
        return path


class Registry:
    """A registry on a port of this machine, as a server of the installation's user.

        with Etcd(installation) as registry:
            server = start_server(registry=registry.address("here"))
            registry.kill9()

    What follows serves those whose server is one process. With `certificates`, it speaks TLS only,
    and wants a certificate of the client; with a `password`, it wants that. Both are in its address.
    """

    SCHEME = ""
    USER = "node"
    OPTIONS = ()  # of an address: the authority, the client's certificate and its key

    def __init__(self, installation, certificates=None, password=None):
        self.port = free_port()
        self._installation = installation
        self._directory = installation.directory()
        self._data = self._directory / "data"
        self._logfile = self._directory / "log"
        self._process = None
        self._certificates = certificates
        self._password = password
        self._user = f"{self.USER}:{quote(password, safe='')}@" if password else ""

    def address(self, name, port=None, **options):
        """What snowflake_id.registry is set to, for a registry under this name that has to be there.

        `port` is that of a Proxy before it. `options` come in the place of those that it
        needs; None leaves one out.
        """
        return self.pattern(port, **options).replace("{}", name)

    def pattern(self, port=None, **options):
        """The same with {} in place of the name."""
        if files := self._certificates:
            mine = zip(self.OPTIONS, [files.authority, files.client, files.client_key], strict=True)
            options = {**dict(mine), **options}
        options = {name: value for name, value in options.items() if value is not None}
        query = f"?{urlencode(options)}" if options else ""
        return f"{self.SCHEME}://{self._user}{HOST}:{port or self.port}/{{}}{query}"

    def start(self):
        """Start, unless it runs, and wait until it serves."""
        if not self.running():
            self._process = self._installation.spawn(self._command(), self._directory, self._logfile, self._env())
        eventually(self._ready, f"{self.SCHEME} serves")

    def running(self):
        return self._process is not None and self._process.poll() is None

    def stop(self):
        """Stop in an orderly way."""
        if self.running():
            self.resume()
            self._process.terminate()
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill9()
                raise self._error("took too long to stop") from None

    def kill9(self):
        if self.running():
            self._process.kill()
            self._process.wait()

    def pause(self):
        """From now on it accepts connections, and never answers."""
        suspend(self._process.pid)

    def resume(self):
        """It goes on where it was paused."""
        if self.running():
            self._process.send_signal(signal.SIGCONT)

    def backup(self):
        """Keep a copy of the data of now, in place of the last one. The server is stopped meanwhile."""
        self._copy(self._data, self._directory / "backup")

    def restore(self):
        """Go back to that copy."""
        self._copy(self._directory / "backup", self._data)

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.kill9()
            raise
        return self

    def __exit__(self, *_):
        self.kill9()
        shutil.rmtree(self._directory)

    def _command(self):
        raise NotImplementedError

    def _env(self):
        return {}

    def _serves(self):
        """Whether a request is answered."""
        raise NotImplementedError

    def _ready(self):
        if not self.running():
            raise self._error("ended instead of serving")
        try:
            return self._serves()
        except (OSError, http.client.HTTPException):
            return False

    def _copy(self, source, target):
        self.stop()
        shutil.rmtree(target, ignore_errors=True)
        self._installation.run("cp", "-a", source, target)
        self.start()

    def _error(self, complaint):
        log = self._logfile.read_text(errors="replace")
        return ServerError(f"{self.SCHEME} {complaint}; the end of its log:\n{log[-4000:]}")


class Etcd(Registry):
    """An etcd cluster of one member."""

    SCHEME = "etcd"
    OPTIONS = ("cacert", "cert", "key")

    def __init__(self, installation, certificates=None, password=None, tokens="simple"):
        super().__init__(installation, certificates, password)
        self._guarded = False
        self._tokens = tokens
        if tokens == "jwt":
            self._keys = self._make_keys()

    def start(self):
        super().start()
        if self._password and not self._guarded:
            self._guard()
            self._guarded = True

    def ask(self, path, **body):
        """One of etcd's calls, as its root user where it asks for users."""
        try:
            token = self._request("POST", "/v3/auth/authenticate", name="root", password=self._password)["token"]
        except http.client.HTTPException as error:
            if "authentication is not enabled" not in str(error):
                raise
            token = None
        return self._request("POST", path, token, **body)

    def change_password(self, password):
        """From now on nodes need another password. The address has the old one."""
        self.ask("/v3/auth/user/changepw", name=self.USER, password=password)

    def _make_keys(self):
        """A pair of keys by which it signs its tokens: files of the public and the private one."""
        public, private = self._directory / "jwt.pub", self._directory / "jwt.key"
        self._installation.run("openssl", "genrsa", "-out", private, "2048")
        self._installation.run("openssl", "rsa", "-in", private, "-pubout", "-out", public)
        return public, private

    def _command(self):
        scheme = "https" if self._certificates else "http"
        url = f"{scheme}://{HOST}:{self.port}"
        command = ["etcd", "--data-dir", self._data, "--listen-client-urls", url, "--advertise-client-urls", url]
        # Other members would call there; 0 is any port.
        command += ["--listen-peer-urls", f"http://{HOST}:0", "--unsafe-no-fsync"]
        # The cheapest check of a password; the usual one takes some 0.1 s of a processor.
        command += ["--bcrypt-cost", "4"]
        if self._tokens == "jwt":
            public, private = self._keys
            command += ["--auth-token", f"jwt,pub-key={public},priv-key={private},sign-method=RS256,ttl=1h"]
        if files := self._certificates:
            command += ["--cert-file", files.server, "--key-file", files.server_key]
            command += ["--client-cert-auth", "--trusted-ca-file", files.authority]
        return command

    def _env(self):
        # Without it, etcd 3.4 refuses to run there.
        return {"ETCD_UNSUPPORTED_ARCH": "arm64"} if os.uname().machine == "aarch64" else {}

    def _serves(self):
        return self._request("GET", "/health")["health"] == "true"

    def _guard(self):
        """Nothing without a password from now on. The user of the address may do what nodes do: read and write keys."""
        for user, role in ("root", "root"), (self.USER, "nodes"):
            self._request("POST", "/v3/auth/user/add", name=user, password=self._password)
            self._request("POST", "/v3/auth/role/add", name=role)
            self._request("POST", "/v3/auth/user/grant", user=user, role=role)
        first, end = (base64.b64encode(key).decode() for key in (b"/", b"0"))
        keys = {"permType": "READWRITE", "key": first, "range_end": end}
        self._request("POST", "/v3/auth/role/grant", name="nodes", perm=keys)
        self._request("POST", "/v3/auth/enable")

    def _request(self, method, path, token=None, **body):
        if files := self._certificates:
            context = ssl.create_default_context(cafile=files.authority)
            context.load_cert_chain(files.client, files.client_key)
            connection = http.client.HTTPSConnection(HOST, self.port, timeout=5, context=context)
        else:
            connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        with contextlib.closing(connection):
            headers = {"Authorization": token} if token else {}
            connection.request(method, path, json.dumps(body) if method == "POST" else None, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        if answer.status != 200:
            raise http.client.HTTPException(f"{path}: {text}")
        return json.loads(text)


class ZooKeeper(Registry):
    """A ZooKeeper ensemble of one server.

    It has no users until somebody comes: what a user makes is that user's, with the password of
    the address. TLS is not for nodes.
    """

    SCHEME = "zookeeper"

    def _command(self):
        settings = {
            "dataDir": self._data,
            "clientPort": self.port,
            "clientPortAddress": HOST,
            "maxClientCnxns": 0,
            # In milliseconds. A session lasts for two at least, and at most for what it may
            # last where a tick has its usual length.
            "tickTime": 500,
            "maxSessionTimeout": 40_000,
            "admin.enableServer": "false",
            "4lw.commands.whitelist": "srvr",
            "forceSync": "no",
            # Of its log, in kB.
            "preAllocSize": 1024,
        }
        config = self._directory / "zoo.cfg"
        config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        self._installation.hand_over(config)
        # Small, and without the file in /tmp that a killed one would leave behind.
        options = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:-UsePerfData"]
        jars = "/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-simple.jar"
        return ["java", *options, "-cp", jars, "org.apache.zookeeper.server.quorum.QuorumPeerMain", config]

    def _serves(self):
        with socket.create_connection((HOST, self.port), timeout=1) as connection:
            connection.sendall(b"srvr")
            return b"Mode: standalone" in connection.makefile("rb").read()


class PostgresRegistry(Registry):
    """A PostgreSQL server with the extension. A name is a database's, which address() makes if it is not there."""

    SCHEME = "postgres"
    USER = "postgres"
    OPTIONS = ("sslrootcert", "sslcert", "sslkey")

    def __init__(self, installation, certificates=None, password=None):
        super().__init__(installation, certificates, password)
        self._user = self._user or f"{self.USER}@"
        access = self._directory / "pg_hba.conf"
        settings = {
            # A registry is tables and functions: nothing is preloaded for it.
            "shared_preload_libraries": None,
            "listen_addresses": HOST,
            "max_connections": 300,
            "hba_file": access,
        }
        kind, method = "host", "scram-sha-256" if password else "trust"
        if files := certificates:
            kind, method = "hostssl", f"{method} clientcert=verify-ca"
            settings |= {"ssl": "on", "ssl_ca_file": files.authority}
            settings |= {"ssl_cert_file": files.server, "ssl_key_file": files.server_key}
        access.write_text(f"local all all trust\n{kind} all all {HOST}/32 {method}\n")
        installation.hand_over(access)
        self._server = Server(installation, settings, port=self.port)
        self._data = self._server.data

    def address(self, name, port=None, **options):
        if name not in self._server.psql("SELECT datname FROM pg_database").split():
            self._server.psql(f"CREATE DATABASE {name}")
            self._server.psql("CREATE EXTENSION snowflake_id_node", name)
        return super().address(name, port, **options)

    def start(self):
        if not self.running():
            self._server.start()
        if self._password:
            self._server.psql(f"ALTER ROLE {self.USER} PASSWORD '{self._password}'")

    def configure(self, settings):
        """Changes settings of the server, by a reload."""
        self._server.configure(settings)
        self._server.reload()

    def ask(self, query):
        """What the server's superuser sees."""
        return self._server.psql(query).strip()

    def running(self):
        return self._server.running()

    def stop(self):
        self.resume()
        self._server.stop()

    def kill9(self):
        self._server.kill9()

    def pause(self):
        for pid in self._server.suspend():
            suspend(pid)

    def resume(self):
        if self.running():
            for pid in [*self._server.children(), self._server.pid]:
                # If it was not paused, sessions come and go.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def __exit__(self, *_):
        super().__exit__()
        self._server.remove()
        assert self._server.crashes() == []


class Proxy:
    """Forwards connections to a port of this machine: the network between nodes and a registry, which can fail.

        with Proxy(registry.port) as proxy:
            server = start_server(registry=registry.address("here", proxy.port))
            proxy.cut()
    """

    def __init__(self, target):
        self.port = free_port()
        self._target = target
        self._listener = None
        self._connections = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._open = asyncio.Event()

    def cut(self):
        """As if packets were dropped: connections stay and new ones are accepted, but nothing passes, not even their end."""
        self._do(self._cut())

    def refuse(self):
        """As if nobody were there: all connections end, and new ones are refused."""
        self._do(self._refuse())

    def heal(self):
        """Forward, from now on; also what was held back, as a network does that sends its packets again."""
        self._do(self._heal())

    def __enter__(self):
        self._thread.start()
        self.heal()
        return self

    def __exit__(self, *_):
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, coroutine):
        # All happens in the loop's thread, one thing at a time: nothing passes after cut().
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    async def _cut(self):
        self._open.clear()

    async def _refuse(self):
        if self._listener:
            self._listener.close()
            self._listener = None
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _heal(self):
        if not self._listener:
            self._listener = await asyncio.start_server(self._serve, HOST, self.port)
        self._open.set()

    async def _serve(self, *here):
        if not self._listener:
            # It had been accepted when connections began to be refused, and not been counted yet.
            here[1].transport.abort()
            return
        task = asyncio.current_task()
        self._connections.add(task)
        ends = [here]
        try:
            await self._open.wait()
            ends.append(await asyncio.open_connection(HOST, self._target))
            await asyncio.gather(self._forward(ends[0], ends[1]), self._forward(ends[1], ends[0]))
        except asyncio.CancelledError:
            for _, writer in ends:
                writer.transport.abort()
        except ConnectionError:
            pass  # The target refuses.
        finally:
            for _, writer in ends:
                writer.close()
            self._connections.discard(task)

    async def _forward(self, source, target):
        with contextlib.suppress(ConnectionError):
            while data := await source[0].read(65536):
                await self._open.wait()
                target[1].write(data)
                await target[1].drain()
        await self._open.wait()
        target[1].close()


_once = pytest.mark.once("what a node does with etcd or ZooKeeper has nothing to do with its server's version")
KINDS = [pytest.param(Etcd, marks=[_once, pytest.mark.parts("etcd")]), pytest.param(ZooKeeper, marks=_once), PostgresRegistry]
