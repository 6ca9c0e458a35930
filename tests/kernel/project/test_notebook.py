# SPDX-License-Identifier: Apache-2.0
"""The notebook keeps what its text promises, when executed afresh and as stored.

`python tests/kernel/project/test_notebook.py` (as root) executes it and stores it with the new outputs.
"""

from __future__ import annotations

import base64
import html
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

import toolkit
from tests.helpers import ROOT
from toolkit.lab import Lab

NOTEBOOK = ROOT / "examples" / "first_packets.ipynb"
REFRESH = f"Next step: python {Path(__file__).relative_to(ROOT)}"

pytestmark = [
    pytest.mark.needs("bcc", "ping"),
    pytest.mark.timing("a veth loses packets when its softirq or the receiver waits too long for a CPU"),
]

# Executed behind the notebook's last cell: what a picture shows cannot be read from its pixels.
PROBE = """
import json
bars = lambda axes: int(sum(patch.get_height() for box in axes.containers for patch in box))
print(json.dumps({
    "lengths": bars(left), "gaps": bars(right), "packets": len(packets), "octets": int(packets["length"].sum()),
    "sizes": int(sizes.sum()), "received": received, "dropped": dropped, "redirected": redirected,
    "sent": flood.report.sent, "batches": batches, "event loop": __import__("asyncio").get_running_loop().is_running(),
    "kept": [bytes(packet).hex() for packet in kept],
}))
"""


def execute(notebook: Any, directory: str) -> None:
    """Run all cells in a kernel of this very interpreter, in `directory`, whatever kernels the user has installed."""
    kernel = Path(directory, "kernels", "python3")
    kernel.mkdir(parents=True)
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python 3",
        "language": "python",
    }
    (kernel / "kernel.json").write_text(json.dumps(spec))
    os.environ |= {"JUPYTER_PATH": directory, "JUPYTER_RUNTIME_DIR": f"{directory}/run", "IPYTHONDIR": directory}
    from nbclient import NotebookClient
    from traitlets.config import Config

    NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=60,
        record_timing=False,
        coalesce_streams=True,  # on a busy machine what one cell prints comes in several pieces
        resources={"metadata": {"path": directory}},
        # Sockets in the directory, not ports of this machine that others could talk to.
        config=Config({"KernelManager": {"transport": "ipc", "ip": f"{directory}/kernel"}}),
    ).execute()


def main(target: Path, probe: str = "") -> None:
    """Execute the notebook and write it to `target`."""
    nbformat: Any = importlib.import_module("nbformat")  # it has no types
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    kept = json.loads(json.dumps(notebook.metadata))
    if probe:
        notebook.cells.append(nbformat.v4.new_code_cell(probe))
    with tempfile.TemporaryDirectory() as directory:
        execute(notebook, directory)
    notebook.metadata = nbformat.from_dict(kept)  # without the version of the Python that ran it
    nbformat.write(notebook, target)


# --- reading outputs ------------------------------------------------------------------------------------------------


def load(path: Path) -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def code_cells(notebook: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {cell["id"]: cell for cell in notebook["cells"] if cell["cell_type"] == "code"}


def joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def data(output: dict[str, Any]) -> dict[str, str]:
    """The representations of one output by MIME type; a stream's text as "stdout" or "stderr"."""
    if output["output_type"] == "stream":
        return {output["name"]: joined(output["text"])}
    return {kind: joined(value) for kind, value in output.get("data", {output["output_type"]: ""}).items()}


def part(cell: dict[str, Any], kind: str) -> str:
    """All that a cell put out in one representation."""
    return "".join(data(output).get(kind, "") for output in cell["outputs"])


def table(cell: dict[str, Any]) -> list[list[str]]:
    """The rows of the HTML that a cell put out, as the texts of their cells."""
    rows = re.findall(r"<tr.*?>(.*?)</tr>", part(cell, "text/html"), flags=re.DOTALL)
    return [[html.unescape(text) for text in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL)] for row in rows]


def pairs(cell: dict[str, Any]) -> dict[str, str]:
    """The same for a table of names and values."""
    return {row[0]: row[1] for row in table(cell) if len(row) == 2}


def number(text: str) -> int:
    return int(text.replace(",", ""))


