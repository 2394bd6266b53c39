"""What a command leaves when its runs have ended: leaderboards, a line for each run that failed, an exit code."""

import sys
from collections.abc import Mapping, Sequence

from bench.config.spec import RunSpec
from bench.plain import plain
from bench.processes import one_of_tasks
from bench.runs.folder import Ended, Outcome, RunFolder
from bench.tables.leaderboard import publish

__all__ = ["outcomes_of", "report"]


def outcomes_of(specs: Sequence[RunSpec], seen: Mapping[str, Outcome]) -> tuple[Outcome, ...]:
    """How each run ended, in their order.

    Arguments:
        seen: Outcomes by run_id; of other runs, their folders tell.
    """
    return tuple(seen.get(spec.run_id) or RunFolder(spec.folder).outcome(spec.run_id) for spec in specs)


def report(specs: Sequence[RunSpec], seen: Mapping[str, Outcome]) -> int:
    """Publish a leaderboard for each name, tell how the runs ended, and return the exit code.

    Arguments:
        seen: Outcomes by run_id; of other runs, their folders tell.
    """
    outcomes = outcomes_of(specs, seen)
    places = {(spec.runs_dir, spec.results_dir, spec.name) for spec in specs}
    try:
        for runs, results, name in sorted(places):
            publish(runs / name, results, name)
    finally:  # last, so that they are seen; and also where one of the tables cannot be written
        before = sum(outcome.before for outcome in outcomes)
        if before:
            print(f"genbench: {before} of {len(outcomes)} runs were finished before; after a change of code "
                  "rerun=true runs them again", file=sys.stderr)  # fmt: skip
        for outcome in outcomes:
            if outcome.ended is Ended.BUSY:
                print(
                    f"genbench: {outcome.run_id} was passed over: {plain(outcome.reason)}{one_of_tasks()}",
                    file=sys.stderr,
                )
            elif outcome.exit_code:
                print(f"genbench: {outcome.run_id} failed: {plain(outcome.reason)}", file=sys.stderr)
    codes = {outcome.exit_code for outcome in outcomes} - {Ended.OK.exit_code}
    busy = Ended.BUSY.exit_code
    if codes <= {busy} or len(outcomes) == 1:
        return codes.pop() if codes else 0
    return 1
