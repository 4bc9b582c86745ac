"""Codes of mixtures, against their definition."""

import torch

from xgradcam.operations.codes import MOST_MIXED, NOWHERE, Codes


def test_a_mixture_has_the_shares_of_its_parts_and_so_has_a_mixture_of_mixtures():
    codes = Codes(100)
    rows = torch.tensor([[3, 3, 7, NOWHERE], [5, 5, 5, 5], [NOWHERE] * 4, [1, 2, 3, 4]])
    mixed = codes.mixed(rows, 1)
    assert mixed[1:3, 0].tolist() == [5, NOWHERE]
    again = codes.mixed(torch.stack([mixed[0], mixed[3]], 1), 1)
    masses = torch.zeros(2, codes.count, dtype=torch.float64)
    masses[0, mixed[0, 0]] = 6
    masses[1, again[0, 0]] = 8
    codes.spread(masses)
    assert masses[0, [3, 7]].tolist() == [4, 2]
    # Half of the first, of which two thirds are 3; a quarter of the other half.
    torch.testing.assert_close(
        masses[1, [1, 2, 3, 4, 7]], torch.tensor([1, 1, 8 / 3 + 1, 1, 4 / 3], dtype=torch.float64)
    )
    # The same mixtures have the same codes.
    assert torch.equal(codes.mixed(rows, 1), mixed)


def test_too_many_parts_are_nowhere_and_many_mixtures_take_no_more_than_their_parts():
    codes = Codes(50_000)
    many = codes.mixed(torch.arange(MOST_MIXED + 1)[None], 1)
    assert many.item() == NOWHERE
    pairs = torch.arange(50_000).view(-1, 2)
    mixed = codes.mixed(pairs, 1)
    assert mixed.unique().numel() == 25_000
    assert sum(part.numel() for _, *parts in codes._mixtures for part in parts) == 3 * 50_000
    masses = torch.zeros(1, codes.count, dtype=torch.float64)
    masses[0, mixed[:, 0]] = 1
    codes.spread(masses)
    assert (masses[0, :50_000] == 0.5).all()
