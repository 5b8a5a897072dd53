"""How do processes that ask the same hub stay polite together? By limits that Prefect keeps.

A limit that is there already stays as it is, so that an operator may change it in Prefect.
"""

from collections.abc import Awaitable, Callable

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
    from diffgraph.crawlers.web import Pace

    name = f"{hub}-requests-{per_minute:g}-a-minute"
    pace = Pace(per_minute / SLACK)  # a little slower than the limit: whoever is alone never waits
    made = False

    async def turn() -> None:
        nonlocal made
        from prefect.concurrency.asyncio import rate_limit

        await pace()
        if not made:
            await _make(name, per_minute)
            made = True
        await rate_limit(name, strict=True)

    return turn


async def _make(name: str, per_minute: float) -> None:
    """Create the limit unless it is there."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    async with get_client() as client:
        try:
            await client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            try:
                await client.create_global_concurrency_limit(
                    GlobalConcurrencyLimitCreate(
                        name=name, limit=BURST, slot_decay_per_second=per_minute / 60.0
                    )
                )
            except ObjectAlreadyExists:
                return  # another process was quicker
