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
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.needs(*peer.packages) if peer.packages else ())
        for name, peer in sorted(PEERS.items())
    ],
)
@pytest.mark.parametrize(
    ("kind", "shape"), [("one", {}), ("shared", {"points": 4}), ("distinct", {"batch": 4})]
)
def test_peers_are_right_where_they_apply_and_say_where_not(name, kind, shape):
    peer, case = PEERS[name], exact(3, 10, **shape)
    if kind in peer.batches:
        assert callable(peer.prepare(case))
    else:
        with pytest.raises(NotApplicable, match=f"{name} does not do {kind} systems"):
            peer.prepare(case)
