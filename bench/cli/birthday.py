"""``genbench birthday``: the closest pairs of samples on a page, and what people say about them."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli.streams import write_text
from bench.errors import UnavailableError, UserError
from bench.files import durable_write
from bench.paths import at_home
from bench.plain import plain
from bench.regular import check_output

if TYPE_CHECKING:
    from bench.birthday.record import Answers, Key
    from bench.data.base import Data
    from bench.subjects.base import Subject

__all__ = ["add_arguments", "main"]

PAGE = """\
  genbench birthday page runs/mnist5k/RUN
  genbench birthday page RUN/final.ckpt pairs=100 evaluate.n_samples=5000
  genbench birthday page samples=fakes.npz label=theirs data=mnist5k out=theirs.html

Writes one HTML file with the closest pairs of the model's samples among controls of known truth, and beside it the
key, which knows which is which. Open the page in a browser (it works offline), answer every pair, and save the answers.
pairs=N shows the N closest pairs (20; at most 200); features=classifier takes those that are closest in the features
of the in-domain classifier, not in pixels; out=FILE.html names the page. The other keys are those of
`genbench evaluate`. Only pictures can be judged: points of toys and tables cannot.
"""
JUDGE = """\
  genbench birthday judge birthday-1a2b3c4d-9f00.answers.json
  genbench birthday judge mine.json hers.json --key runs/mnist5k/RUN/birthday-1a2b3c4d.key.json

Corrects the answers by the controls, prints what they say about the number of different samples, and writes it beside
the key: as JSON, and as the row support_judged, which `genbench table RUN` shows. Two files are of two judges of one
page: their agreement is printed too.
"""
_OWN = ("pairs", "out", "features")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``genbench birthday`` to a parser."""
    steps = parser.add_subparsers(dest="step", metavar="STEP", required=True)
    raw = argparse.RawDescriptionHelpFormatter
    page = steps.add_parser("page", help="write a page with the closest pairs", epilog=PAGE, formatter_class=raw)
    page.add_argument(
        "given", nargs="+", metavar="RUN | KEY=VALUE", help="a run's folder, or a checkpoint, or samples="
    )
    judge = steps.add_parser("judge", help="read what people answered", epilog=JUDGE, formatter_class=raw)
    judge.add_argument("answers", nargs="+", metavar="ANSWERS.json", help="the answers of one judge, or of two")
    judge.add_argument("--key", metavar="FILE", help="the page's key, NAME.key.json; without it, looked for beside "
                       "the answers, in this folder and in runs/*/*")  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """Write a page, or read answers.

    Returns:
        0, the exit status.

    Raises:
        UserError: A mistake in the command, or a file that cannot be used.
    """
    return _page(args.given) if args.step == "page" else _judge(args.answers, args.key)


def _page(given: list[str]) -> int:
    from bench.config.compose import overridden

    places = [text for text in given if "=" not in text or Path(text).exists()]
    keys = {key: (text, value) for text in given if text not in places for key, value in [overridden(text)]}
    pairs = keys["pairs"][1] if "pairs" in keys else 20
    if type(pairs) is not int or not 1 <= pairs <= 200:
        raise UserError(f"pairs={pairs}: must be a whole number from 1 to 200")
    features = keys["features"][1] if "features" in keys else "pixels"
    if features not in ("pixels", "classifier"):
        raise UserError(f"features={features}: close pairs are found by pixels or by classifier")
    out = None if "out" not in keys else at_home("out", str(keys["out"][1]))
    if out is not None:
        if out.suffix != ".html":
            raise UserError(f"out={out}: give a name that ends in .html")
        for path in (out, _key_of(out)):
            check_output("out", path, [*places, *(str(value) for key, (_, value) in keys.items() if key == "samples")])
    overrides = [text for key, (text, _) in keys.items() if key not in _OWN]
    if ("samples" in keys) == bool(places) or len(places) > 1:
        raise UserError("birthday page: give one run's folder, or one checkpoint, or samples=FILE data=NAME")
    from bench.subjects.examples import Examples

    subject, data, seed, n_samples, folder = _samples(overrides) if "samples" in keys else _run(places[0], overrides)
    from bench.birthday.page import make_page
    from bench.birthday.pairs import choose
    from bench.birthday.record import Key, sealed
    from bench.features.classifier import InDomainClassifier

    try:
        recipe = InDomainClassifier() if features == "classifier" else None
        chosen = choose(Examples(subject, data, seed=seed), n_samples, pairs, recipe)
    except UnavailableError as lack:
        raise UserError(f"birthday page: {lack}") from lack
    key = sealed(
        Key(
            format="genbench birthday key 1", page="0" * 64, model=subject.origin.model, dataset=data.spec.name,
            revision=data.spec.revision, seed=seed, samples=chosen.samples, pairs=chosen.shown,
            training_key=subject.origin.training_key, checkpoint=subject.origin.checkpoint,
        )
    )  # fmt: skip
    path = folder / f"birthday-{key.page[:8]}.html" if out is None else out
    assert data.spec.levels is not None
    page = make_page(chosen, key, data.spec.levels, path.stem)
    if out is None:
        folder.mkdir(parents=True, exist_ok=True)
    _write(path, page, key)
    n = sum(shown.kind == "candidate" for shown in key.pairs)
    print(
        f"{plain(str(path))}: the {n} closest pairs of {chosen.samples:,} samples among {len(key.pairs) - n} controls\n"
        "Open it in a browser, answer every pair and save the answers. Then:\n"
        f"  genbench birthday judge ANSWERS.json --key {plain(str(_key_of(path)))}"
    )
    return 0


