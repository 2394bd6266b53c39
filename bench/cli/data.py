"""``genbench data``: list, fetch and verify data sets, and show where their files are.

A data set is described only by its own function. This command intercepts the function's request for files, and then
fetches, hashes or shows those files. So data sets of the user's own package work here without further code.
"""

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UserError

if TYPE_CHECKING:
    from bench.config.catalogue import Catalogue
    from bench.data.bytes.fetch import Request
    from bench.schema import DataSpec

__all__ = ["add_arguments", "main"]

EPILOG = """\
genbench data fetch cifar10                    download into the cache, as the first run does by itself
genbench data fetch cifar10 data.path=FOLDER   use the files in FOLDER
genbench data verify mnist cifar10             hash every byte
genbench data where svhn                       show the files, or which files to put where without a network
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``genbench data`` to a parser."""
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listed = actions.add_parser("list", help="show every data set, and whether its files are on this machine")
    listed.add_argument("asked", nargs="*", metavar="KEY=VALUE", help="hydra.searchpath=[file:///FOLDER], trust=[PKG]")
    for action, words in (
        ("fetch", "download the files into the cache; an interrupted download continues where it stopped"),
        ("verify", "compare the hashes of all cached files with the expected ones"),
        ("where", "show the paths of the files, or which files to put where"),
    ):
        asked = actions.add_parser(action, help=words, description=f"{words[0].upper()}{words[1:]}.")
        asked.add_argument("asked", nargs="+", metavar="NAME", help="a data set, or KEY=VALUE for all of them")


def main(args: argparse.Namespace) -> int:
    """Do what ``args`` asks for.

    Returns:
        0; or 1 if files could not be fetched, are damaged, or are missing.

    Raises:
        bench.errors.UserError: A name or a key is wrong. Nothing was done.
    """
    if args.action == "list":
        print(_listing(args.asked))
        return 0
    overrides = [text for text in args.asked if "=" in text]
    names = [text for text in args.asked if "=" not in text]
    if not names:
        raise UserError(f"data {args.action}: name a data set; `genbench data list` shows all")
    configs = {name: _checked(name, overrides) for name in names}  # check every name before the first download
    action = {"fetch": _fetch, "verify": _verify, "where": _where}[args.action]
    failed = False
    for name, config in configs.items():
        try:
            failed |= not action(name, config)
        except (UserError, OSError) as error:
            print(f"genbench: {error}", file=sys.stderr)
            failed = True
    return 1 if failed else 0


def _checked(name: str, overrides: list[str]) -> dict[str, Any]:
    """Return the part of a run's configuration that describes the data, with the same checks as for a run."""
    from bench.config.build import check_arguments
    from bench.config.catalogue import is_name
    from bench.config.compose import compose_runs
    from bench.config.grammar import check_one_value, check_overrides
    from bench.config.trust import check_targets

    check_overrides([f"data={name}"])
    if not is_name(name):
        raise UserError(f"data {name!r}: no such data; a name is expected; `genbench data list` shows all")
    check_one_value(overrides)
    whole = compose_runs([f"data={name}", *overrides])[0]
    config = {"data": whole["data"], "trust": whole["trust"]}
    check_targets(config)
    check_arguments(config)
    return config


def _listing(asked: list[str]) -> str:
    from bench.config.catalogue import describe
    from bench.config.compose import searched, trusted_by

    for text in asked:
        if not text.startswith(("hydra.searchpath=", "trust=")):
            raise UserError(f"data list {text}: it takes only hydra.searchpath=[file:///FOLDER] and trust=[PACKAGE]")
    catalogue = searched(asked)
    trust = trusted_by(asked)
    files = catalogue.files("data")
    rows = [(name, _state(name, catalogue, trust, asked), describe(file)) for name, file in files.items()]
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"  {name:<{first}}  {state:<{second}}  {words}" for name, state, words in rows)