# --- executed afresh ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The notebook with the outputs of a run just now, in processes of its own, and what the probe saw."""
    target = tmp_path_factory.mktemp("notebook") / "executed.ipynb"
    code = f"import tests.kernel.project.test_notebook as t, pathlib; t.main(pathlib.Path({str(target)!r}), t.PROBE)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=150, env=environment, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return load(target)


@pytest.fixture
def cells(executed: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return code_cells(executed)


@pytest.fixture
def seen(executed: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(part(executed["cells"][-1], "stdout"))
    return found


def test_nothing_is_written_to_stderr(cells: dict[str, dict[str, Any]]) -> None:
    for cell in cells.values():
        # Matplotlib's first use on a slow machine says that it looks for fonts.
        assert not part(cell, "stderr") or "font cache" in part(cell, "stderr")


def test_it_runs_inside_an_event_loop(seen: dict[str, Any]) -> None:
    assert seen["event loop"] is True


def test_lab_and_interface_are_tables(cells: dict[str, dict[str, Any]]) -> None:
    ends = {row[0]: row[1] for row in table(cells["lab"])}
    assert ends["near (receives)"] == "veth0"
    assert ends["far (sends)"] == "veth1"
    shown = pairs(cells["open"])
    assert shown["interface"] == "veth0"
    assert shown["mode"] == "native"
    assert shown["filter"] == "icmp or udp"
    assert [shown[name] for name in ("redirected", "passed", "rx_dropped")] == ["0", "0", "0"]


def test_a_batch_shows_the_pings(cells: dict[str, dict[str, Any]]) -> None:
    assert part(cells["ping"], "stdout") == "5 requests sent, 0 answered\n"
    rows = table(cells["ping"])[1:]
    assert [row[2] for row in rows] == [f"ICMP echo request 10.11.0.2 → 10.11.0.1 seq {n} 98 B" for n in range(1, 6)]
    times = [row[1] for row in rows]
    assert times == sorted(times)
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\.\d{9}", time) for time in times)
    assert "Batch of 5 packets, 490 bytes, from queue 0, borrowed" in part(cells["ping"], "text/html")


def test_heads_and_columns(cells: dict[str, dict[str, Any]]) -> None:
    text = part(cells["arrays"], "stdout")
    assert "uint8 (5, 64)" in text
    assert "lengths: [98 98 98 98 98]" in text
    headers = re.findall(r"\[\s*8\s+0\s+\d+\s+\d+\s+\d+\s+\d+\s+0\s+(\d)\]", text)
    assert headers == ["1", "2", "3", "4", "5"]
    rows = table(cells["arrays"])
    assert [dict(zip(rows[0], row, strict=True))["icmp_seq"] for row in rows[1:]] == headers


def test_the_umem_says_where_the_frames_are(cells: dict[str, dict[str, Any]]) -> None:
    where = {name: int(count) for name, count in pairs(cells["frames"]).items()}
    assert where["received"] == 5
    assert where["rx"] > 0
    assert sum(where.values()) == 2 * where["frames"]


def test_a_stale_batch_says_so_and_a_copy_stays(cells: dict[str, dict[str, Any]], seen: dict[str, Any]) -> None:
    text = part(cells["borrow"], "stdout")
    assert text.startswith("this Batch is stale: its frames went back to the kernel")
    assert "Next step:" in text
    assert "<Batch of 5 packets, stale: its frames went back>\n<Batch of 5 packets, 490 bytes, a copy>" in text
    assert text.endswith("frames still borrowed: 0\n")
    packets = [bytes.fromhex(packet) for packet in seen["kept"]]
    assert [len(packet) for packet in packets] == [98] * 5
    assert [packet[41] for packet in packets] == [1, 2, 3, 4, 5]


def test_pandas_has_every_packet_and_byte(cells: dict[str, dict[str, Any]], seen: dict[str, Any]) -> None:
    flows = [row for row in table(cells["pandas"]) if row and row[0].isdigit()]
    assert [row[:2] for row in flows] == [[str(port), "500"] for port in range(5000, 5004)]
    assert sum(int(row[2]) for row in flows) == seen["octets"] == seen["sizes"] + 2000 * (14 + 20 + 8)


def test_the_plot_shows_every_packet(cells: dict[str, dict[str, Any]], seen: dict[str, Any]) -> None:
    assert seen["packets"] == seen["lengths"] == 2000
    assert seen["gaps"] == 1999
    picture = base64.b64decode(part(cells["plot"], "image/png"))
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 5000


def test_the_sum_comes_out(cells: dict[str, dict[str, Any]], seen: dict[str, Any]) -> None:
    assert seen["received"] + seen["dropped"] == seen["redirected"] == seen["sent"] > 100_000
    assert seen["received"] > seen["batches"] > 0
    text = part(cells["books"], "stdout")
    assert text == (
        f"{seen['received']:,} received + {seen['dropped']:,} dropped = {seen['redirected']:,} redirected: True\n"
    )
    counters = {name: number(count) for name, count in pairs(cells["books"]).items()}
    assert counters["dropped"] == counters["rx_dropped"] + counters["rx_ring_full"] == seen["dropped"]
    assert len(counters) == 8  # six of the kernel, what the NIC missed, and their sum
    sent, received = re.findall(r"^([\d,]+) (?:packets sent|received)", part(cells["flood"], "stdout"), re.MULTILINE)
    assert number(sent) == seen["sent"]
    assert 0 < number(received) <= seen["received"]


def test_the_filter_decides(cells: dict[str, dict[str, Any]]) -> None:
    text = part(cells["filter"], "stdout")
    assert "ping: 3 of 3 answered" in text
    assert "'redirected': 4" in text
    assert "'passed': 9" in text  # three pings, six datagrams
    assert [row[2] for row in table(cells["filter"])[1:]] == ["10.11.0.2:5000 → 10.11.0.1:53 UDP 60 B"] * 4


def test_the_end_says_that_all_is_closed(cells: dict[str, dict[str, Any]]) -> None:
    near, lab, kept = part(cells["end"], "stdout").splitlines()
    assert near == "<Interface veth0, closed>"
    assert lab.endswith("closed>")
    assert kept == "<Batch of 5 packets, 490 bytes, a copy>"


# --- what it shows ---------------------------------------------------------------------------------------------------


def test_tables_show_text_as_it_is(lab: Lab) -> None:
    with toolkit.open(lab.interface, netns=lab.netns, filter="udp[4:2] < 99") as near:
        assert ">udp[4:2] &lt; 99</td>" in near._repr_html_()
        lab.delete_interface()
        assert "<th" in near._repr_html_()  # what is known of a device that is gone
    for closed in (near, near.umem):
        shown = closed._repr_html_()
        assert "closed" in shown
        assert "&lt;" in shown
        assert "<td" not in shown


# --- as stored ------------------------------------------------------------------------------------------------------


def shape(output: dict[str, Any]) -> dict[str, str]:
    """What an output shows, by MIME type: its words, without tags and without the numbers that change."""
    words = {}
    for kind, text in data(output).items():
        if kind == "text/html":
            text = html.unescape(re.sub(r"<style.*?</style>|<.*?>", " ", text, flags=re.DOTALL))
        # The flood's figures may have any size, a plain text's columns any width.
        words[kind] = "" if kind == "image/png" else " ".join(re.sub(r"\d[\d,.:]*", "N", text).split())
    return words


def shapes(cell: dict[str, Any]) -> list[dict[str, str]]:
    return [shape(output) for output in cell["outputs"] if output.get("name") != "stderr"]


def test_stored_outputs_are_those_of_this_notebook(cells: dict[str, dict[str, Any]]) -> None:
    stored = code_cells(load(NOTEBOOK))
    for name, cell in stored.items():
        assert shapes(cell) == shapes(cells[name]), f"cell {name!r} is out of date. {REFRESH}"
    assert [cell["execution_count"] for cell in stored.values()] == list(range(1, len(stored) + 1)), REFRESH


def test_what_is_stored_is_small_and_says_nothing_of_where_it_was_made() -> None:
    notebook = load(NOTEBOOK)
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 100_000
    assert len(notebook["cells"]) <= 24
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert all(cell["metadata"] == {} for cell in notebook["cells"])  # no time of execution, no editor's folds
    sources = "".join(joined(cell["source"]) for cell in notebook["cells"])
    outputs = "".join(part(cell, kind) for cell in code_cells(notebook).values() for kind in ("stdout", "text/html"))
    assert not re.search(r"(?<![\w<])/(home|root|tmp|usr|opt|Users)/", sources + outputs)
    assert str(ROOT) not in sources + outputs
    assert re.search("ICMP echo request .* seq 5", outputs)


if __name__ == "__main__":
    main(NOTEBOOK)
