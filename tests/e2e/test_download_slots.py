"""Files are fetched a few at a time, whichever process fetches them."""

import threading
import time
from uuid import uuid4

import pytest

from tasks import limits
from tasks.limits import download_slot

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def own_limit(monkeypatch) -> str:
    """The server is everybody's, and a limit that is there stays: each test has its own."""
    name = f"diffgraph-downloads-{uuid4()}"
    monkeypatch.setattr(limits, "DOWNLOADS", name)
    return name


def test_no_more_files_at_once_than_all_may_fetch_together():
    at_work, most = 0, 0
    lock = threading.Lock()

    def fetch() -> None:
        nonlocal at_work, most
        slot = download_slot(1)  # as another process makes its own
        with slot():
            with lock:
                at_work += 1
                most = max(most, at_work)
            time.sleep(0.1)
            with lock:
                at_work -= 1

    threads = [threading.Thread(target=fetch) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_what_an_operator_has_set_stays(own_limit):
    from prefect.client.orchestration import get_client

    with download_slot(1)():
        pass
    with download_slot(7)(), get_client(sync_client=True) as client:
        limit = client.read_global_concurrency_limit_by_name(own_limit)
        assert (limit.limit, limit.active_slots) == (1, 1)