def _state(name: str, catalogue: "Catalogue", trust: list[str], asked: list[str]) -> str:
    """Return in a few words where the files are. A function from an untrusted package is not called."""
    from bench.config.compose import compose_runs
    from bench.config.trust import check_targets
    from bench.data.bytes.inventory import state

    try:
        node = catalogue.stored("data", name)
    except UserError:
        return "cannot be read"
    assert node is not None, "a name from the list of files"
    open_keys = [key for key, value in node.items() if value == "???"]
    if open_keys:
        return f"needs data.{open_keys[0]}="
    if "defaults" in node or "${" in str(node):  # only then: to compose every file would take seconds
        try:
            node = dict(compose_runs([f"data={name}", *asked])[0]["data"])
        except UserError:
            return "cannot be composed"
    try:
        check_targets({"data": node, "trust": trust})
    except UserError:
        return "needs trust="
    try:
        return state(_request(node))
    except UserError:  # the files cannot be fetched, and are not in the place where they are expected
        return "needs data.path=" if "path" in node else "not here"


def _request(node: dict[str, Any]) -> "Request | None":
    """Return the data set's request for files; None if it needs none."""
    from bench.config.build import build_data
    from bench.data.bytes.fetch import Request, fetch, request_of

    request = request_of(lambda: build_data(node))
    path = node.get("path")
    if path is None:
        return request
    if request is None or not request.paths:  # it reads the user's files, without a fixed list of names
        decoded = None if request is None else request.decoded
        return Request(path, (Path(path).expanduser(),), path=path, decoded=decoded)
    if not request.files:
        return request
    # Files at the user's own path are found and hashed, as in a run.
    return replace(request, paths=tuple(fetch(request.name, request.files, request.sources, path)))


def _fetch(name: str, config: dict[str, Any]) -> bool:
    from bench.config.build import build_data
    from bench.data.bytes.inventory import places, state

    talk = logging.StreamHandler(sys.stderr)
    log = logging.getLogger("bench.data")
    log.addHandler(talk)
    log.setLevel(logging.INFO)
    try:
        spec = build_data(config["data"]).spec
    finally:
        log.removeHandler(talk)
    request = _request(config["data"])
    print(f"{name}: {state(request)}")
    folders = [] if request is None else sorted({str(path.parent) for path in places(request)})
    for folder in folders:
        print(f"  {folder}")
    print(f"  {_sizes(spec)}")
    return True


def _sizes(spec: "DataSpec") -> str:
    from bench.schema import Kind

    parts = [f"{spec.n_train:,} train, {spec.n_val:,} validation, {spec.n_test:,} test", "x".join(map(str, spec.shape))]
    of = "categories" if spec.kind == Kind.CATEGORIES else "levels"
    if spec.graph is not None:
        types = f"types of nodes: {spec.graph.node_types}, of edges: {spec.graph.edge_types}"
        parts[-1] = f"{spec.kind} of at most {spec.graph.nodes} nodes, {types}"
    else:
        parts.append("real" if spec.levels is None else f"{spec.levels} {of}")
    if spec.classes is not None:
        parts.append(f"{spec.classes} classes")
    return "; ".join([*parts, f"revision {spec.revision}", f"licence: {spec.licence}"])


def _verify(name: str, config: dict[str, Any]) -> bool:
    from bench.config.build import build_data
    from bench.data.bytes.inventory import faults, is_here, places, state

    request = _request(config["data"])
    if request is None:
        print(f"{name}: ok, generated, so no files are stored")
        return True
    if not places(request):
        print(f"{name}: nothing to verify, not cached; `genbench data fetch {name}` gets it")
        return False
    if not request.files:
        build_data(config["data"])  # no hash is published, but the data set checks its files while loading
    wrong = faults(request)
    for fault in wrong:
        print(f"{name}: {fault}")
    if wrong:
        print(f"{name}: WRONG; delete what is named above, then `genbench data fetch {name}`")
    elif not is_here(request):
        print(f"{name}: {state(request)}, and what is here is ok; `genbench data fetch {name}` gets the rest")
    else:
        found = [path for path in places(request) if path.is_file()]
        print(f"{name}: ok, {len(found)} files, {sum(path.stat().st_size for path in found):,} bytes")
    return not wrong and is_here(request)


def _where(name: str, config: dict[str, Any]) -> bool:
    from bench.data.bytes.inventory import advice, is_here, places, state

    request = _request(config["data"])
    if request is None:
        print(f"{name}: generated, there are no files")
        return True
    print(f"{name}: {state(request)}")
    for path in places(request):
        print(f"  {path}")
    if is_here(request):
        return True
    print(f"  `genbench data fetch {name}` tries: {'; '.join(map(str, request.sources)) or 'there is no download'}")
    print("\n".join(f"  {line}" for line in advice(request)))
    return False
