"""Random numbers that a borrowed model draws, and those of other threads."""

import threading
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.nn import functional

from xgradcam.lending.borrowing import borrowed


class Noisy(nn.Module):
    """Draws in evaluation mode too, by an operation that draws or by one that may."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, inputs):
        if self.how == "rand":
            return inputs + torch.rand(())
        if self.how == "own generator":
            return inputs + torch.rand((), generator=torch.Generator().manual_seed(0))
        tokens = inputs[None, None, :, None].expand(1, 1, 3, 8)
        return functional.scaled_dot_product_attention(
            tokens, tokens, tokens, dropout_p=0.5 if self.how == "attention that drops" else 0.0
        )


DRAWS = {"rand": True, "own generator": False, "attention": False, "attention that drops": True}


@contextmanager
def another_thread():
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("how", DRAWS)
@pytest.mark.parametrize("alone", [True, False])
def test_what_the_model_draws_is_put_back(how, alone):
    model = Noisy(how)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for _ in range(2):
        with borrowed(model) as run:
            if alone:
                found = run(torch.ones(3))
            else:
                with another_thread():
                    found = run(torch.ones(3))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(model(torch.ones(3)), found)
    assert torch.equal(torch.get_rng_state(), before) != DRAWS[how]


@pytest.mark.parametrize("how", DRAWS)
def test_what_others_draw_stays_drawn_unless_the_model_draws_too(how):
    model = Noisy(how)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with another_thread(), borrowed(model) as run:
        run(torch.ones(3))
        torch.rand(())  # as another thread would
    assert torch.equal(torch.get_rng_state(), before) == DRAWS[how]
