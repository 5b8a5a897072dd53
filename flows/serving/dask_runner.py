"""How does a run end that Dask's workers helped with? As it did, however slowly they stop."""

import logging
from types import TracebackType

from prefect_dask import DaskTaskRunner

log = logging.getLogger(__name__)


class Dask(DaskTaskRunner):  # type: ignore[misc]  # prefect-dask ships no types
    """Dask's workers. All of a run's results are here before its cluster is closed."""

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close what was started; a worker that does not stop in time takes nothing from a run."""
        try:
            super().__exit__(exc_type, exc_value, traceback)
        except (
            Exception
        ) as error:  # whatever it is, the run has its results, or an error of its own
            if error is exc_value:
                raise
            log.warning("Dask's workers did not stop in time and are killed: %r", error)
