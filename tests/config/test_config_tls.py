"""Certificates in a config, checked on the machine that has their files: each mistake stands at its own place."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotproxy.config.load import examine
from tests.kit.tls import Files

LISTENER = """\
listeners:
  - name: web
    address: "127.0.0.1:0"
    tls: {{certificates: [{{cert: {cert}, key: {key}}}]}}
    routes: [{{match: {{prefix: /}}, direct_response: {{status: 200}}}}]
"""


@pytest.mark.parametrize("cert", ["there", "missing"])
@pytest.mark.parametrize("key", ["there", "missing"])
def test_a_file_that_is_not_there_is_told_once_and_where_it_is_named(tmp_path: Path, cert: str, key: str) -> None:
    files = Files(tmp_path, "a.example")
    if cert == "missing":
        files.cert.unlink()
    if key == "missing":
        files.key.unlink()
    config = tmp_path / "hotproxy.yaml"
    config.write_text(LISTENER.format(cert=files.cert, key=files.key))
    config.chmod(0o640)
    wanted = [
        (f"cannot read '{path}': no such file or directory", config.read_text().splitlines()[3].index(str(path)) + 1)
        for path, state in ((files.cert, cert), (files.key, key))
        if state == "missing"
    ]
    assert [(problem.message, problem.column) for problem in examine(str(config)).problems] == wanted
