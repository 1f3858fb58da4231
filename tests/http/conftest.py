"""Both head parsers, one after the other, for every test that takes a `parser`."""

from __future__ import annotations

import pytest

from hotproxy.http.head_parser import HeadParser, HttptoolsHeadParser
from tests.kit.kernels import compiled


@pytest.fixture(scope="session", params=["pure", "compiled"])
def parser(request: pytest.FixtureRequest) -> HeadParser:
    if request.param == "pure":
        return HttptoolsHeadParser()
    made: HeadParser = compiled("hotproxy.http._kernel").CompiledHeadParser()
    return made
