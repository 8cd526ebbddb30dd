"""A Docker daemon of its own, and the docker client that talks to it.

Owns the daemon's directories, which it removes together with what is mounted in them. Needs root.
"""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
from pathlib import Path

from lab.process import LabError, Process, free_port, run

BUSYBOX = Path("/bin/busybox")


class Docker:
    """`dockerd` with the vfs driver and no network; `mirror_port` is fixed when it starts."""

    def __init__(self, log: Path, *, mirror_port: int | None = None) -> None:
        # A short path: sockets below it must fit into 108 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="lab-"))
        self.mirror_port = free_port() if mirror_port is None else mirror_port
        self._socket = f"unix://{self.directory}/docker.sock"
        self._client = self.directory / "client"
        self._client.mkdir()
        self.process = Process(
            "dockerd",
            [
                "dockerd",
                f"--data-root={self.directory}/data",
                f"--exec-root={self.directory}/exec",
                f"--pidfile={self.directory}/pid",
                "--bridge=none",
                "--iptables=false",
                "--storage-driver=vfs",
                f"--host={self._socket}",
                f"--registry-mirror=http://127.0.0.1:{self.mirror_port}",
            ],
            log,
        )
        try:
            self.process.wait_until(self._answers)
        except LabError:
            self.remove()
            raise

    def __call__(self, *words: str | Path, seconds: float = 60) -> str:
        """Run `docker WORDS...` and return what it printed. Raises LabError when it fails."""
        return run(self._argv(*words), seconds=seconds, DOCKER_CONFIG=str(self._client))

    def import_busybox(self, name: str, note: str) -> None:
        """Make the image `name` from busybox-static, with `note` in its file /note."""
        archive = self.directory / "busybox.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(BUSYBOX.resolve(), "bin/busybox")
            for applet in ("sh", "cat", "echo"):
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
            text = note.encode()
            file = tarfile.TarInfo("note")
            file.size = len(text)
            tar.addfile(file, io.BytesIO(text))
        self("import", "--change", 'CMD ["/bin/cat", "/note"]', archive, name)

    def add_layer(self, base: str, name: str, note: str) -> None:
        """Make the image `name`: `base` and one layer more, which rewrites /note."""
        container = self(
            "create", "--network=none", base, "/bin/sh", "-c", f"echo -n '{note}' > /note"
        ).strip()
        self("start", "--attach", container)
        self("commit", "--change", 'CMD ["/bin/cat", "/note"]', container, name)
        self("rm", container)

    def note(self, image: str) -> str:
        """What the image says when it runs; proves that it is whole."""
        return self("run", "--rm", "--network=none", image)

    def forget(self, *images: str) -> None:
        """Remove images, so that the next pull asks for every layer again."""
        self("rmi", "--force", *images)

    def remove(self) -> None:
        """End the daemon and remove all it wrote."""
        self.process.stop()
        below = f"{self.directory}/"
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in sorted((m for m in mounts if m.startswith(below)), reverse=True):
            run(["umount", "--lazy", mount])
        shutil.rmtree(self.directory)

    def _argv(self, *words: str | Path) -> list[str | Path]:
        return ["docker", "--host", self._socket, *words]

    def _answers(self) -> bool:
        try:
            run(
                self._argv("version", "--format", "{{.Server.Version}}"),
                seconds=10,
                DOCKER_CONFIG=str(self._client),
            )
        except LabError:
            return False
        return True
