"""Machines and containers for servers: mount and UTS namespaces, with volumes that all look alike.

Each has a host name and a machine-id, and its volume at the same path. Nothing of it outlasts the test: a
namespace goes with its last process, its mounts with the namespace, a loop device with its mount.
"""

import contextlib
import os
import shutil
import subprocess

import pytest
from throwaway import Server, clean_environment

HOST, MACHINE = "db-0", "0123456789abcdef0123456789abcdef"


class Containers:
    """Makes them, and ends them after the test; skips it where the machine does not allow for them.

    `filesystem` is that of their volumes: tmpfs, or ext4 in a file by a loop device.
    """

    def __init__(self, installation, filesystem):
        self.installation, self.filesystem = installation, filesystem
        self._stack = contextlib.ExitStack()
        self.directory = installation.directory()
        # Where each container has its volume, and the volume the data directory.
        self.volume = self.directory / "volume"

    def __enter__(self):
        if os.getuid() != 0:
            pytest.skip("only root may make mount namespaces")
        for program in "unshare", "nsenter", "setpriv", "mkfs.ext4":
            if not shutil.which(program):
                pytest.skip(f"this machine has no {program}")
        if subprocess.run(["unshare", "-m", "-u", "true"], check=False, capture_output=True).returncode:
            pytest.skip("this machine does not allow for mount namespaces")
        self.volume.mkdir()
        return self

    def __exit__(self, *_):
        self._stack.close()

    def make(self, image=None, **options):
        """A container with a new volume, or with the one in the file `image`."""
        if self.filesystem == "tmpfs":
            mount = ["mount", "-t", "tmpfs", "-o", "size=300m", "none", self.volume]
        else:
            image = image or self.image()
            mount = ["mount", "-o", "loop", image, self.volume]
        return self._enter(Container(self, mount, image=image, **options))

    def again(self, container, **options):
        """Another container with the volume of one that has ended, or is about to."""
        return self._enter(Container(self, None, beside=container, image=container.image, **options))

    def image(self):
        """A file with an empty file system. Each is like the others, down to its inodes."""
        path = self.directory / f"image{len(list(self.directory.glob('image*')))}"
        with path.open("wb") as file:
            file.truncate(300 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1", path], check=True)
        return path

    def _enter(self, container):
        self._stack.enter_context(container)
        return container


class Container:
    """A mount and a UTS namespace, held by a process that does nothing."""

    def __init__(self, containers, mount, beside=None, image=None, host=HOST, machine=MACHINE, volume=None):
        self._containers, self.image = containers, image
        self.volume = volume or containers.volume
        installation = containers.installation
        self.machine = containers.directory / f"machine-id{len(list(containers.directory.glob('machine-id*')))}"
        steps = [f"hostname {host}", "mount --make-rprivate /"]
        if mount:
            owner = installation._user
            steps += [" ".join(map(str, mount)), f"chown {owner['user']}:{owner['group']} {self.volume}"]
        if beside and self.volume != beside.volume:
            steps += [f"mount --move {beside.volume} {self.volume}"]
        if machine is None:
            steps += ["mount -t tmpfs none /etc"]
        else:
            self.machine.write_text(machine)
            steps += ["[ -e /etc/machine-id ] || { mount -t tmpfs none /etc; touch /etc/machine-id; }"]
            steps += [f"mount --bind {self.machine} /etc/machine-id"]
        steps += ["echo ready", "exec sleep infinity"]
        into = beside.into() if beside else []
        command = [*into, "unshare", "-m", "-u", "sh", "-e", "-c", "\n".join(steps)]
        self._process = subprocess.Popen(
            [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
            text=True, start_new_session=True,
        )  # fmt: skip

    def __enter__(self):
        if self._process.stdout.readline() != "ready\n":
            error = self._process.stderr.read()
            self._process.wait()
            pytest.skip(f"this machine does not allow for it: {error.strip()}")
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        """Let go of the namespace."""
        self._process.kill()
        self._process.wait()

    def into(self):
        """What runs a program in it."""
        return ["nsenter", "-t", str(self._process.pid), "-m", "-u"]

    def as_user(self, *command):
        """The same, as the servers' user."""
        user = self._containers.installation._user
        ids = [f"--reuid={user['user']}", f"--regid={user['group']}", "--clear-groups"]
        return [*self.into(), "setpriv", *ids, *map(str, command)]

    def run(self, *command, root=False, **options):
        """Run a program in it; what it says."""
        words = [*self.into(), *map(str, command)] if root else self.as_user(*command)
        done = subprocess.run(
            words, env=clean_environment(), cwd="/", check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            **options,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout


class ContainedServer(Server):
    """A server in a container; its data directory is on the volume, its socket outside."""

    def __init__(self, container, settings=None, env=None, data="data"):
        super().__init__(container._containers.installation, settings, env=env, data="none")
        self.container = container
        self.data = container.volume / data

    def _spawn(self, command):
        with open(self.logfile, "ab") as log:
            return subprocess.Popen(
                self.container.as_user(*command),
                cwd="/",
                env=clean_environment(self._env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def remove(self):
        """Stop at once. What it has written goes with the volume."""
        self.stop("immediate")
