"""Does a Prefect server answer at the configured address, and go on answering?"""

from collections.abc import Iterator
from contextlib import contextmanager

from diffgraph.errors import InputError, ServiceRefused, ServiceUnavailable

ANSWER_SECONDS = 10.0


def demand_server(address: str) -> None:
    """Raise unless a Prefect server that takes our runs answers: at once, not after a minute.

    Args:
        address: What `PREFECT_API_URL` says.

    Raises:
        InputError: It is no address.
        ServiceUnavailable: Nobody answers there.
        ServiceRefused: What answers is no Prefect server, not of our version, or does not let us.
    """
    import httpx
    import prefect
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    named, hint = f"PREFECT_API_URL is {address}", "check the address: it ends in /api"
    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            client = get_client(httpx_settings={"timeout": ANSWER_SECONDS}, sync_client=True)
            version = client.request("GET", "/admin/version").json()
        theirs, ours = (int(one.split(".")[0]) for one in (version, prefect.__version__))
    except PrefectHTTPStatusError as error:
        status = error.response.status_code
        answer = f"{named}, and the server there answers {status}"
        if status >= 500 or status == 429:
            raise ServiceUnavailable(answer) from error
        what = "check its key or password" if status in (401, 403) else hint
        raise ServiceRefused(f"{answer}: {what}") from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise InputError(f"{named}, which is no address: {error}") from error
    except httpx.TransportError as error:
        raise ServiceUnavailable(f"{named}, and nobody answers there: {_reason(error)}") from error
    except (ValueError, AttributeError) as error:
        raise ServiceRefused(f"{named}, which is no Prefect server: {hint}") from error
    if theirs != ours:
        raise ServiceRefused(f"{named}, a server of Prefect {version}; ours: {prefect.__version__}")


@contextmanager
def answering(address: str) -> Iterator[None]:
    """Turn the silence of a server in the middle of a run into an error of ours."""
    import httpx

    try:
        yield
    except httpx.TransportError as error:
        raise ServiceUnavailable(
            f"the Prefect server at {address} stopped answering: {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
