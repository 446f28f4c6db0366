"""Are keys the same everywhere, and episodes of one batch alike?"""

from __future__ import annotations

import contextlib
import random

import numpy as np
import pytest
import torch

from bilevel.episodes import Batch, Episode, Key, Scaling, ambient, guarded, keyed, seed, stack
from bilevel.errors import BadInput


def test_a_key_gives_the_same_numbers_at_every_call() -> None:
    key = Key((5,)).child("trial", 3, "train").child(0, 7)
    assert key.numpy().integers(1 << 60) == key.numpy().integers(1 << 60)
    assert torch.equal(torch.rand(3, generator=key.torch()), torch.rand(3, generator=key.torch()))


def test_a_key_gives_the_same_numbers_in_every_process_and_version() -> None:
    """Written down once: other numbers would make every earlier run irreproducible."""
    key = Key((5,)).child("trial", 3, "train").child(0, 7)
    assert key.path == (5, 1956798015, 3, 1550247075, 0, 7)
    assert key.integer() == 3860945907673888533
    assert key.numpy().integers(1 << 60) == 784011168595426429
    assert torch.randint(1 << 30, (), generator=key.torch()).item() == 418052347


def test_children_differ_from_each_other_and_from_their_parent() -> None:
    root = Key((0,))
    keys = [
        root,
        *(root.child(i) for i in range(50)),
        *(root.child("valid", i) for i in range(50)),
        root.child("valid"),
    ]
    assert len({key.integer() for key in keys}) == len(keys)
    assert root.child("a", 1).path == root.child("a").child(1).path


def test_children_are_uncorrelated() -> None:
    numbers = np.stack([Key((1,)).child(i).numpy().standard_normal(400) for i in range(8)])
    off = np.corrcoef(numbers) - np.eye(8)
    assert np.abs(off).max() < 5 / np.sqrt(400)  # five standard errors


def test_an_integer_of_a_key_fits_in_63_bits() -> None:
    assert all(0 <= Key((i,)).integer() < 1 << 63 for i in range(200))


def test_scaling_goes_to_unit_and_back() -> None:
    scaling = Scaling((1.0, -2.0), (2.0, 4.0), 10.0, 5.0)
    x = torch.tensor([[3.0, 2.0], [1.0, -2.0]])
    assert scaling.encode_x(x).tolist() == [[1.0, 1.0], [0.0, 0.0]]
    y = torch.tensor([[10.0], [15.0], [0.0]])
    assert scaling.encode_y(y).flatten().tolist() == [0.0, 1.0, -2.0]
    assert torch.equal(scaling.decode_y(scaling.encode_y(y)), y)


def test_scaling_subtracts_in_double_precision() -> None:
    scaling = Scaling((1e8,), (1.0,))
    assert scaling.encode_x(torch.tensor([[1e8 + 3]], dtype=torch.float64)).item() == 3.0


def test_beyond_its_bound_a_feature_goes_on_as_a_logarithm() -> None:
    scaling = Scaling((1.0,), (0.5,), bound=5.0)
    z = torch.tensor([-110.0, -5.0, -1.0, 0.0, 4.9, 5.0, 6.0, 110.0])
    encoded = scaling.encode_x(1 + 0.5 * z.double().unsqueeze(1)).flatten()
    over = 5 + torch.log1p(torch.tensor([105.0, 1.0]))
    expected = torch.tensor([-over[0], -5.0, -1.0, 0.0, 4.9, 5.0, over[1], over[0]])
    assert torch.allclose(encoded, expected, rtol=1e-6)
    assert Scaling((1.0,), (0.5,)).encode_x(torch.tensor([[56.0]])).item() == 110.0  # as earlier runs recorded it


def test_episodes_are_stacked_with_a_leading_axis() -> None:
    one = Episode(Batch(torch.zeros(4, 2), torch.zeros(4)), Batch(torch.ones(3, 2), torch.ones(3)))
    both = stack([one, one])
    assert both.support.x.shape == (2, 4, 2)
    assert both.query.y.shape == (2, 3)


def test_episodes_that_differ_are_refused_with_a_cure() -> None:
    short, long = (Episode(Batch(torch.zeros(n, 2), torch.zeros(n)), None) for n in (3, 4))
    with pytest.raises(BadInput, match=r"episodes of one batch differ: .*\(3, 2\).*set Batch.mask"):
        stack([short, long])


# -- the process's own generators --------------------------------------------------------------------------------------


def drawn() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_a_key_decides_what_the_processs_own_generators_give_and_leaves_them_as_before() -> None:
    np.random.randn()  # numpy keeps the second number of a pair
    before = random.getstate(), repr(np.random.get_state()), torch.get_rng_state()
    with keyed(Key((1,))):
        first = drawn()
        with keyed(Key((2,))):
            inner = drawn()
    with keyed(Key((2,))):
        assert drawn() == inner
    with keyed(Key((1,))):
        assert drawn() == first != inner
    assert (random.getstate(), repr(np.random.get_state())) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_what_is_guarded_is_put_back_after_errors_too() -> None:
    before = random.getstate(), repr(np.random.get_state())
    with contextlib.suppress(ZeroDivisionError), guarded():
        seed(3)
        raise ZeroDivisionError
    assert (random.getstate(), repr(np.random.get_state())) == before


def test_ambient_keys_come_in_order_from_the_key_around() -> None:
    assert ambient() is None
    with keyed(Key((1,))):
        first = ambient(), ambient()
    with keyed(Key((1,))):
        assert (ambient(), ambient()) == first
        with keyed(Key((2,))):
            assert ambient() not in first
    assert first[0] != first[1]
    assert ambient() is None


def test_a_word_stands_for_its_key() -> None:
    words = [Key((7,)).child("a", index).word() for index in range(1000)]
    assert len(set(words)) == 1000
    assert 0 <= min(words) <= max(words) < 2**63
    assert Key((7, 1, 2)).word() == Key((7,)).child(1, 2).word()
