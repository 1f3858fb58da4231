"""The profile: samples are read as perf writes them, each belongs to one group, and the picture adds up."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.profiling import flame, stacks
from bench.profiling.__main__ import Unusable, report, table, usable_perf
from bench.profiling.stacks import Frame, group_of
from tests.kit.origin import find

PYTHON = "/usr/lib/libpython3.11.so.1.0"
KERNEL = "[kernel.kallsyms]"
SCRIPT = f"""
\t          1aee17 address_in_range (inlined)
\t          1aee17 _PyObject_Free+0x27 ({PYTHON})
\t          104053 _PyEval_EvalFrameDefault+0x4053 ({PYTHON})
\tffffffffffffffff [unknown] ([unknown])


\tffffffff82203249 _raw_spin_unlock_irqrestore+0x9 ({KERNEL})
\tffffffff81e3513e sock_def_readable+0x3e ({KERNEL})
\tffffffff81e35100 __x64_sys_sendto+0x20 ({KERNEL})
\t           fca8c __libc_send (inlined)
\t           fca8c send+0xc (/usr/lib/libc.so.6)
\t          1043aa py::Poller.transmit:/venv/lib/python3.12/site-packages/hotproxy/net/poller.py (/tmp/perf-7.map)


\t          1aee18 operator new(unsigned long) (/opt/lib(x86)/libx.so)
"""


def test_samples_are_read_as_perf_writes_them() -> None:
    first, second, third = stacks.read(SCRIPT)
    assert first == [
        Frame("address_in_range", "inlined"),
        Frame("_PyObject_Free", PYTHON),
        Frame("_PyEval_EvalFrameDefault", PYTHON),
        Frame("[unknown]", "[unknown]"),
    ]
    assert second[-1] == Frame("Poller.transmit (net/poller.py)", "/tmp/perf-7.map")
    assert third == [Frame("operator new(unsigned long)", "/opt/lib(x86)/libx.so")]
    assert list(stacks.read("")) == []


HOTPROXY = "/venv/lib/python3.11/site-packages/hotproxy"


@pytest.mark.parametrize(
    ("frames", "group"),
    [
        ([("_PyEval_EvalFrameDefault", PYTHON)], "Python: byte code"),
        ([("Py_INCREF", "inlined"), ("_PyEval_EvalFrameDefault", PYTHON)], "Python: byte code"),
        ([("pymalloc_alloc", "inlined"), ("_PyEval_EvalFrameDefault", PYTHON)], "Python: making and freeing objects"),
        ([("dict_dealloc", PYTHON)], "Python: making and freeing objects"),
        ([("_PyFunction_Vectorcall", "/usr/bin/python3.11")], "Python: calls"),
        ([("py_trampoline", "/tmp/perf-12.map")], "Python: calls"),
        ([("_PyObject_GenericGetAttrWithDict", PYTHON)], "Python: attributes"),
        ([("unicode_concatenate", PYTHON)], "Python: bytes, str, int, dict, list and their like"),
        ([("_Py_HandlePending", PYTHON)], "Python: other"),
        ([("malloc", "/usr/lib/libc.so.6")], "Python: making and freeing objects"),
        ([("__memmove_avx_unaligned_erms", "/usr/lib/libc.so.6")], "libc"),
        ([("__libc_recv", "inlined"), ("recv", "/usr/lib/libc.so.6")], "libc"),
        ([("__vdso_clock_gettime", "[vdso]")], "reading the clock"),
        ([("uv__io_poll", "/venv/uvloop/loop.cpython-311-x86_64-linux-gnu.so")], "event loop (uvloop)"),
        ([("f", f"{HOTPROXY}/http/_kernel.cpython-311-x86_64-linux-gnu.so")], "compiled: http/_kernel"),
        ([("CPyDef_f", f"{HOTPROXY}/_compiled/proxy/stream.abi3.so")], "compiled: _compiled/proxy/stream"),
        ([("f", "/usr/lib/python3.11/lib-dynload/_random.cpython-311-x86_64-linux-gnu.so")], "other: _random"),
        ([("[unknown]", "[unknown]")], "other: [unknown]"),
        ([("tcp_ack", KERNEL), ("__netif_receive_skb", KERNEL), ("__x64_sys_sendto", KERNEL)],
         "kernel: TCP of the peer, done by the sender (loopback)"),
        ([("x", KERNEL), ("sock_def_readable", KERNEL), ("__netif_receive_skb", KERNEL), ("__x64_sys_sendto", KERNEL)],
         "kernel: waking the peer"),
        ([("tcp_sendmsg_locked", KERNEL), ("__x64_sys_sendto", KERNEL)], "kernel: sending"),
        ([("tcp_recvmsg", KERNEL), ("__x64_sys_recvfrom", KERNEL), ("recv", "/lib/libc.so.6")], "kernel: receiving"),
        ([("f", "/home/hotproxy/.venv/lib/python3.11/site-packages/x.cpython-311-x86_64-linux-gnu.so")], "other: x"),
        ([("ep_send_events", KERNEL), ("__x64_sys_epoll_pwait", KERNEL)], "kernel: epoll"),
        ([("tcp_v4_connect", KERNEL), ("__x64_sys_connect", KERNEL)], "kernel: opening and closing connections"),
        ([("ext4_write", KERNEL), ("__x64_sys_write", KERNEL)], "kernel: writing the access log"),
        ([("handle_mm_fault", KERNEL), ("exc_page_fault", KERNEL), ("memcpy", PYTHON)], "kernel: page faults"),
        ([("entry_SYSCALL_64_after_hwframe", KERNEL)], "kernel: entry and exit of system calls"),
        ([("timer", KERNEL), ("asm_sysvec_apic_timer_interrupt", KERNEL)], "kernel: other"),
    ],
)  # fmt: skip
def test_each_sample_belongs_to_one_group(frames: list[tuple[str, str]], group: str) -> None:
    assert group_of([Frame(*frame) for frame in frames]) == group


def test_the_table_adds_up() -> None:
    samples = list(stacks.read(SCRIPT))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table(samples, 30.0).splitlines()]
    assert ["**kernel**", "33.3%", "10.0"] in rows and ["waking the peer", "33.3%", "10.0"] in rows
    kinds = [row for row in rows if row[0].startswith("**")]
    assert sum(float(row[2]) for row in kinds) == 30.0
    assert sum(float(row[2]) for row in rows if row not in kinds) == 30.0


def test_the_report_has_python_functions_where_perf_knows_them() -> None:
    about = dict.fromkeys(
        ("command", "cpu", "cpus", "kernel", "python", "date", "load_before", "title", "version", "rounds", "hertz"),
        "x",
    )
    figures = {"cpu_us": 30.0, "least": 29.0, "most": 31.0, "per_s": 1000.0, "sampled_us": 33.0, "samples": 3}
    samples = list(stacks.read(SCRIPT))
    text = report(samples, about | figures)
    assert "| `Poller.transmit (net/poller.py)` | 33.3% | 10.0 |" in text
    assert "| `_PyObject_Free` | libpython3.11.so.1.0 | 33.3% | 10.0 |" in text
    assert "The Python functions" not in report(samples[:1], about | figures)


def test_equal_stacks_are_counted_outermost_first() -> None:
    (first, *_) = stacks.read(SCRIPT)
    assert stacks.folded([first, first]) == {
        ("_PyEval_EvalFrameDefault", "_PyObject_Free", "Python: making and freeing objects"): 2
    }


def test_the_boxes_of_a_row_lie_beside_each_other_and_on_what_called_them() -> None:
    made = flame.boxes({("a", "b", "kernel: x"): 2, ("a", "kernel: y"): 1, ("c", "kernel: x"): 4})
    assert [(box.name, box.depth, box.start, box.count) for box in made] == [
        ("all", 0, 0, 7), ("a", 1, 0, 3), ("b", 2, 0, 2), ("kernel: x", 3, 0, 2), ("kernel: y", 2, 2, 1),
        ("c", 1, 3, 4), ("kernel: x", 2, 3, 4),
    ]  # fmt: skip


def test_the_picture_is_one_svg_with_a_title_for_each_box() -> None:
    folded = Counter({("<lambda> & co", "Python: calls"): 999, ("rare", "libc"): 1, ("b", "kernel: epoll"): 1000})
    root = ElementTree.fromstring(flame.svg(folded, "a < b", 20.0))
    space = {"svg": "http://www.w3.org/2000/svg"}
    titles = [title.text for title in root.findall("svg:g/svg:title", space)]
    assert "<lambda> & co: 50.0%, 10.0 µs per request" in titles
    assert not any(title is not None and title.startswith("rare") for title in titles), "too narrow to be seen"
    widths = {title: float(rect.attrib["width"]) for title, rect in zip(titles, root.findall("svg:g/svg:rect", space))}  # noqa: B905
    assert max(widths.values()) <= flame.WIDTH
    assert root.findall("svg:text", space)[0].text == "a < b"


def test_without_perf_it_says_what_to_install() -> None:
    with pytest.raises(Unusable, match="perf is needed"):
        usable_perf(None)


def test_where_perf_may_not_sample_it_says_why(tmp_path: Path) -> None:
    program = tmp_path / "perf"
    program.write_text("#!/bin/sh\necho 'Error:' >&2; exit 255\n")
    program.chmod(0o755)
    with pytest.raises(Unusable, match=r"may not sample here: Error: \(kernel.perf_event_paranoid is "):
        usable_perf(str(program))


@pytest.mark.slow
def test_a_real_profile(tmp_path: Path) -> None:
    try:
        usable_perf(find("perf"))
    except Unusable as error:
        pytest.skip(str(error))
    if find("wrk") is None or find("nginx") is None:
        pytest.skip("wrk and nginx are needed")
    command = [sys.executable, "-m", "bench.profiling", "--seconds", "1", "--rounds", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "profile.md").read_text()
    assert "| **kernel** |" in text and "| **Python** |" in text and "compiled" in text
    ElementTree.fromstring((tmp_path / "profile.svg").read_text())
