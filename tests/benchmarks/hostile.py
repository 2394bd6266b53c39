"""Files of strangers, made at random: damaged, lying and malicious ones, for what ``genbench evaluate`` reads.

``write_file`` makes input i from the seed and from i alone: arrays, archives, tensors, checkpoints, statistics and
folders of pictures, whole, cut off, with flipped bits, with headers that claim too much, zip bombs and slips, pickles
that run code, links, pipes, and names that would act on a terminal. ``check_file`` reads it in this process by all
readers. None may raise anything but a ``UserError`` of one printable line, take long or much memory, write a file,
start a process or a connection, or load a module of the stranger's.
"""

import contextlib
import functools
import io
import os
import pickle
import random
import struct
import sys
import time
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.checkpoint import load_checkpoint, stored_config
from bench.data.formats.samples import read_samples
from bench.data.reference import read_reference
from bench.errors import UserError
from bench.schema import DataSpec

__all__ = ["check_file", "write_file"]

PICTURES = DataSpec("pictures", "0", (1, 8, 8), 256, 10, 10, 10)
REALS = DataSpec("reals", "0", (5,), None, 10, 10, 10)
SECONDS, MEGABYTES = 10, 600
NAMES = [
    "a",
    "a b",
    "\x1b[31mred",
    "line\nbreak",
    "a\rb",
    "‮cba",
    "-rf",
    "~",
    "$(x)",
    "%s{0}",
    "é日本",
    "x" * 200,
    "a'b\"",
    "\t",
]
SLIPS = ["../../victim", "/tmp/victim", "a/../../victim", "..\\victim", "samples.npy/../victim.npy", "\x1b[2J.npy"]


class Payload:
    """Leaves a file behind, or would if it were unpickled by the wrong reader."""

    def __init__(self, draw: random.Random) -> None:
        call: Any = draw.choice([os.system, eval, __import__])
        word = {os.system: "touch victim", eval: "open('victim', 'w')", __import__: "stranger"}[call]
        self.made = (call, (word,))

    def __reduce__(self) -> Any:
        return self.made


def npy(values: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values, **options)
    return stream.getvalue()


def npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def saved(payload: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(payload, stream)
    return stream.getvalue()


def picture(form: str = "PNG", side: int = 8, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.arange(side * side, dtype=np.uint8).reshape(side, side)).save(stream, form, **options)
    return stream.getvalue()


@functools.cache
def whole() -> dict[str, list[bytes]]:
    """Files that are as they should be, by suffix."""
    levels = np.random.default_rng(0).integers(0, 256, (6, 1, 8, 8)).astype(np.uint8)
    reals = np.random.default_rng(1).normal(size=(6, 5))
    state = {"state_dict": {"w": torch.ones(3)}, "config": "{}", "progress": {"examples_seen": 1}}
    tensors = [saved(torch.from_numpy(levels)), saved({"samples": torch.from_numpy(reals)}), saved(state)]
    return {
        ".npy": [npy(levels), npy(reals), npy(levels.transpose(0, 2, 3, 1).astype(np.float32))],
        ".npz": [npz(samples=levels), npz(arr_0=reals, more=levels), npz(mu=np.zeros(5), sigma=np.eye(5))],
        ".pt": tensors,
        ".ckpt": tensors[::-1],
        ".png": [picture(), picture(pnginfo=None, optimize=True)],
        ".jpg": [picture("JPEG")],
    }


# What is done to files: each takes their bytes and what draws.


def cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randint(0, len(content))]


def flip(content: bytes, draw: random.Random) -> bytes:
    made = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 8, 64])):
        # Half of them among the first bytes and half among the last, where headers and directories are.
        near = draw.choice([0, len(made) - 128, draw.randrange(max(1, len(made)))])
        place = min(len(made) - 1, max(0, near + draw.randrange(128)))
        if made:
            made[place] ^= 1 << draw.randrange(8)
    return bytes(made)


