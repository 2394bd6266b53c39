"""The command line in a process of its own, where whatever it does to files, processes and connections is noted."""

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["audited"]

# Runs the command with every write, import of a stranger's module, process and connection noted in a file.
AUDIT = """
import os, sys
noted = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
here = os.getcwd()
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
def hook(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        if not isinstance(path, (str, bytes)) or not (flags or 0) & WRITES or os.fsdecode(path) == os.devnull:
            return
        said = os.fsdecode(path)
    elif event in ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link", "os.chmod", "os.truncate",
                   "shutil.rmtree"):
        said = str(arguments[0])
    elif event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "pty.spawn",
                   "pickle.find_class"):
        said = str(arguments[0])
    elif event == "import" and arguments[0].split(".")[0] == "stranger":
        said = arguments[0]
    else:
        return
    os.write(noted, f"{event} {said}\\n".encode(errors="replace"))
sys.dont_write_bytecode = True
# What our own libraries do when they are imported is none of the attack's doing.
import bench.cli.main, bench.config.build, bench.config.compose, bench.runs.evaluate, pytorch_lightning.loggers
sys.addaudithook(hook)
sys.exit(bench.cli.main.main())
"""


def audited(folder: Path, *arguments: str) -> tuple[int, str, list[str]]:
    """Exit code, standard error and what was noted of the command in a process of its own."""
    noted = folder.parent / f"{folder.name}.noted"
    noted.unlink(missing_ok=True)
    environment = {**os.environ, "SECRET": "hunter2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", AUDIT, str(noted), *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr, noted.read_text().splitlines()
