"""Seal commands off from the network and give them Kaggle's folders.

With namespaces (as root, or as a user who may create them) the isolation is nearly complete: no
interface but loopback, /kaggle in its place, read-only inputs, a disk that can fill up. Without
them, every Python process refuses to look up or reach another host, and /kaggle is another folder.

Run as a script, this file enters the namespaces.
"""

import fcntl
import os
import resource
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

KINDS = {
    "namespaces": "network and mount namespaces: loopback alone, /kaggle mounted, inputs read-only",
    "sockets": "no namespaces here: Python's sockets are blocked, /kaggle lies in another folder",
}
SIOCSIFFLAGS, IFF_UP = 0x8914, 1

# A line of a .pth file, which each Python process of the environment runs at startup. An audit hook
# cannot be removed. It does not see what compiled libraries do.
BLOCK = """import sys; sys.addaudithook(__import__("no_network").refuse)\n"""
NO_NETWORK = '''"""Refuse every host but this one."""

LOCAL = ("localhost", "127.", "::1", "0.0.0.0")


def refuse(event, args):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        host = args[1][0] if isinstance(args[1], tuple) else None  # else a Unix socket
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host and not host.startswith(LOCAL):
        import socket

        if host != socket.gethostname():
            raise OSError(101, f"no network in a rehearsal: {host}")
'''


@cache
def find_kind() -> str:
    """Return the best kind of isolation available to this user."""
    return "namespaces" if _options() is not None else "sockets"


@cache
def _options() -> tuple[str, ...] | None:
    """Return the options of `unshare` that work here; None if none do."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return None
    for options in (), ("--map-root-user",):
        with tempfile.TemporaryDirectory() as folder:
            kaggle = make_folders(Path(folder, "kaggle"))
            command = _unshare(options, kaggle, 1 << 20, ["test", "-d", "/kaggle/input"])
            if subprocess.run(command, capture_output=True).returncode == 0:
                return options
    return None


def make_folders(kaggle: Path) -> Path:
    """Make the folders of /kaggle, empty."""
    for name in ("input", "src", "working"):
        (kaggle / name).mkdir(parents=True)
    return kaggle


def inside(kind: str, kaggle: Path) -> Path:
    """Return the path of this folder inside the isolation."""
    return Path("/kaggle") if kind == "namespaces" else kaggle


def seal(kind: str, kaggle: Path, command: list[str], *, disk: int | None = None) -> dict:
    """Return the arguments of `subprocess.Popen` that run a command in isolation.

    Parameters
    ----------
    kind : {"namespaces", "sockets"}
    kaggle : Path
        Becomes /kaggle.
    command : list of str
        Starts in the folder working.
    disk : int, optional
        Capacity of the folder working in bytes; with sockets, the limit of any one file.
    """
    if kind == "namespaces":
        return {"args": _unshare(_options(), kaggle, disk, command)}

    def limit():
        if disk is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (disk, disk))

    return {"args": command, "cwd": kaggle / "working", "preexec_fn": limit}


@contextmanager
def read_only(kind: str, folder: Path) -> Iterator[None]:
    """Remove the write permission for a while, where no mount does."""
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    if kind == "sockets":
        for path in folders:
            path.chmod(0o555)
    try:
        yield
    finally:
        for path in folders:
            path.chmod(0o755)


def _unshare(options, kaggle, disk, command) -> list[str]:
    python = [sys.executable, "-I", "-S", os.path.abspath(__file__)]
    return ["unshare", *options, "--net", "--mount", *python, str(kaggle), str(disk or 0), *command]


# Inside the namespaces ---------------------------------------------------------------------------


def enter(kaggle: Path, disk: int, command: list[str]) -> int:
    """Mount everything around /kaggle, run the command there and return its exit status."""
    with socket.socket() as any_socket:
        request = struct.pack("16sh", b"lo", IFF_UP)
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, request)
    root = kaggle.parent / "root"
    root.mkdir(exist_ok=True)
    _mount("-t", "tmpfs", "none", str(root))
    for entry in os.scandir("/"):
        place = root / entry.name
        if entry.is_symlink():
            place.symlink_to(os.readlink(entry))
        elif entry.is_dir() and entry.name not in ("kaggle", "lost+found"):
            place.mkdir()
            _mount("--rbind", entry.path, str(place))
    (root / "kaggle").mkdir()
    _mount("--bind", str(kaggle), str(root / "kaggle"))
    inputs = str(root / "kaggle" / "input")
    _mount("--bind", inputs, inputs)
    flags = {"nosuid": os.ST_NOSUID, "nodev": os.ST_NODEV, "noexec": os.ST_NOEXEC}
    held = [name for name, flag in flags.items() if os.statvfs(inputs).f_flag & flag]
    _mount("-o", ",".join(["remount,bind,ro", *held]), inputs)  # an ordinary user may not drop any
    working = root / "kaggle" / "working"
    if disk:
        _mount("-t", "tmpfs", "-o", f"size={disk}", "none", str(working))

    def change_root():
        os.chroot(root)
        os.chdir("/kaggle/working")

    status = subprocess.run(command, preexec_fn=change_root).returncode
    if disk:  # else the content would go with the mount
        shutil.copytree(working, kaggle / "working", dirs_exist_ok=True)
    return status


def _mount(*args: str) -> None:
    subprocess.run(["mount", *args], check=True)


if __name__ == "__main__":
    sys.exit(enter(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
