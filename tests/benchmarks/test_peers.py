"""Peers: right where they apply, and not timed where they are wrong."""

import pytest

from benchmarks.peers import PEERS, NotApplicable
from benchmarks.systems import exact


def test_a_wrong_peer_is_not_timed(monkeypatch):
    numpy = PEERS["numpy"]
    case = exact(3, 10)
    assert callable(numpy.prepare(case))
    wrong = case.x.numpy() * (1 + 1e-9)
    monkeypatch.setattr(type(numpy), "build", lambda self, case: lambda: wrong)
    with pytest.raises(NotApplicable, match="numpy is wrong by"):
        numpy.prepare(case)


@pytest.mark.filterwarnings("ignore:JAXopt is no longer maintained:DeprecationWarning")
@pytest.mark.parametrize("name", sorted(PEERS))
@pytest.mark.parametrize("shape", [{}, {"points": 4}, {"batch": 4}], ids=str)
def test_peers_are_right_where_they_apply(name, shape):
    try:
        PEERS[name].prepare(exact(3, 10, **shape))
    except NotApplicable as reason:
        pytest.skip(str(reason))
