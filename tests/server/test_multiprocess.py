"""What several processes count, each a real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from devstral_proxy.server import multiprocess
from devstral_proxy.server.metrics import Metrics
from tests.server.test_metrics import OPERATION, ROOT, value, values

WORKER = """
import sys
from devstral_proxy.server.metrics import Metrics, of_admission
from tests.server.exchanges import ended

class Queue:
    running, waiting = 3, 2

metrics = Metrics()
metrics.source(lambda: of_admission(Queue))
for _ in range(int(sys.argv[1])):
    metrics.finished(ended(output_tokens=2))
metrics.collect()
print("ready", flush=True)
sys.stdin.readline()
print(metrics.render()[0].decode(), flush=True)
"""
PARENT = """
import json, subprocess, sys
from pathlib import Path
from devstral_proxy.server.multiprocess import mark_process_dead, prepare_multiprocess

directory = Path(sys.argv[1])
directory.mkdir()
(directory / "counter_1.db").write_bytes(b"of an earlier run")
prepare_multiprocess(directory)
def worker(count):
    one = subprocess.Popen([sys.executable, "-c", sys.argv[2], str(count)], stdin=-1, stdout=-1, text=True)
    assert one.stdout.readline() == "ready\\n"
    return one
first, second = worker(3), worker(4)
pages = [second.communicate("\\n")[0]]
first.kill()
first.wait()
mark_process_dead(first.pid)
mark_process_dead(second.pid)
third = worker(5)
pages.append(third.communicate("\\n")[0])
print(json.dumps(pages))
"""


def test_several_processes_count_together(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PARENT, str(tmp_path / "metrics"), WORKER],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    both, after = (values(page.encode()) for page in json.loads(run.stdout))
    name = "gen_ai_server_request_duration_seconds_count"
    assert value(both, name, **OPERATION, error_type="") == 7
    assert value(both, "devstral_proxy_requests_running") == 6
    assert len([one for one, _ in both if one == "devstral_proxy_build_info"]) == 1
    # Of two that have ended, one killed, the counts are kept and the gauges gone.
    assert value(after, name, **OPERATION, error_type="") == 12
    assert value(after, "devstral_proxy_requests_running") == 3
    assert not any(name.startswith("process_") for name, _ in after)


GENERATIONS = """
import json, os, subprocess, sys
from pathlib import Path
from devstral_proxy.server import multiprocess

directory = Path(sys.argv[1])
multiprocess.prepare_multiprocess(directory)
def pids(kind):
    return [int(file.stem.partition("_")[2]) for file in directory.glob(f"{kind}_*.db")]
page, states = "", []
for generation in range(3):
    for count in (1, 2):
        one = subprocess.Popen([sys.executable, "-c", sys.argv[2], str(count)], stdin=-1, stdout=-1, text=True)
        one.stdout.readline()
        page = one.communicate("\\n")[0]
        if (generation, count) == (1, 1):
            with multiprocess.reading():  # nothing is moved under a reader's eyes, and nobody waits for it
                multiprocess.mark_process_dead(one.pid)
            assert one.pid in pids("counter")
        else:
            multiprocess.mark_process_dead(one.pid)
    states.append([page, {kind: pids(kind) for kind in ("counter", "histogram")}])
broken = directory / "counter_999999999.db"
broken.write_bytes(b"")  # of one that was killed when it had just made it
multiprocess.mark_process_dead(999999999)
assert not broken.exists()
print(json.dumps(states))
"""


def test_the_counts_of_the_dead_are_added_up(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", GENERATIONS, str(tmp_path / "metrics"), WORKER],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    name = "gen_ai_server_request_duration_seconds"
    for number, (text, files) in enumerate(json.loads(run.stdout), 1):
        assert files == {"counter": [0], "histogram": [0]}
        page = values(text.encode())
        assert value(page, f"{name}_count", **OPERATION, error_type="") == 3 * number
        assert value(page, f"{name}_bucket", **OPERATION, error_type="", le="+Inf") == 3 * number
        requests = [count for (one, _), count in page.items() if one == "devstral_proxy_requests_total"]
        assert sum(requests) == 3 * number


def test_the_directory_has_to_be_set_before_the_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(multiprocess.DIRECTORY, raising=False)
    Metrics()
    with pytest.raises(RuntimeError, match="before"):
        multiprocess.prepare_multiprocess(tmp_path)
    multiprocess.mark_process_dead(1)  # nothing to do
