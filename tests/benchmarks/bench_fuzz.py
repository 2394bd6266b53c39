"""Command lines and files made at random: none may end in a traceback, hang, or write outside its working folder.

    python tests/benchmarks/bench_fuzz.py --lines 10000 --processes 200 --files 10000 --out results/benchmarks/fuzz.csv

Lines are drawn from a grammar of commands and then mutated; line i depends on the seed and on i alone. In this process
everything is composed and checked, and only the training of what would run is left out. Whole processes get lines that
name no runnable model, so that none of them trains. Files are those of ``hostile.py``, read as ``genbench evaluate``
reads them, by an ordinary user. A kind of which 0 are asked for keeps its row.
"""

import argparse
import contextlib
import csv
import io
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

__all__ = ["check_line", "line_of"]

NOBODY = 65534
READERS = 4  # processes that read files
SECONDS = 30  # of processor time, after which a line counts as hanging
MODELS = [
    "gaussian",
    "vae",
    "nice",
    "realnvp_small",
    "dcgan",
    "glob(g*)",
    "choice(vae,wgan)",
    "vae,gaussian",
    "gan",
    "",
]
DATA = ["ring8", "two_moons", "mnist5k", "csv", "ring8,grid25", "nosuch", "[ring8]", "null"]
KEYS = [
    "seed",
    "name",
    "runs_dir",
    "train.examples",
    "train.seconds",
    "train.batch_size",
    "evaluate.n_samples",
    "model.latent_dim",
    "model.hidden",
    "model.optimizer.lr",
    "data.n_train",
    "metric",
    "probe",
    "logger",
    "trainer",
    "experiment",
    "trust",
    "rerun",
    "evaluate.checkpoints",
    "metric.fid.features",
    "train",
    "evaluate",
    "choices",
    "hydra.mode",
    "hydra.verbose",
    "hydra.sweeper.params",
    "modle",
    "data.path",
    "trainer.devices",
    "model._target_",
]
VALUES = [
    "0",
    "1",
    "-1",
    "3.5",
    "1e5",
    "1e400",
    "nan",
    "true",
    "null",
    "abc",
    "",
    "[1,2]",
    "[likelihood]",
    "[]",
    "{a:1}",
    "{}",
    "0,1",
    "range(0,3)",
    "range(0,1e9)",
    "range(3,0)",
    "range(0,1,0)",
    "interval(0,1)",
    "glob(*)",
    "tag(a,0)",
    "shuffle(range(0,4))",
    "sort(3,1)",
    "int(x)",
    "foo(1)",
    "日本語",
    "'日本語'",
    "a b",
    "'a b'",
    '"q"',
    "'",
    "~/x",
    "lr=0.1/runs",
    "${seed}",
    "${oc.env:HOME}",
    "${nosuch}",
    "../x",
    "a/b",
    "os.system",
    "csv",
    "toys",
    "[a,[b,{c:1}]]",
    "60,000",
    "60_000",
    "\x1b[31m",
    "9" * 40,
    "x" * 300,
    "[" * 60,
    "1\n2",
    "é",
    "MULTIRUN",
    "cpu",
    "best",
    "???",
]
FLAGS = [
    "-m",
    "--multirun",
    "--cfg",
    "job",
    "--cfg=all",
    "--info",
    "--resolve",
    "-p",
    "-x",
    "--",
    "--run",
    "-h",
    "--config-name=x",
]
OTHERS = [
    ["data", "where"],
    ["data", "verify"],
    ["data", "list"],
    ["list"],
    ["table"],
    ["evaluate"],
    ["new", "model"],
    ["runn"],
    [],
]
NAMES = [
    "mnist5k",
    "ring8",
    "[]",
    "",
    "models",
    "a=b",
    "trust=[x]",
    "--format",
    "csv",
    "-",
    "x.ckpt",
    "runs/*",
    "[",
    "metric=[fid]",
    "samples=x.npy",
    "data=ring8",
    "--metric",
    "hydra.searchpath=[file:///nosuch]",
    "glob(*)",
    "data.n_train=1,2",
]
SIGNS = "=,[](){}'\"\\~+@:;.$ *%é\x00\t"


