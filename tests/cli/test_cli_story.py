"""What is left out of a story when there is too much of it."""

from __future__ import annotations

from typing import Any

from hotproxy.cli.story import tell

MATCH: dict[str, Any] = {"prefix": "/x", "methods": [], "headers": {}}


def facts(passed_over: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "config": {"path": "a.yaml", "note": ""},
        "request": {"method": "GET", "target": "/", "host": "a"},
        "listener": {"name": "web", "addresses": [":80"], "why": "chosen"},
        "virtual_host": {"name": "a", "domains": [f"d{number}" for number in range(12)]},
        "path": {"asked": "/", "matched": "/"},
        "passed_over": passed_over,
        "route": None,
        "outcome": "refused",
        "response": {"status": 404, "flags": ["NR"], "details": "route_not_found", "headers": [], "body": ""},
    }


def test_of_many_routes_the_near_misses_are_told() -> None:
    passed = [
        {"number": number, "name": "", "match": MATCH, "part": "method" if number == 700 else "prefix"}
        for number in range(1000)
    ]
    lines = tell(facts(passed)).splitlines()
    told = [line.split()[0] for line in lines if line.strip().startswith("routes[")]
    assert told == [*(f"routes[{number}]" for number in range(19)), "routes[700]"]
    assert "                ... and 980 more that do not match" in lines
    assert "  route         none of the 1000 routes of 'a' matches" in lines


def test_of_many_names_ten_are_told() -> None:
    assert "d0, d1, d2, d3, d4, d5, d6, d7, d8, d9 and 2 more" in tell(facts([]))
