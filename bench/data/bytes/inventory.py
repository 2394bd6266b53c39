"""Report whether the files of a data set are on this machine, whether they are intact, and which ones to add.

Everything is derived from the data set's request (``bench.data.bytes.fetch.request_of``). Nothing is fetched or
decoded.
"""

from pathlib import Path

from bench.data.bytes.arrays import complaints, is_there
from bench.data.bytes.fetch import Request
from bench.data.bytes.sources import Bundle

__all__ = ["advice", "faults", "is_here", "places", "state"]


def is_here(request: Request) -> bool:
    """Return whether the files, or the arrays decoded from them, are present. Does not read their bytes."""
    return _has_arrays(request) or len(_missing(request)) == 0


def state(request: Request | None) -> str:
    """Return in a few words where the files are. A request of None means generated data."""
    if request is None:
        return "generated"
    if request.carrier != "":
        return f"carried by {request.carrier}"
    if is_here(request):
        return "cached" if request.path is None else "at data.path"
    missing = len(_missing(request))
    if missing < len(request.files):
        return f"partly cached ({len(request.files) - missing} of {len(request.files)} files)"
    return "not cached"


def places(request: Request) -> list[Path]:
    """Return the existing paths of the files (or of the user's folder) and of the arrays decoded from them."""
    arrays = [] if request.decoded is None else sorted(request.decoded.glob("*.npy"))
    return [path for path in (*request.paths, *arrays) if path.exists()]


def faults(request: Request) -> list[str]:
    """Return one line for each damaged file or array, found by hashing them all. Missing files are not reported.

    Raises:
        OSError: A file cannot be read.
    """
    wrong = [
        f"{path} is not the published file of {file.size:,} bytes with SHA-256 {file.sha256}"
        for path, file in zip(request.paths, request.files, strict=False)  # there may be files without a published hash
        if path.exists() and not file.matches(path)
    ]
    arrays = [] if request.decoded is None else sorted(request.decoded.parent.glob("decoded-*"))
    return wrong + [fault for folder in arrays for fault in complaints(folder)]


def advice(request: Request) -> list[str]:
    """Return lines that tell the user which files to put where, if no source can deliver them."""
    lines = ["put these files, plain or gzipped (.gz), into one folder and give data.path=FOLDER:"]
    lines += [f"  {file.name}  {file.size:,} bytes, SHA-256 {file.sha256}" for file in request.files]
    lines.append(f"or put them, plain, into {request.paths[0].parent}")
    lines += [
        f"or give data.path=FILE, the archive of: {source} (SHA-256 {source.sha256})"
        for source in request.sources
        if isinstance(source, Bundle)
    ]
    return lines


def _has_arrays(request: Request) -> bool:
    return request.decoded is not None and is_there(request.decoded)


def _missing(request: Request) -> list[Path]:
    if not request.files:
        return [path for path in request.paths if not path.exists()]
    pairs = zip(request.paths, request.files, strict=True)
    return [path for path, file in pairs if not path.is_file() or path.stat().st_size != file.size]
