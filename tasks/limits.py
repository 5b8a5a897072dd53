"""How do processes that read the same hub stay polite together? By limits that Prefect keeps.

A limit that is there already stays as it is, so that an operator may change it in Prefect.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

DOWNLOADS = "diffgraph-downloads"
LEASE = 120.0  # seconds; renewed while a file is fetched, so a killed run's place is soon free
SLACK = 1.05
BURST = 2  # requests that may begin together


def shared_turn(hub: str, per_minute: float | None) -> Callable[[], Awaitable[None]] | None:
    """Return what to await before a request to a hub; None where no limit is needed.

    Args:
        hub: What the limit is named after.
        per_minute: Requests a minute, of all processes together.
    """
    if per_minute is None:
        return None
    from diffgraph.crawlers.web import RateLimiter

    name = f"{hub}-requests-{per_minute:g}-a-minute"
    # a little slower than the limit: whoever is alone never waits
    pace, make = RateLimiter(per_minute / SLACK), functools.cache(make_limit)

    async def turn() -> None:
        from prefect.concurrency.asyncio import rate_limit

        await pace()
        await asyncio.to_thread(make, name, BURST, per_minute / 60.0)
        await rate_limit(name, strict=True)

    return turn


def download_slot(at_once: int) -> Callable[[], AbstractContextManager[object]]:
    """Return what to enter for as long as a file is fetched.

    Args:
        at_once: Files, of all processes that ask the same Prefect API.
    """
    make = functools.cache(make_limit)

    def slot() -> AbstractContextManager[object]:
        from prefect.concurrency.sync import concurrency

        make(DOWNLOADS, at_once)
        return concurrency(DOWNLOADS, occupy=1, lease_duration=LEASE)

    return slot


def make_limit(name: str, at_once: int, per_second: float = 0.0) -> None:
    """Create a limit unless it is there: of places or, if they come back by themselves, of a rate.

    Args:
        name: What it is called.
        at_once: Its places.
        per_second: Places that come back by themselves.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    wanted = GlobalConcurrencyLimitCreate(
        name=name, limit=at_once, slot_decay_per_second=per_second
    )
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            try:
                client.create_global_concurrency_limit(wanted)
            except ObjectAlreadyExists:
                return  # another process was quicker


def free_all_places(client: "SyncPrefectClient") -> None:
    """Give back the places of runs that were killed: a server that was, too, forgot their leases.

    Only for a time when no other run is at work.
    """
    from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
    from prefect.exceptions import ObjectNotFound

    try:
        client.update_global_concurrency_limit(
            DOWNLOADS, GlobalConcurrencyLimitUpdate(active_slots=0)
        )
    except ObjectNotFound:
        return  # nothing was fetched yet
