"""The grammar of overrides is Hydra's. What cannot be read, or cannot be swept, is refused with a text that works."""

import math
import re
import shlex
from collections.abc import Iterator, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, Quote, QuotedString, RangeSweep
from hydra.errors import HydraException

from bench.config.catalogue import Catalogue
from bench.config.limits import MOST_RUNS
from bench.did_you_mean import nearest
from bench.errors import UserError

__all__ = ["check_one_value", "check_overrides", "check_sweeps", "first_run", "parsed", "quoted", "shown"]

_LONGEST = 10_000  # characters of an override; Hydra's parser takes a millisecond for ten
_TEXTS = ("name", "data.path", "runs_dir", "results_dir")
_PAIRS = {"[": "]", "{": "}", "(": ")"}
_EXAMPLES = {"model": "vae", "data": "mnist5k", "experiment": "quickstart", "metric": "[likelihood]", "seed": "0"}
_FUNCTIONS = {
    "choice": "-m seed=choice(0,1)", "range": "-m seed=range(0,3)", "glob": "-m model=glob(vae*)",
    "sort": "-m seed=sort(1,0)", "shuffle": "-m seed=shuffle(range(0,3))", "tag": "-m seed=tag(a,choice(0,1))",
    "int": "seed=int(3.0)", "float": "train.seconds=float(60)", "str": "name=str(7)", "bool": "rerun=bool(1)",
}  # fmt: skip


def parsed(text: str) -> Override:
    """One override.

    Raises:
        UserError: It cannot be read.
    """
    check_overrides([text])
    return OverridesParser.create().parse_override(text)


def check_overrides(overrides: Sequence[str], catalogue: Catalogue | None = None) -> None:
    """Refuse what Hydra's grammar cannot read.

    Arguments:
        overrides: In their order: a text with a space in it arrives in pieces.
        catalogue: Knows the names that may stand alone, as in ``genbench run vae``.

    Raises:
        UserError: Says why, and what to write instead.
    """
    for index, text in enumerate(overrides):
        if len(text) > _LONGEST:
            raise UserError(f"{text[:40]!r}...: has {len(text):,} characters; at most {_LONGEST:,} can be read")
        if not text.isprintable():
            raise UserError(f"{text[:80]!r}: has a line break or another control character; leave it out")
        reason = _fault(text)
        if reason:
            before, after = list(overrides[:index]), list(overrides[index + 1 :])
            raise UserError(f"cannot read {text!r}: {_advice(text, before, after, reason, catalogue)}")


def check_sweeps(overrides: Sequence[str], *, multirun: bool, loader: object = None) -> None:
    """Refuse sweeps that have no end, no value, or more runs than anybody waits for. Nothing is enumerated.

    Raises:
        UserError: Names the override.
    """
    runs = 1
    for text in overrides:
        made = OverridesParser.create(loader).parse_overrides([text])[0]  # type: ignore[arg-type]
        if not made.is_sweep_override():
            continue
        if not multirun:
            raise UserError(_without_multirun(made, list(overrides)))
        if isinstance(made.value(), IntervalSweep):
            raise UserError(f"{text}: every value between two numbers cannot be run; write {shown(_listed(made))}")
        count = _count(made)
        if count == 0:
            if isinstance(made.value(), Glob):
                raise UserError(f"{text}: no {made.key_or_group} matches; `genbench list` shows the names")
            raise UserError(f"{text}: has no values; range(START,STOP) goes from START to below STOP")
        runs *= count
        if runs > MOST_RUNS:
            raise UserError(f"{text}: the sweep has {runs:,} runs; at most {MOST_RUNS:,} are run by one command")


def check_one_value(overrides: Sequence[str]) -> None:
    """Refuse every sweep, where a command has none.

    Raises:
        UserError: Names the override.
    """
    for text in overrides:
        if parsed(text).is_sweep_override():
            key, _, value = text.partition("=")
            listed = "" if re.search(r"[()\[{]", value) else f"; a list is written {shown(f'{key}=[{value}]')}"
            raise UserError(f"{text}: one value is expected here{listed}")


def first_run(overrides: Sequence[str], catalogue: Catalogue) -> list[str]:
    """The overrides of a sweep's first run."""
    made = []
    for text in overrides:
        override = parsed(text)
        value = override.value()
        if isinstance(value, Glob):
            text = f"{override.get_key_element()}={value.filter(list(catalogue.files(override.key_or_group)))[0]}"
        elif override.is_sweep_override():
            text = f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"
        made.append(text)
    return made


def shown(*arguments: str) -> str:
    """Arguments as a shell reads them: in quotes where that is needed, double ones around single ones."""
    return " ".join(_in_quotes(text) for text in arguments)


def _in_quotes(text: str) -> str:
    if re.fullmatch(r"[\w@%+=:,./-]+", text, re.ASCII):
        return text
    return f'"{text}"' if not re.search(r'["$`\\!]', text) else shlex.quote(text)


def _fault(text: str) -> str:
    """Why a text cannot be read; empty where it can."""
    try:
        made = OverridesParser.create().parse_override(text)
    except HydraException as error:
        return str(error).splitlines()[0] or "it is no KEY=VALUE"
    except (ValueError, RecursionError, OverflowError) as error:  # int(inf), int of 5000 digits, a thousand brackets
        return str(error).splitlines()[0]
    return "" if made.key_or_group else "a key is missing before the ="


