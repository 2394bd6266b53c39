"""What errors, kills and poor file systems cost: rows lost or doubled, tracebacks, files that cannot be read.

    python tests/benchmarks/bench_reliability.py [--short] [--only-kills] [--out results/benchmarks/reliability.csv]

A finished run and its leaderboard lie in a folder. Another run of the same sweep is started there, as the real command
in a process forked from this one, and one operation on its files fails or the process is killed before it: every
operation in turn (``faults.py``). Then the same command runs again in peace. Whole sweeps are killed at random moments
(``kills.py``). Counted are

    lost        rows that were there before, or that a command with exit code 0 or a second run should have left
    doubled     rows that stand twice, and finished runs that are made again
    tracebacks  commands that print one
    unreadable  rows, checkpoints, markers, arrays and tables that cannot be read after the fault
    silent      commands that failed without a line
    stuck       second runs that fail, and processes that outlive a killed sweep
    orphans     temporary files, staging folders and lock files that the second run leaves

Takes most of an hour of one core. There are no times in the result.
"""

import argparse
import csv
import errno
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # a forked process of several threads may wait for one that it does not have

import fcntl

import torch
from counted import Result, leftovers, readable, rows_of
from faults import Faults
from kills import killed_sweeps

from bench.cli.main import main as genbench
from bench.errors import UserError
from bench.rows.store import collect, read_rows, write_rows
from bench.runs.folder import RunFolder
from bench.runs.process import set_up_process
from bench.runs.run import execute  # noqa: F401  # torch and Lightning, so that forked processes start at once
from bench.schema import ResultRow, Source, Status

DATA = ["data=two_moons", "data.n_train=64", "data.n_val=16", "data.n_test=16", "metric=[likelihood,cost]",
        "evaluate.n_samples=16"]  # fmt: skip
CLOSED_FORM = ["run", "model=gaussian", *DATA]
SWEPT = ["run", "-m", "jobs=2", *DATA[:-2], "metric=[likelihood]", DATA[-1]]
TRAINED = ["run", "model=realnvp", "model.couplings=1", "model.hidden=4", "train.examples=64", "train.batch_size=16",
           "train.validate_every=32", *DATA]  # fmt: skip
ERRORS = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "EROFS": errno.EROFS}
NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
CANNOT_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)


@dataclass(frozen=True)
class Ended:
    """How a forked command ended."""

    code: int
    said: str
    operations: int


def command(arguments: list[str], folder: Path, before: Callable[[], Faults | None]) -> Ended:
    """Run ``genbench`` in a folder, in a forked process in which ``before`` changes what the system does."""
    said, count = folder.parent / "said", folder.parent / "count"
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.chdir(folder)
            out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(out, 1)
            os.dup2(out, 2)
            faults = before()
            code = genbench(arguments)
            count.write_text(str(0 if faults is None else len(faults.operations)))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    text = said.read_text(errors="replace")
    return Ended(os.waitstatus_to_exitcode(status), text, int(count.read_text()) if count.exists() else 0)


def in_peace() -> None:
    """Change nothing."""


class Bench:
    """A folder with a finished run, and what it holds after a second one that nothing disturbs."""

    def __init__(self, arguments: list[str], place: Path) -> None:
        self.arguments = [*arguments, "seed=1"]
        self.start, self.work, peace = place / "start", place / "work", place / "peace"
        self.start.mkdir(parents=True)
        assert command([*arguments, "seed=0"], self.start, in_peace).code == 0
        self.before = rows_of(self.start)
        shutil.copytree(self.start, peace)
        counted = command(self.arguments, peace, lambda: self._faults(peace))
        assert counted.code == 0, counted.said
        self.after, self.operations = rows_of(peace), counted.operations

    @staticmethod
    def _faults(folder: Path, *fault: object) -> Faults:
        faults = Faults(folder, *fault)  # type: ignore[arg-type]
        faults.install()
        return faults

    def fault(self, result: Result, at: int, error: int | None, lasting: bool = False) -> None:
        """One case: a fault at one operation, then the same command in peace."""
        self.disturb(result, lambda: self._faults(self.work, at, error, lasting))

    def disturb(self, result: Result, before: Callable[[], Faults | None], fails: bool = True) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.start, self.work)
        first = command(self.arguments, self.work, before)
        bad = result.bad
        result.cases += 1
        result.tracebacks += "Traceback (most recent" in first.said
        result.silent += first.code > 0 and "genbench: " not in first.said
        result.unreadable += sum(not readable(path) for path in self.work.rglob("*") if path.is_file())
        self._compare(result, self.after if first.code == 0 else self.before)
        if not fails:
            result.stuck += first.code != 0
        second = command(self.arguments, self.work, in_peace)
        result.tracebacks += "Traceback (most recent" in second.said
        result.stuck += second.code != 0
        self._compare(result, self.after)
        result.orphans += leftovers(self.work)
        if result.bad > bad:
            print(result, first, second, sep="\n", file=sys.stderr)

    def _compare(self, result: Result, expected: tuple[Counter[tuple[object, ...]], ...]) -> None:
        try:
            found = rows_of(self.work)
        except UserError:  # is counted as unreadable
            return
        for there, wanted in zip(found, expected, strict=True):
            result.lost += (wanted - there).total()
            result.doubled += sum(count > 1 for count in there.values())


