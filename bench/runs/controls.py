"""The controls that stand beside models and samples of molecules in every table.

Each control has a folder of its own beside those of the runs, so that it is measured once for all of them.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from bench.config.build import build_metrics
from bench.config.spec import Measurement, Node, digest
from bench.data.base import Data
from bench.data.formats.smiles import rdkit_version
from bench.errors import BusyError
from bench.evaluation.measure import measure
from bench.evaluation.molecule_controls import controls
from bench.provenance import device_name, git_state, versions
from bench.runs.folder import Ended, Outcome, RunFolder
from bench.schema import Status
from bench.subjects.base import Origin
from bench.subjects.molecules import ControlMolecules
from bench.training.console import Reporter

__all__ = ["measure_controls"]

log = logging.getLogger("genbench")


def measure_controls(
    data: Data, node: Node, data_name: str, measurements: Sequence[Measurement], runs: Path, say: Reporter
) -> None:
    """Measure what is asked of the controls and not measured yet, where the data have controls.

    A control that breaks costs nothing but its rows; one that another process measures is left to it.

    Arguments:
        node, data_name: Configuration of the data, and their name there.
        measurements: What is measured on the subject that the controls stand beside.
        runs: Where the folders of runs are.
    """
    if data.molecules is None:
        return
    metrics = build_metrics({one.name: one.node for one in measurements})
    asked = {
        one.key: one
        for measurement in measurements
        if metrics[measurement.name].has_controls
        for one in [dataclasses.replace(measurement, checkpoint="best", sampling_seed=0, data=None)]
    }
    for name, draw in controls(data).items() if asked else ():
        key = digest({"control": name, "data": node, "revision": data.spec.revision, "rdkit": rdkit_version()})
        origin = _origin(name, data_name, key)
        folder = RunFolder(runs / origin.run_id)
        try:
            with folder.locked():
                known = folder.measured(key)
                missing = [one for one in asked.values() if one.key not in known]
                folder.reopen()
                if missing:
                    subject = ControlMolecules(draw, origin)
                    rows, _ = measure(
                        subject, data, missing, seed=0, report=say.evaluating, note=say.note, beside=folder.path
                    )
                    folder.add_rows([row for row in rows if row.status is Status.OK])
                folder.end(Outcome(origin.run_id, Ended.OK, "a control"))
        except BusyError:
            continue
        except Exception:
            log.exception("no control %s", name)


def _origin(name: str, data_name: str, key: str) -> Origin:
    commit, dirty = git_state()
    return Origin(
        run_id=f"{data_name.replace('/', '-')}-{name}-{key[:8]}", training_key=key, group=key, model=name,
        model_family="molecule control", checkpoint="best", n_params=0, git_commit=commit, dirty=dirty,
        device=device_name("cpu", 1), versions=versions(),
    )  # fmt: skip
