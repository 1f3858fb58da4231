"""Secrets do not leave the file, whatever is wrong around them; carets stay where they were."""

from __future__ import annotations

import pytest

from hotproxy.config import examine_text, render_json, render_text
from hotproxy.config.secrets import is_secret_name, mask, masked_window


@pytest.mark.parametrize(
    "line",
    [
        "password: hunter2",
        "  db_password: 'hunter2 hunter2'",
        '{user: joe, password: "hunter2", port: 1}',
        "{x-api-key: hunter2, a: b}",
        'headers: {Authorization: "Bearer hunter2"}',
        "authorization: Basic hunter2",
        "url: http://joe:hunter2@example.org/",
        "body: use Bearer hunter2",
        "Set-Cookie: hunter2=1",
        'client_secret: "hunter2',
        "API_TOKEN=hunter2",
    ],
)
def test_masked(line: str) -> None:
    masked = mask(line)
    assert "hunter2" not in masked
    assert len(masked) == len(line)


def test_the_rest_stays_readable() -> None:
    line = "{user: joe, password: hunter2, port: 1}"
    assert mask(line) == "{user: joe, password: *******, port: 1}"
    for harmless in ("match: {prefix: /}", "password: ${PASSWORD}", "name: secretary", "tokens are fine"):
        assert mask(harmless) == harmless


def test_the_lines_below_a_secret_key_are_masked() -> None:
    lines = ["private_key: |", "  -----BEGIN", "  hunter2", "other: x"]
    assert masked_window(lines, 2, 0) == ("  *******", 0)
    assert masked_window(lines, 3, 0) == ("other: x", 0)


def test_a_long_line_that_mentions_a_secret_is_not_shown() -> None:
    text, first = masked_window(["{password: hunter2, " + "a: b, " * 500 + "}"], 0, 2000)
    assert set(text) == {"*"}
    assert first > 0


def test_names() -> None:
    assert is_secret_name("API_TOKEN")
    assert is_secret_name("x-db-password")
    assert not is_secret_name("PORT")


@pytest.mark.parametrize(
    "text",
    [
        "password: a: hunter2\n",
        "token: *hunter2\n",
        "token: @hunter2\n",
        "token: [hunter2\n",
        'clusters: [{name: "Bearer hunter2", endpoints: []}]\n',
        "listeners: [{name: a, address: 'http://joe:hunter2@x', cluster: b}]\n",
        "listeners: [{name: a, address: '${MY_SECRET}', cluster: '${MY_SECRET}'}]\n",
        "x-password: &a hunter2\nclusters: [{name: a, lb_policy: *a, endpoints: []}]\n",
        'listeners: [{name: a, address: ":1", routes: [{match: {prefix: /, headers: {cookie: " hunter2"}}}]}]\n',
    ],
)
def test_no_problem_shows_a_secret(text: str) -> None:
    problems = examine_text(text, "a.yaml", environ={"MY_SECRET": "hunter2"}).problems
    assert problems
    assert "hunter2" not in render_text(problems) + render_json(problems)