def every(what: str, step: int) -> str:
    """So that the table says what was left out."""
    return f"every {what}" if step == 1 else f"one in {step} {what}s"


def faults_at_every_operation(place: Path, step: int, short: bool) -> Iterator[Result]:
    for title, arguments in {"closed form": CLOSED_FORM, **({} if short else {"trained": TRAINED})}.items():
        bench = Bench(arguments, place / title.replace(" ", "-"))
        places = range(1, bench.operations + 1, step)
        for name, number in ERRORS.items():
            result = Result(f"{name} at {every('operation', step)}, {title}")
            for at in places:
                bench.fault(result, at, number)
            yield result
        result = Result(f"ENOSPC from {every('operation', step)} on, {title}")
        for at in places:
            bench.fault(result, at, errno.ENOSPC, True)
        yield result
        result = Result(f"SIGKILL before {every('operation', step)}, {title}")
        for at in places:
            bench.fault(result, at, None)
        yield result
        if title == "closed form":
            yield from poor_file_systems(bench)


def poor_file_systems(bench: Bench) -> Iterator[Result]:
    result = Result("no flock")
    for number in NO_FLOCK:
        bench.disturb(result, lambda number=number: _refuse(fcntl, "flock", number), fails=False)  # type: ignore[misc]
    yield result
    result = Result("no fsync of folders")
    for number in CANNOT_FLUSH:
        bench.disturb(result, lambda number=number: _refuse_folders(number), fails=False)  # type: ignore[misc]
    yield result


def _refuse(module: object, name: str, number: int) -> None:
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    setattr(module, name, refused)


def _refuse_folders(number: int) -> None:
    low = os.open

    def refused(path: str, flags: int, *rest: int, **more: int) -> int:
        if flags & os.O_DIRECTORY:
            raise OSError(number, os.strerror(number))
        return low(path, flags, *rest, **more)

    os.open = refused  # type: ignore[assignment]


def truncated_rows(place: Path, step: int) -> Result:
    """A file of rows cut at every byte: every whole row is read, and more can be added."""
    result = Result(f"rows truncated at {every('byte', step)}")
    logging.getLogger("bench.rows.store").setLevel(logging.ERROR)  # it tells of every torn line
    folder = RunFolder(place / "truncated")
    folder.path.mkdir(parents=True)
    rows = [row_of("w0", seed) for seed in range(4)]
    write_rows(folder.rows, rows)
    whole = folder.rows.read_bytes()
    ends = [at for at, byte in enumerate(whole) if byte == ord("\n")]  # a last line needs no line end
    for size in range(0, len(whole) + 1, step):
        kept = rows[: sum(end <= size for end in ends)]
        folder.rows.write_bytes(whole[:size])
        result.cases += 1
        try:
            result.lost += read_rows(folder.rows) != kept
            folder.add_rows([row_of("w1", 0)])
            result.lost += read_rows(folder.rows) != [*kept, row_of("w1", 0)]
        except UserError:
            result.unreadable += 1
    return result


def row_of(run: str, seed: int) -> ResultRow:
    return ResultRow(
        run_id=f"{run}-{seed}", training_key=f"{run}-{seed}", group=run, measuring_key="m", model="gaussian",
        model_family="baseline", dataset="two_moons", data_revision="r", split="test", seed=seed, metric="likelihood",
        higher_is_better=True, value=float(seed), status=Status.OK, source=Source.MEASURED,
    )  # fmt: skip