def overwrite(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(max(1, len(content)))
    word = draw.choice([b"\xff" * 4, b"\0" * 8, b"\xff\xff\xff\x7f", b"PK\x05\x06", os.fsencode(draw.choice(NAMES))])
    return content[:place] + word + content[place + len(word) :]


def twice(content: bytes, draw: random.Random) -> bytes:
    a, b = sorted(draw.randint(0, len(content)) for _ in range(2))
    return content[:b] + content[a:b] * draw.choice([1, 3]) + content[b:]


def spliced(content: bytes, draw: random.Random) -> bytes:
    other = draw.choice(whole()[draw.choice(sorted(whole()))])
    return content[: draw.randint(0, len(content))] + other[draw.randint(0, len(other)) :]


def mixed(content: bytes, draw: random.Random) -> bytes:
    for _ in range(draw.randint(1, 3)):
        content = draw.choice([cut, flip, overwrite, twice, spliced])(content, draw)
    return content


# Files made for the purpose: each returns the suffix and the bytes.


def header(draw: random.Random) -> tuple[str, bytes]:
    """An array whose header lies, asks for objects, or is no header."""
    kind = draw.choice(
        ["'|u1'", "'<f8'", "'|O'", "'<f4'", "'|V99999999'", "'<U9'", "'>c16'", "[('a', '<f8')]", "'<M8[s]'"]
    )
    big = 10 ** draw.randint(1, 30)
    shape = draw.choice(
        [(big,), (big, 1, 8, 8), (-6, 64), (0, 64), (6, 0), (), (2,) * 70, (True, 64), (6.5, 1), (6, 5)]
    )
    order = draw.choice(["True", "False", "1", "None"])
    said = f"{{'descr': {kind}, 'fortran_order': {order}, 'shape': {shape}, }}"
    said = draw.choice([
        said, said, said, "__import__('os').system('touch victim')", "(" * 5000, "{" * 300 + "}" * 300,
        said.replace("}", f", 'x': {'[' * 200}{']' * 200}}}"), said + " " * 70_000, "{}", "\0" * 64, "9" * 5000,
    ])  # fmt: skip
    version = draw.choice([(1, 0), (1, 0), (2, 0), (3, 0), (9, 9)])
    size = draw.choice([len(said), len(said), 2**16 - 1, 0, 3])
    lead = b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", min(size, 2**16 - 1))
    content = lead + said.encode("latin1", "replace") + b"\n" + draw.randbytes(draw.choice([0, 64, 384]))
    return (".npy", content) if draw.random() < 0.7 else (".npz", zipped({"samples.npy": content}))


def zipped(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", compression) as archive:
        warnings.simplefilter("ignore")
        for name, content in entries.items():
            archive.writestr(name, content)
    return stream.getvalue()


def bomb(draw: random.Random) -> tuple[str, bytes]:
    """An archive that unpacks to much more than it is."""
    size = draw.choice([2**20, 2**24])
    shape = draw.choice([(size // 64, 1, 8, 8), (size // 40, 5), (2, size // 2)])
    lead = io.BytesIO()
    np.lib.format.write_array_header_1_0(lead, {"descr": "|u1", "fortran_order": False, "shape": shape})
    content = zipped(
        {draw.choice(["samples.npy", "mu.npy", "archive/data.pkl"]): lead.getvalue() + bytes(size)},
        zipfile.ZIP_DEFLATED,
    )
    return draw.choice([".npz", ".pt", ".ckpt"]), content


def slip(draw: random.Random) -> tuple[str, bytes]:
    """An archive whose entries would lie elsewhere, are links, or are called as others are."""
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w") as archive:
        warnings.simplefilter("ignore")
        for name in draw.sample(SLIPS, 3) + draw.choice([[], ["samples.npy", "samples.npy"]]):
            info = zipfile.ZipInfo(name)
            info.external_attr = draw.choice([0o644, 0o120777, 0o40755]) << 16
            archive.writestr(info, draw.choice([b"/etc/passwd", npy(np.zeros((6, 5)))]))
    return draw.choice([".npz", ".npz", ".pt"]), stream.getvalue()


def pickled(draw: random.Random) -> tuple[str, bytes]:
    """A pickle that runs code, in each of the places where a reader may unpickle."""
    bad = Payload(draw)
    kind = draw.randrange(6)
    if kind == 0:
        return ".npy", npy(np.array([bad, 1], dtype=object), allow_pickle=True)
    if kind == 1:
        return ".npz", zipped({"samples.npy": npy(np.array([bad], dtype=object), allow_pickle=True)})
    if kind == 2:
        return draw.choice([".npy", ".npz", ".pt", ".ckpt"]), pickle.dumps(bad, protocol=draw.choice([0, 2, 4]))
    if kind == 3:
        return ".ckpt", saved({"state_dict": {}, "config": bad, "progress": {}})
    if kind == 4:
        entries = {
            "archive/data.pkl": pickle.dumps({"samples": bad}, 2),
            "archive/version": b"3\n",
            "archive/data/0": b"x",
        }
        return draw.choice([".pt", ".ckpt"]), zipped(entries)
    depth = draw.choice([50, 900, 100_000])  # lists in lists
    nested = b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."
    return draw.choice([".pt", ".ckpt"]), zipped({"archive/data.pkl": nested, "archive/version": b"3\n"})


def values(draw: random.Random) -> tuple[str, bytes]:
    """An array of the right kind of file and the wrong kind of numbers."""
    shape = draw.choice([(6, 1, 8, 8), (6, 5), (1, 5), (6,), (0, 5), (6, 8, 8), (6, 3, 8, 8)])
    made = np.zeros(shape, draw.choice(["f4", "f8", "f2", "u1", "i8", "?", "c8", "<U3", "S2", "M8[s]", ">f8"]))
    if made.dtype.kind in "fc" and made.size:
        with np.errstate(over="ignore"):
            made.flat[0] = draw.choice([np.nan, np.inf, -np.inf, 1e30, 0.5, 256, -1])
    if made.dtype.kind == "i" and made.size:
        made.flat[0] = draw.choice([-1, 256, 2**62])
    if draw.random() < 0.3:
        d = draw.choice([1, 5])
        sigma = draw.choice([-np.eye(d), np.full((d, d), np.nan), np.zeros((d, d + 1)), 1e300 * np.eye(d), np.eye(d)])
        return ".npz", npz(mu=draw.choice([np.zeros(d), np.full(d, np.inf), made]), sigma=sigma)
    if draw.random() < 0.5 or made.dtype.kind in "USM" or made.dtype.byteorder == ">":
        return draw.choice([(".npy", npy(made)), (".npz", npz(samples=made))])
    return ".pt", saved(draw.choice([torch.from_numpy(made), {"samples": torch.from_numpy(made)}, made.shape, None]))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def odd_picture(draw: random.Random) -> bytes:
    """A picture that is a bomb, of another format, or not as its header says."""
    side = draw.choice([1, 8, 2**16, 2**31 - 1])
    head = chunk(
        b"IHDR",
        struct.pack(">IIBBBBB", side, draw.choice([8, side]), draw.choice([1, 8, 16, 99]), draw.randrange(8), 0, 0, 0),
    )
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**22)))
    body = chunk(b"IDAT", zlib.compress(bytes(draw.choice([72, 2**22]))))
    made = b"\x89PNG\r\n\x1a\n" + head + draw.choice([b"", text]) + body + chunk(b"IEND", b"")
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(victim) (w) file closefile\nshowpage\n"
    return draw.choice(
        [
            made,
            made,
            picture("GIF"),
            picture("TIFF"),
            picture("BMP"),
            script,
            b"",
            picture(side=9),
            b"P5 8 8 255\n" + bytes(64),
        ]
    )


def folder(path: Path, draw: random.Random) -> None:
    """A folder of pictures among which something is wrong."""
    path.mkdir()
    for number in range(draw.choice([0, 2, 3])):
        (path / f"{number}.png").write_bytes(picture())
    for _ in range(draw.choice([1, 1, 2])):
        name = path / (draw.choice(NAMES) + draw.choice([".png", ".jpg", "", ".PNG", ".npy"]))
        if name.exists() or name.is_symlink():
            continue
        kind = draw.choice(["odd", "odd", "damaged", "damaged", "link", "loop", "pipe", "deep", "subfolder"])
        if kind == "odd":
            name.write_bytes(odd_picture(draw))
        elif kind == "damaged":
            name.write_bytes(mixed(draw.choice(whole()[draw.choice([".png", ".jpg"])]), draw))
        elif kind == "link":
            name.symlink_to(draw.choice(["/etc/passwd", "/dev/zero", "nowhere", "0.png", "/proc/self/mem"]))
        elif kind == "loop":
            name.symlink_to(path)
        elif kind == "pipe":
            os.mkfifo(name)
        elif kind == "deep":
            (path / "/".join(["d"] * draw.choice([5, 60]))).mkdir(parents=True, exist_ok=True)
        else:
            name.mkdir()
            (name / "1.png").write_bytes(picture())


MADE: list[Callable[[random.Random], tuple[str, bytes]]] = [header, header, bomb, slip, pickled, pickled, values]


def write_file(index: int, top: Path, seed: int = 0) -> Path:
    """Make input ``index`` in an empty folder, and return its path."""
    draw = random.Random(f"{seed} {index}")
    name = draw.choice(NAMES) if draw.random() < 0.3 else "file"
    kind = draw.random()
    if kind < 0.2:
        folder(top / name, draw)
        return top / name
    if kind < 0.24:
        path = top / (name + draw.choice([".npy", ".npz", ".pt", ".ckpt"]))
        made = draw.choice(["link", "loop", "pipe", "none", "folder"])
        if made == "pipe":
            os.mkfifo(path)
        elif made == "folder":
            path.mkdir()
        elif made != "none":
            path.symlink_to(
                draw.choice(["/dev/zero", "/dev/stdin", "/etc/passwd", "nowhere"]) if made == "link" else path
            )
        return path
    if kind < 0.7:
        suffix = draw.choice(sorted(whole())[:-2] if draw.random() < 0.9 else sorted(whole()))
        content = mixed(draw.choice(whole()[suffix]), draw)
        if draw.random() < 0.1:
            suffix = draw.choice([*whole(), ".pth", ".NPY", ".exe", ""])
    else:
        suffix, content = draw.choice(MADE)(draw)
        if draw.random() < 0.2:
            content = mixed(content, draw)
    path = top / (name + suffix)
    path.write_bytes(content)
    return path


# The check.

NOTED: list[str] = []
WATCHING = False
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
ACTS = {
    "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link", "os.chmod", "os.truncate", "os.system",
    "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen", "socket.connect", "pickle.find_class",
}  # fmt: skip


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not WATCHING:
        return
    if event == "open":
        path, _, flags = arguments
        if isinstance(path, str | bytes) and (flags or 0) & WRITES and os.fsdecode(path) != os.devnull:
            NOTED.append(f"writes {os.fsdecode(path)!r}")
    elif event in ACTS or (event == "import" and arguments[0] == "stranger"):
        NOTED.append(f"{event} {str(arguments[:1])[:80]}")


@functools.cache
def _watch() -> None:
    """An audit hook cannot be taken away, so that there is one, which rests between checks."""
    sys.addaudithook(_hook)


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    global WATCHING
    _watch()
    NOTED.clear()
    WATCHING = True
    try:
        yield
    finally:
        WATCHING = False


READERS: dict[str, Callable[[Path], object]] = {
    "samples of pictures": lambda path: read_samples(path, PICTURES),
    "samples of reals": lambda path: read_samples(path, REALS),
    "reference": lambda path: read_reference(path, None, lambda: PICTURES),
    "checkpoint": load_checkpoint,
    "configuration": stored_config,
}


def check_file(path: Path) -> str:
    """What is wrong with how a file is read; empty where nothing is. Its folder holds nothing else."""
    before = _state(path.parent)
    for name, read in READERS.items():
        wrong = _check(read, path)
        if wrong:
            return f"{name}: {wrong}"
    return "" if _state(path.parent) == before else "the files were changed"


def _check(read: Callable[[Path], object], path: Path) -> str:
    start, peak = time.process_time(), _peak(reset=True)
    with warnings.catch_warnings(record=True) as warned, _watched():
        warnings.simplefilter("always")
        try:
            read(path)
        except UserError as error:
            said = str(error)
            if "ModuleNotFoundError" in said or "ImportError" in said or not said.isprintable() or len(said) > 2000:
                return f"no printable line: {said[:3000]!r}"
        except Exception:
            return traceback.format_exc()
    if warned:
        return f"warns: {warned[0].message}"
    if NOTED:
        return "; ".join(NOTED)
    seconds, grown = time.process_time() - start, _peak() - peak
    if seconds > SECONDS or grown > MEGABYTES:
        return f"took {seconds:.1f} s and {grown:.0f} MB"
    return ""


def _peak(reset: bool = False) -> float:
    """The peak memory of this process in MB, since it was last reset (Linux)."""
    if reset:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _state(top: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for parent, folders, files in os.walk(top):
        for name in (*folders, *files):
            status = os.lstat(os.path.join(parent, name))
            found[os.path.join(parent, name)] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found