def _advice(text: str, before: list[str], after: list[str], reason: str, catalogue: Catalogue | None) -> str:
    function = re.search(r"while evaluating '(\w+)\(.*?': (.*)", reason)
    if not text.strip():
        return "an argument is empty; leave it out"
    if function and function[1] in _FUNCTIONS:
        return f"{function[2]}; {function[1]}() is written as in {shown(*_FUNCTIONS[function[1]].split())}"
    if function:
        return (
            f"there is no function {function[1]}(){nearest(function[1], _FUNCTIONS)}; for a text write {quoted(text)}"
        )
    for why, made in _candidates(text, before, after, catalogue):
        if not _fault(made):
            return f"{why}; write {shown(made)}"
    return f"{reason}; write KEY=VALUE, as in model=vae, and for a text KEY={shown(_quote('TEXT'))}"


def _candidates(
    text: str, before: list[str], after: list[str], catalogue: Catalogue | None
) -> Iterator[tuple[str, str]]:
    """Texts that may have been meant, the likeliest first, each with what was wrong."""
    key, equals, value = text.partition("=")
    if not equals and after and after[0].startswith("="):
        yield "a space ends an argument", text + "".join(after[:2] if after[0] == "=" else after[:1])
    if not equals and text.isidentifier():
        if before and before[-1].endswith("="):
            yield "a space ends an argument", before[-1] + text
        for group in ("model", "experiment", "data", "metric", "trainer"):
            if catalogue is not None and text in catalogue.files(group):
                yield f"{group} is missing", f"{group}=[{text}]" if group == "metric" else f"{group}={text}"
        if text in _EXAMPLES:
            yield "a value is missing", f"{text}={_EXAMPLES[text]}"
    for count in range(1, min(len(after), 8) + 1):
        whole = " ".join([text, *after[:count]])
        yield "a space ends an argument", re.sub(r"\s*([=,\[\]])\s*", r"\1", whole)
    yield "spaces stand around it", re.sub(r"\s*=\s*", "=", text.strip(), count=1)
    if ":" in text and not equals:
        yield "= is expected instead of :", text.replace(":", "=", 1)
    if not equals or not key.strip():
        return
    if value.startswith("(") and value.endswith(")"):
        yield "a list has brackets", f"{key}=[{value[1:-1]}]"
    if value[:1] in ("[", "{"):
        yield "its brackets do not match", f"{key}={_balanced(value)}"
        yield "its brackets do not match", f"{key}={_balanced(value.rstrip(', '))}"
    foreign = "".join(dict.fromkeys(sign for sign in value if _fault(f"x=a{sign}a")))
    yield (f"{foreign!r} needs quotes" if foreign else "this text needs quotes"), quoted(text)


def quoted(text: str) -> str:
    """``KEY=VALUE`` with its value in quotes, whatever it holds."""
    key, _, value = text.partition("=")
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    return f"{key.strip()}={_quote(value)}"


def _quote(value: str) -> str:
    quote = Quote.double if "'" in value and '"' not in value else Quote.single
    return QuotedString(value, quote).with_quotes()


def _balanced(value: str) -> str:
    """The value with the brackets closed that are open, and without those that close nothing."""
    kept = ""
    expected: list[str] = []
    for sign in value:
        if sign in _PAIRS.values() and (not expected or expected.pop() != sign):
            continue
        if sign in _PAIRS:
            expected.append(_PAIRS[sign])
        kept += sign
    return kept + "".join(reversed(expected))


def _without_multirun(made: Override, overrides: list[str]) -> str:
    text, value = str(made.input_line), made.value()
    grouped = re.fullmatch(r"[^=]+=(\d{1,3}(,\d{3})+)", text)
    if grouped:
        number = f"{made.key_or_group}={grouped[1].replace(',', '')}"
        return f"{text}: a comma separates the values of a sweep; for the number write {number}"
    if isinstance(value, IntervalSweep):
        return f"{text}: every value between two numbers cannot be run; write -m {shown(_listed(made))}"
    if made.key_or_group in (
        "metric",
        "probe",
        "trust",
        "evaluate.checkpoints",
        "evaluate.sampling_seeds",
        "hydra.searchpath",
    ):
        listed = ",".join(map(str, value.list)) if isinstance(value, ChoiceSweep) else "NAME"
        return f"{text}: a list of names is expected; write {shown(f'{made.key_or_group}=[{listed}]')}"
    one_text = f", and for one text with commas write {shown(quoted(text))}" if made.key_or_group in _TEXTS else ""
    return (f"{text}: one value is expected; to run each of these add -m:"
            f" `genbench run -m {shown(*overrides)}`{one_text}")  # fmt: skip


def _listed(made: Override) -> str:
    """A sweep over some values of an interval."""
    value, key = made.value(), made.get_key_element()
    assert isinstance(value, IntervalSweep)
    low, high = value.start or 0, value.end or 0
    whole = float(low).is_integer() and float(high).is_integer() and 0 < high - low <= 100
    return f"{key}=range({int(low)},{int(high)})" if whole else f"{key}={low},{high}"


def _count(made: Override) -> int:
    """How many values a sweep has."""
    value = made.value()
    if isinstance(value, RangeSweep):
        assert value.start is not None
        assert value.stop is not None
        numbers = (value.start, value.stop, value.step)
        if value.step == 0 or not all(math.isfinite(number) for number in numbers):
            raise UserError(f"{made.input_line}: has no end; write range(START,STOP,STEP) with a STEP other than 0")
        return max(0, math.ceil((value.stop - value.start) / value.step))
    if isinstance(value, ChoiceSweep):
        return len(value.list)
    return sum(1 for _ in made.sweep_iterator())