def line_of(index: int, seed: int = 0) -> list[str]:
    """The arguments of line ``index``."""
    draw = random.Random(f"{seed} {index}")
    if draw.random() < 0.2:
        line = [*draw.choice(OTHERS), *(draw.choice(NAMES) for _ in range(draw.randint(0, 3)))]
    else:
        line = ["run"]
        if draw.random() < 0.8:
            line.append(f"model={draw.choice(MODELS)}")
        if draw.random() < 0.8:
            line.append(f"data={draw.choice(DATA)}")
        for _ in range(draw.randint(0, 3)):
            line.append(f"{draw.choice(['', '', '', '+', '++', '~'])}{draw.choice(KEYS)}={draw.choice(VALUES)}")
        for _ in range(draw.choice([0, 0, 0, 1, 1, 2])):
            line.insert(draw.randint(1, len(line)), draw.choice(FLAGS))
    for _ in range(draw.choice([0, 0, 1, 1, 2])):
        line = _mutated(line, draw)
    return [text.replace("\0", "") for text in line]  # no system passes a NUL


def _mutated(line: list[str], draw: random.Random) -> list[str]:
    if not line:
        return [draw.choice(VALUES)]
    place = draw.randrange(len(line))
    text = line[place]
    at = draw.randint(0, len(text))
    made = {
        "insert": [text[:at] + draw.choice(SIGNS) + text[at:]], "delete": [text[:at] + text[at + 1 :]], "drop": [],
        "split": [text[:at], text[at:]], "twice": [text, text], "join": ["".join(line[place : place + 2])],
    }  # fmt: skip
    return [*line[:place], *made[draw.choice(sorted(made))], *line[place + 1 :]]


def check_line(line: list[str], folder: Path) -> str:
    """What is wrong with how a command line ends, run in this process in ``folder``; empty where nothing is."""
    from bench.cli import main as command
    from bench.config.spec import RunSpec
    from bench.runs.folder import Ended, Outcome

    out, err = io.StringIO(), io.StringIO()
    outside = _state(folder.parent, folder)

    def executed(spec: RunSpec, stage: object = None) -> Outcome:
        return Outcome(spec.run_id, Ended.OK)

    with contextlib.ExitStack() as held:
        held.enter_context(_within(SECONDS))
        held.enter_context(contextlib.chdir(folder))
        held.enter_context(mock.patch("bench.runs.run.execute", executed))
        held.enter_context(contextlib.redirect_stdout(out))
        held.enter_context(contextlib.redirect_stderr(err))
        try:
            code: object = command.main(line)
        except SystemExit as end:
            code = end.code
        except BaseException:
            return traceback.format_exc()
    said = err.getvalue()
    if code not in (0, 1, 2):
        return f"exit code {code}"
    if code == 2 and not said.strip():
        return "exit code 2 without a word"
    if "Traceback" in said:
        return said
    if code == 2 and "usage:" not in said and said.count("\n") != 1:
        return f"more than one line: {said}"
    return "" if _state(folder.parent, folder) == outside else "something was written outside the working folder"


def _state(root: Path, but: Path) -> set[Path]:
    return {path for path in root.iterdir() if path != but}


@contextlib.contextmanager
def _within(seconds: int) -> Iterator[None]:
    def late(signum: int, frame: object) -> None:
        raise TimeoutError(f"still at work after {seconds} s of processor time")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def check_process(line: list[str], folder: Path) -> str:
    """The same for a process of its own. Nothing is trained: what would run is refused for its batch size."""
    if line[:1] == ["run"]:
        line = [*line, "train.batch_size=1000000"]
    outside = _state(folder.parent, folder)
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "bench", *line], cwd=folder, capture_output=True, text=True,
            timeout=SECONDS * 10, check=False, stdin=subprocess.DEVNULL, errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "hangs"
    if "Traceback" in done.stderr or done.returncode not in (0, 1, 2):
        return f"exit code {done.returncode}: {done.stderr[-800:]}"
    return "" if _state(folder.parent, folder) == outside else "something was written outside the working folder"


