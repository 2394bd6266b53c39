"""How large a configuration may be: in a stranger's file, a few characters could ask for all memory and all time.

Every limit stands here, far above what real work asks for. What is refused names the key.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from bench.errors import UserError

__all__ = ["LARGEST_FILE", "MOST_ENTRIES", "MOST_RUNS", "check_sizes"]

LARGEST_FILE = 1 << 20  # bytes of a configuration, as YAML or JSON
LONGEST_TEXT = 4096  # characters of a key or a value
DEEPEST = 32  # levels of keys and lists
MOST_ENTRIES = 20_000  # keys and values of one configuration
MOST_RUNS = 10_000  # of one sweep: more than anybody waits for

# The largest whole number below a key, in absolute value. The longest key that fits counts.
LARGEST = {
    "data": 100_000_000,
    "data.size": 10_000,  # pixels of a side
    "evaluate": 10_000_000,
    "metric": 10_000_000,
    "model": 1_000_000_000,
    "train.batch_size": 100_000_000,
    "trainer": 10_000,
}
# Keys of a model that say how often a part is made or run, and how wide a layer is.
REPEATED = {
    "blocks", "couplings", "depth", "discriminator_depth", "eval_terms", "exact_terms", "flat_blocks",
    "generator_depth", "heads", "layers", "n_critic", "n_discriminator", "packing", "patch", "pieces", "reflections",
    "scale_blocks", "scales", "series_terms", "steps",
}  # fmt: skip
MOST_REPEATED = 10_000
WIDTHS = {
    "bins", "channels", "components", "dim", "discriminator_hidden", "features", "generator_hidden", "group", "groups",
    "growth", "hidden", "latent_dim", "units", "width",
}  # fmt: skip
WIDEST = 100_000


def check_sizes(config: Any) -> None:
    """Refuse a configuration that is larger, deeper or counts higher than any real one. Nothing is made of it.

    Raises:
        UserError: Names the key.
    """
    for count, (path, key, value) in enumerate(_entries(config)):
        if count >= MOST_ENTRIES:
            raise UserError(f"the configuration has more than {MOST_ENTRIES:,} keys and values")
        for text in (key, value):
            if isinstance(text, str) and len(text) > LONGEST_TEXT:
                where = path if len(path) < 80 else f"{path[:80]}..."
                raise UserError(f"{where}: has a text of {len(text):,} characters; at most {LONGEST_TEXT:,} are read")
        if isinstance(value, int) and (most := _largest(path, key)) is not None and abs(value) > most:
            shown = value if value.bit_length() < 100 else f"(a number of {value.bit_length()} bits)"
            raise UserError(f"{path}={shown}: is beyond {most:,}, the largest number that is accepted there")


def _entries(node: Any, path: str = "", key: str = "", depth: int = 0) -> Iterator[tuple[str, str, Any]]:
    """Every key and every value of a list: its path, the last key of the path, and the value."""
    if depth > DEEPEST:
        raise UserError(f"{path[:80]}: is nested more than {DEEPEST} levels deep")
    if isinstance(node, Mapping):
        below = [(f"{path}.{name}" if path else str(name), str(name), value) for name, value in node.items()]
    else:
        items = node if isinstance(node, list | tuple) else ()
        below = [(f"{path}[{index}]", key, value) for index, value in enumerate(items)]
    for entry in below:
        yield entry
        yield from _entries(entry[2], entry[0], entry[1], depth + 1)


def _largest(path: str, key: str) -> int | None:
    """The limit of a whole number, or None where there is none."""
    group = path.replace("[", ".").split(".")[0]
    if group == "metric" and ".data." in path:  # another data set
        group, path = "data", f"data.{path.partition('.data.')[2]}"
    if group == "model" and key in REPEATED:
        return MOST_REPEATED
    if group == "model" and key in WIDTHS:
        return WIDEST
    return LARGEST.get(path, LARGEST.get(group))
