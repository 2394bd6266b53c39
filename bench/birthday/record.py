"""The two files of a page: its key, which knows what each pair is, and the answers that a judge exports.

Both may come from a stranger. They are read with limits, and nothing in them is believed before it is checked.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from bench.errors import UserError
from bench.regular import read_regular

__all__ = [
    "ANSWERS",
    "Answer",
    "Answers",
    "Key",
    "Kind",
    "Shown",
    "check_answers",
    "read_answers",
    "read_key",
    "sealed",
]

ANSWERS = "genbench birthday answers 1"
"""The format of a file of answers, as the page writes it."""

Answer = Literal["y", "n", "?"]
"""Both pictures show the same thing, they do not, or the judge cannot tell."""

Kind = Literal["candidate", "same", "different"]
"""A close pair of samples, a decoy of one real example twice, a decoy of two different real examples."""

_LARGEST = 1 << 20  # bytes of either file; 300 pairs take 40 kB
_Hash = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]
_Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_Text = Annotated[str, msgspec.Meta(max_length=500)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=10**9)]


class Shown(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One pair of the page.

    Attributes:
        hash: Of its two pictures: its name in the answers.
        first, second: Indices of the two samples, or of the real examples of a decoy.
        distance: Between the two, in units of the local radius; of a decoy of one example, what was aimed at, in
            levels.
    """

    hash: _Hash
    kind: Kind
    first: _Count
    second: _Count
    distance: Annotated[float, msgspec.Meta(ge=0, le=1e300)]


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a page shows, and the truth about its decoys.

    Attributes:
        page: The hash of everything else here. The answers name it.
        model, dataset, revision, seed: What was sampled, the data and their revision, the run's seed.
        samples: Number s of samples that the closest pairs are of.
        training_key, checkpoint: Of the run that was sampled; empty in older keys.
    """

    format: Literal["genbench birthday key 1"]
    page: _Digest
    model: _Text
    dataset: _Text
    revision: _Text
    seed: Annotated[int, msgspec.Meta(ge=-(2**63) + 1, le=2**63 - 1)]
    samples: Annotated[int, msgspec.Meta(ge=2, le=10**9)]
    pairs: Annotated[tuple[Shown, ...], msgspec.Meta(min_length=1, max_length=1000)]
    training_key: _Text = ""
    checkpoint: _Text = ""


class Answers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one judge answered, by the hashes of the pairs.

    Attributes:
        page: The key's.
        session: A random text that the page drew for this judge.
    """

    format: Literal["genbench birthday answers 1"]
    page: _Digest
    session: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]
    answers: Annotated[dict[_Hash, Answer], msgspec.Meta(max_length=1000)]


def sealed(key: Key) -> Key:
    """The key with the hash of all its other fields as its page."""
    fields = msgspec.to_builtins(key)
    del fields["page"]
    text = json.dumps(fields, sort_keys=True, ensure_ascii=True)
    return msgspec.structs.replace(key, page=hashlib.sha256(text.encode()).hexdigest())


def read_key(path: Path) -> Key:
    """The key beside a page.

    Raises:
        UserError: It is no key, or was changed.
    """
    key: Key = _read(path, Key, "the key of a page, NAME.key.json")
    if len({shown.hash for shown in key.pairs}) != len(key.pairs) or sealed(key).page != key.page:
        raise UserError(f"{path}: was changed after `genbench birthday page` wrote it; make the page again")
    ends = [(shown.first, shown.second) for shown in key.pairs if shown.kind == "candidate"]
    places = {tuple(sorted(pair)) for pair in ends}
    if len(places) < len(ends) or any(not 0 <= first < second < key.samples for first, second in places):
        raise UserError(
            f"{path}: its close pairs are not different pairs of {key.samples} samples, as those of every page are; "
            "make the page again"
        )
    return key


def read_answers(path: Path) -> Answers:
    """The answers of one judge.

    Raises:
        UserError: It is no file of answers.
    """
    found: Answers = _read(path, Answers, "the answers that a page exported")
    return found


def check_answers(path: Path, found: Answers, key: Key) -> None:
    """Refuse answers to another page, or to pairs that the page does not show.

    Raises:
        UserError: As it says.
    """
    if found.page != key.page:
        raise UserError(
            f"{path}: answers page {found.page[:8]}, and this is the key of page {key.page[:8]}; give its own with "
            "--key FILE"
        )
    unknown = sorted(found.answers.keys() - {shown.hash for shown in key.pairs})
    if unknown:
        raise UserError(f"{path}: answers {unknown[0]}, which the page does not show; save the answers again there")
    if not found.answers:
        raise UserError(f"{path}: holds no answer yet; judge some pairs on the page and save the answers again")


def _read(path: Path, kind: Any, what: str) -> Any:
    content = read_regular(path, _LARGEST)
    try:
        record = json.loads(content.decode(), object_pairs_hook=_unique)
        return msgspec.convert(record, kind)
    except RecursionError as error:
        raise UserError(f"{path}: is not {what}: nested too deeply") from error
    except (ValueError, msgspec.ValidationError) as error:  # also of UnicodeDecodeError and JSONDecodeError
        raise UserError(f"{path}: is not {what}: {' '.join(str(error).split())[:200]}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a key stands twice")
    return record