def main() -> int:
    """Check lines, print those that fail, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=200)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--read", nargs=3, type=int, metavar=("FIRST", "COUNT", "SEED"), help="every fourth file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if given.read:
        return read_files(*given.read)
    rows: list[tuple[object, ...]] = []
    if given.files:
        start = time.perf_counter()
        rows.append(
            ("files", given.seed, given.files, files(given.files, given.seed), round(time.perf_counter() - start))
        )
        print(*rows[-1], flush=True)
    for what, count, check in (("in process", given.lines, check_line), ("processes", given.processes, check_process)):
        if not count:
            continue
        failures, start = 0, time.perf_counter()
        with tempfile.TemporaryDirectory() as top:
            for index in range(count):
                folder = Path(top) / "work"
                folder.mkdir(exist_ok=True)
                line = line_of(index, given.seed)
                wrong = check(line, folder)
                if wrong:
                    failures += 1
                    print(f"line {index}: {line!r}\n{wrong}", flush=True)
        rows.append((what, given.seed, count, failures, round(time.perf_counter() - start)))
        print(*rows[-1], flush=True)
    if given.out is not None:
        write(given.out, rows)
    return 1 if any(row[3] for row in rows) else 0


def write(path: Path, rows: list[tuple[object, ...]]) -> None:
    """Write rows, and keep those of other kinds."""
    kept: list[list[str]] = []
    if path.exists():
        with path.open(newline="") as file:
            kept = [line for line in list(csv.reader(file))[1:] if line[0] not in {row[0] for row in rows}]
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(
            [("kind", "seed", "lines", "failures", "seconds"), *kept, *rows]
        )


def files(count: int, seed: int) -> int:
    """How many files fail, read by processes of their own, each in a folder of its own."""
    with contextlib.ExitStack() as held:
        started = []
        for first in range(READERS):
            home = held.enter_context(tempfile.TemporaryDirectory())
            command = [sys.executable, "-B", str(Path(__file__).resolve()), "--read", str(first), str(count), str(seed)]
            environment = {**os.environ, "HOME": home, "TMPDIR": home}
            started.append(subprocess.Popen(command, cwd=home, env=environment, text=True, stdout=subprocess.PIPE))
        failures = 0
        for first, process in enumerate(started):
            out, _ = process.communicate()
            print(out, end="", flush=True)
            said = out.rpartition("failures: ")[2].strip()
            whole = process.returncode == 0 and said.isdigit()
            failures += int(said) if whole else len(range(first, count, READERS))
    return failures


def read_files(first: int, count: int, seed: int) -> int:
    """Read every fourth file in this process, in the working folder, and print which fail and how many do.

    A superuser becomes nobody first, whom permissions hold. What is imported when it is needed is imported before, by
    some files of another seed, as nobody may be unable to read it.
    """
    if os.geteuid() == 0:
        for index in range(200):
            read_file(index, seed + 1)
        os.chown(".", NOBODY, NOBODY)
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    failures = 0
    for index in range(first, count, READERS):
        wrong = read_file(index, seed)
        if wrong:
            failures += 1
            print(f"file {index}: {wrong}", flush=True)
    print(f"failures: {failures}")
    return 0


def read_file(index: int, seed: int) -> str:
    from hostile import check_file, write_file

    with tempfile.TemporaryDirectory(dir=".") as folder:
        return check_file(write_file(index, Path(folder).resolve(), seed))


if __name__ == "__main__":
    sys.exit(main())
