"""Trackers of experiments: MLflow and Weights & Biases. Neither is imported unless a run asks for it.

Only the user says where they send what they get, by the trackers' own environment variables (``MLFLOW_TRACKING_URI``,
``WANDB_MODE``, ...): no key of a configuration, which may be a stranger's, leads to another machine. Without these
variables everything stays in files.
"""

import importlib.util
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from bench.errors import UserError

__all__ = ["Forgiving", "MLflow", "WandB"]

log = logging.getLogger("genbench")

MOST_FAILURES = 3  # in a row, after which a tracker is left alone: each may have waited minutes for a server


class _Tracker(Logger):
    """A tracker that gets the curves of one run.

    Arguments:
        save_dir: The run's folder. The last two parts of its path name the comparison and the run.

    Raises:
        UserError: The tracker's package is not installed; names it.
    """

    package = ""

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        if importlib.util.find_spec(self.package) is None:
            raise UserError(
                f"logger={self.package}: the package {self.package} is not installed; "
                f"pip install 'genbench[{self.package}]'"
            )
        self.folder = Path(save_dir)
        self.comparison = self.folder.parent.name

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run's folder has its configuration."""


class MLflow(_Tracker):
    """Writes the curves to MLflow: to the server that ``MLFLOW_TRACKING_URI`` names, else to ``mlflow.db`` (sqlite).

    It lies beside the folders of the comparison's runs; ``mlflow ui --backend-store-uri sqlite:///PATH`` shows it.
    """

    package = "mlflow"
    _client: Any = None
    _run = ""

    def _start(self) -> None:
        from mlflow.tracking import MlflowClient

        place = self.folder.parent.absolute()
        server = os.environ.get("MLFLOW_TRACKING_URI")
        self._client = MlflowClient(tracking_uri=server or f"sqlite:///{place / 'mlflow.db'}")
        there = self._client.get_experiment_by_name(self.comparison)
        if there is None:
            files = {} if server else {"artifact_location": (place / "mlflow").as_uri()}
            number = self._client.create_experiment(self.comparison, **files)
        else:
            number = there.experiment_id
        self._run = self._client.create_run(number, run_name=self.name).info.run_id

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if not self._run:
            self._start()
        for name, value in metrics.items():
            self._client.log_metric(self._run, name, value, step=step or 0)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._run:
            self._client.set_terminated(self._run, "FINISHED" if status == "success" else "FAILED")


class WandB(_Tracker):
    """Writes the curves for Weights & Biases: offline into the run's folder, unless ``WANDB_MODE`` says otherwise.

    ``wandb sync FOLDER/wandb/offline-run-*`` sends them later.
    """

    package = "wandb"
    _run: Any = None

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self._run is None:
            import wandb

            project = os.environ.get("WANDB_PROJECT", self.comparison)
            mode = os.environ.get("WANDB_MODE", "offline")
            self._run = wandb.init(project=project, name=self.name, dir=str(self.folder), mode=mode)
        self._run.log(dict(metrics), step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if status == "success" else 1)


class Forgiving(Logger):
    """A logger whose errors end no run.

    Arguments:
        logger: The logger that does the work.
        warn: Receives a line at the first error.
    """

    def __init__(self, logger: Logger, warn: Callable[[str], None]) -> None:
        super().__init__()
        self._logger, self._warn = logger, warn
        self._failures, self._told = 0, False

    @property
    def name(self) -> str | None:
        return self._logger.name

    @property
    def version(self) -> int | str | None:
        return self._logger.version

    @property
    def log_dir(self) -> str | None:
        return self._logger.log_dir

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._try("log_metrics", metrics, step=step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self._try("log_hyperparams", params, *args, **kwargs)

    def save(self) -> None:
        self._try("save")

    def finalize(self, status: str) -> None:
        self._try("finalize", status)

    def _try(self, method: str, *args: Any, **kwargs: Any) -> None:
        if self._failures >= MOST_FAILURES:
            return
        try:
            getattr(self._logger, method)(*args, **kwargs)
            self._failures = 0
        except Exception as error:
            self._failures += 1
            log.info("the tracker failed:", exc_info=True)
            if not self._told:
                self._told = True
                self._warn(
                    f"the tracker failed ({type(error).__name__}: {error}); the run goes on, its curves may lack points"
                )
