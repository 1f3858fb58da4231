"""The collector is as it was, whatever happens inside."""

import gc

import pytest

from hotproxy.shm.bulk import no_collections


def test_nothing_is_collected_inside_and_everything_is_as_before():
    assert gc.isenabled()
    with no_collections():
        assert not gc.isenabled()
        with no_collections():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ValueError), no_collections():
        raise ValueError
    assert gc.isenabled()