def _write(path: Path, page: bytes, key: "Key") -> None:
    import msgspec

    content = msgspec.json.format(msgspec.json.encode(key), indent=1)
    durable_write(_key_of(path), content)  # first: a page without its key is of no use
    durable_write(path, page)


def _key_of(page: Path) -> Path:
    return page.with_suffix(".key.json")


def _run(place: str, overrides: list[str]) -> tuple["Subject", "Data", int, int, Path]:
    from bench.config.compose import compose_evaluation, overridden
    from bench.runs.evaluate import Asked, subject_of_run, target_of

    path = at_home("birthday page", place)
    target = target_of(path) if path.exists() else None
    if target is None:
        raise UserError(f"{place}: is no run; give a folder with config.json and best.ckpt, as in runs/NAME/RUN")
    keys = {key: value for text in overrides for key, value in [overridden(text)]}
    data = {key.removeprefix("data."): value for key, value in keys.items() if key.startswith("data.")}
    if isinstance(data.get("path"), str):
        data["path"] = str(at_home("data.path", data["path"]).absolute())
    wrong = [key for key in keys if key.partition(".")[0] not in ("data", "evaluate", "trust") or key == "data"]
    if wrong:
        raise UserError(f"{wrong[0]}: a run is judged as it was trained; evaluate.KEY=VALUE and data.KEY=VALUE go here")
    ours = [text for text in overrides if not overridden(text)[0].startswith("data.")]
    asked = Asked(lambda defaults: compose_evaluation(ours, defaults), frozenset(keys), data)
    subject, found, spec = subject_of_run(target, asked)
    return subject, found, spec.seed, spec.evaluation.n_samples, target.path or path.parent


def _samples(overrides: list[str]) -> tuple["Subject", "Data", int, int, Path]:
    from bench.config.compose import compose_evaluation
    from bench.config.spec import Evaluation, typed
    from bench.data.formats.samples import read_samples, sha256_of
    from bench.runs.evaluate import subject_of_samples

    config = compose_evaluation(overrides, [])
    path = Path(str(config["samples"]))

    def read(data: Any) -> Any:
        x = read_samples(path, data.spec)
        return x, sha256_of(x)

    subject, found, folder = subject_of_samples(config, read, str(config["label"] or path.stem))
    return subject, found, config["seed"], typed(Evaluation, config["evaluate"], "evaluate").n_samples, folder


def _judge(names: list[str], key_name: str | None) -> int:
    from bench.birthday.record import check_answers, read_answers, read_key
    from bench.birthday.report import report_of, to_text
    from bench.birthday.row import row_of
    from bench.rows.store import read_rows, write_rows

    if len(names) > 2:
        raise UserError(f"birthday judge: {len(names)} files of answers; give one, or two of two judges")
    paths = [at_home("birthday judge", name) for name in names]
    given = [read_answers(path) for path in paths]
    if len({one.page for one in given}) > 1:
        raise UserError(
            f"{names[0]} and {names[1]}: the judges saw different pages ({given[0].page[:8]} and {given[1].page[:8]}), "
            "so they cannot be compared; give answers to one page"
        )
    if len({one.session for one in given}) < len(given):
        raise UserError(f'{names[0]} and {names[1]}: are of one judge; the second judge presses "Start over" first')
    place = _key_file(paths[0], given[0]) if key_name is None else at_home("--key", key_name)
    key = read_key(place)
    for path, one in zip(paths, given, strict=True):
        check_answers(path, one, key)
    titles = [plain(path.name) for path in paths]
    if len(set(titles)) < len(titles):  # of two folders
        titles = [plain(str(path)) for path in paths]
    report = report_of(key, dict(zip(titles, given, strict=True)))
    sessions = "-".join(one.session[:4] for one in given)
    out = place.with_name(f"{place.name.removesuffix('.json').removesuffix('.key')}-{sessions}.report.json")
    check_output("birthday judge", out, [*paths, place])
    durable_write(out, json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    rows = out.with_name(f"{out.name.removesuffix('.report.json')}.jsonl")
    check_output("birthday judge", rows, [*paths, place])
    beside = place.with_name("rows.jsonl")
    write_rows(rows, [row_of(key, report, read_rows(beside) if beside.is_file() else [])])
    text = plain_lines(to_text(report)) + f"written to {plain(str(out))}, and as a row to {plain(rows.name)}\n"
    write_text(text)
    return 0


def plain_lines(text: str) -> str:
    """A text whose lines hold nothing that acts on a terminal."""
    return "".join(f"{plain(line)}\n" for line in text.splitlines())


def _key_file(answers: Path, given: "Answers") -> Path:
    """The key of a page under its own name: beside the answers, in the working folder, or in a run's folder."""
    name = f"birthday-{given.page[:8]}.key.json"
    for folder in (answers.parent, Path(), *sorted(Path("runs").glob("*/*"))):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{answers}: there is no {name} here or in runs/; name the page's key with --key FILE")