def killed_writers(place: Path, writers: int, rounds: int, kills: int, flock: bool) -> Result:
    """Each writer adds its rows one by one to a folder of its own, locked; and says each that is written. Random ones
    are killed and started again."""
    result = Result("", cases=writers * rounds)
    place = place / f"writers{flock}"
    place.mkdir()
    generator = random.Random(0)
    left, alive = kills, {writer: _start_writer(place, writer, rounds, flock) for writer in range(writers)}
    while alive:
        ended, status = os.waitpid(-1, os.WNOHANG)
        for writer in [writer for writer, process in alive.items() if process == ended]:
            del alive[writer]
            if status != 0:
                result.lost += _lacking(place, writer)
                result.stuck += status != signal.SIGKILL
                alive[writer] = _start_writer(place, writer, rounds, flock)
        if ended == 0:
            time.sleep(generator.uniform(0, 0.05))
            if left and alive:
                left -= 1
                os.kill(generator.choice(list(alive.values())), signal.SIGKILL)
    found = Counter((row.group, row.seed) for row in collect(place.glob("*/rows.jsonl")))
    result.lost += writers * rounds - len(found)
    result.doubled += sum(len(read_rows(path)) for path in place.glob("*/rows.jsonl")) - len(found)
    result.orphans += leftovers(place)
    name = "" if flock else ", no flock"
    result.test = f"{writers} writers x {rounds} rows, {kills - left} kills{name}"
    return result


def _lacking(place: Path, writer: int) -> int:
    """The rows that a killed writer said it had written, and that are not there."""
    said = place / f"{writer}.said"
    acknowledged = said.read_text().split() if said.exists() else []
    path = place / f"w{writer}" / "rows.jsonl"
    return len(set(acknowledged) - {str(row.seed) for row in (read_rows(path) if path.exists() else [])})


def _start_writer(place: Path, writer: int, rounds: int, flock: bool) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        if not flock:
            _refuse(fcntl, "flock", errno.ENOLCK)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # it says so
        folder = RunFolder(place / f"w{writer}")
        with folder.locked(), (place / f"{writer}.said").open("a", buffering=1) as said:
            there = {row.seed for row in folder.read_rows()}
            for seed in range(rounds):
                if seed not in there:
                    folder.add_rows([row_of(f"w{writer}", seed)])
                    said.write(f"{seed}\n")
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="few operations of a closed-form model, few writers")
    parser.add_argument("--step", type=int, help="take every n-th operation and byte")
    parser.add_argument("--kills", type=int, help="of sweeps; default 1000")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of those kills")
    parser.add_argument(
        "--only-kills", action="store_true", help="leave out all but the killed sweeps; --out keeps other lines"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    set_up_process()
    step = options.step or (61 if options.short else 1)
    writers, rounds, kills = (4, 10, 6) if options.short else (16, 500, 100)
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        os.environ["GENBENCH_CACHE"] = str(place / "cache")

        def keep(result: Result) -> None:
            results.append(replace(result))
            print(*asdict(result).values(), sep=",", flush=True)

        print(*(field.name for field in fields(Result)), sep=",")
        if not options.only_kills:
            keep(truncated_rows(place, step))
            for flock in (True, False):
                keep(killed_writers(place, writers, rounds, kills, flock))
        runs = ["model=gaussian", "seed=0,1"] if options.short else ["model=gaussian,resampler", "seed=0,1,2"]
        keep(killed_sweeps(place, [*SWEPT, *runs], options.kills or (4 if options.short else 1000), options.seed))
        for result in [] if options.only_kills else faults_at_every_operation(place, step, options.short):
            keep(result)
    if options.out is not None:
        kept: list[dict[str, str]] = []
        if options.only_kills and options.out.exists():
            with options.out.open(newline="") as file:
                kept = [line for line in csv.DictReader(file) if line["test"] not in {one.test for one in results}]
        with options.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Result)], lineterminator="\n")
            writer.writeheader()
            writer.writerows([*kept, *map(asdict, results)])
    sys.exit(1 if any(result.bad for result in results) else 0)


if __name__ == "__main__":
    main()
