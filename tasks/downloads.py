"""How many files are fetched at a time by all processes together? A limit that Prefect keeps.

A limit that is there already stays as it is, so that an operator may change it in Prefect.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

LIMIT = "diffgraph-downloads"
LEASE = 120.0  # seconds; renewed while a file is fetched, so a killed run's place is soon free


def download_slot(at_once: int) -> Callable[[], AbstractContextManager[object]]:
    """Return what to enter for as long as a file is fetched.

    Args:
        at_once: Files, of all processes that ask the same Prefect API.
    """
    made = False

    def slot() -> AbstractContextManager[object]:
        nonlocal made
        from prefect.concurrency.sync import concurrency

        if not made:
            _make(at_once)
            made = True
        return concurrency(LIMIT, occupy=1, lease_duration=LEASE)

    return slot


def _make(at_once: int) -> None:
    """Create the limit unless it is there."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(LIMIT)
        except ObjectNotFound:
            try:
                client.create_global_concurrency_limit(
                    GlobalConcurrencyLimitCreate(name=LIMIT, limit=at_once)
                )
            except ObjectAlreadyExists:
                return  # another process was quicker


def free_all_places(client: "SyncPrefectClient") -> None:
    """Give back the places of runs that were killed: a server that was, too, forgot their leases.

    Only for a time when no other run is at work.
    """
    from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
    from prefect.exceptions import ObjectNotFound

    try:
        client.update_global_concurrency_limit(LIMIT, GlobalConcurrencyLimitUpdate(active_slots=0))
    except ObjectNotFound:
        return  # nothing was fetched yet
