import threading

import pytest
import torch

from diffgraph.errors import DamagedFile
from diffgraph.experts.delta import Coverage, Delta
from diffgraph.experts.updates import DenseUpdate
from diffgraph.merging.delta_store import DeltaStore
from tests.waiting import PATIENCE

SIZE = 4096  # bytes of each expert


class Files:
    """Experts by hash, each one's numbers its own, and who read them when."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.threads: set[str] = set()
        self.broken: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, sha256: str) -> Delta:
        assert self.gate.wait(PATIENCE)
        self.read.append(sha256)
        self.threads.add(threading.current_thread().name)
        if sha256 in self.broken:
            raise DamagedFile(f"{sha256} is damaged")
        value = torch.full((SIZE // 4,), float(int(sha256)))
        return Delta({"weight": DenseUpdate(value)}, "test", Coverage())


def store_of(files: Files, experts: float) -> DeltaStore:
    return DeltaStore(files, torch.device("cpu"), int(experts * SIZE))


def number(delta: Delta) -> float:
    return float(delta.updates["weight"].dense()[0])


def test_an_expert_is_read_once_while_it_is_kept() -> None:
    files = Files()
    store = store_of(files, 2)
    for _ in range(3):
        found = store.get(["1", "2", "1"])
    assert {key: number(delta) for key, delta in found.items()} == {"1": 1.0, "2": 2.0}
    assert files.read == ["1", "2"]


def test_the_least_recently_used_go_first_and_the_bound_holds() -> None:
    files = Files()
    store = store_of(files, 2)
    for wanted in ("1", "2", "1", "3", "1"):
        store.get([wanted])
        assert store.bytes["host"] <= 2 * SIZE
    assert files.read == ["1", "2", "3"]
    store.get(["2"])
    assert files.read[-1] == "2"


def test_what_is_asked_for_at_once_stays_whatever_the_bound() -> None:
    files = Files()
    store = store_of(files, 0)
    assert [number(delta) for delta in store.get(["1", "2", "3"]).values()] == [1, 2, 3]
    store.get(["3"])
    assert store.bytes["host"] == SIZE


def test_the_next_expert_is_read_by_another_thread_meanwhile() -> None:
    files = Files()
    store = store_of(files, 3)
    store.get(["1"])
    files.gate.clear()
    store.prefetch(["2", "2", "1"])  # returns at once, though nothing can be read yet
    files.gate.set()
    assert number(store.get(["2"])["2"]) == 2
    assert files.read == ["1", "2"]
    store.prefetch(["3"])
    store.close()
    assert any(name.startswith("experts") for name in files.threads)


def test_fetching_ahead_never_pushes_out_what_is_in_use() -> None:
    files = Files()
    store = store_of(files, 2)
    store.get(["1", "2"])
    store.prefetch(["3"])
    store.get(["3", "1", "2"])  # waits for it
    store.get(["1", "2"])
    assert files.read.count("1") == files.read.count("2") == 1


def test_a_file_that_fails_ahead_of_time_fails_when_it_is_needed() -> None:
    files = Files()
    files.broken = {"2"}
    store = store_of(files, 3)
    store.prefetch(["2"])
    assert number(store.get(["1"])["1"]) == 1
    with pytest.raises(DamagedFile, match="2 is damaged"):
        store.get(["2"])
    files.broken = set()
    assert number(store.get(["2"])["2"]) == 2
