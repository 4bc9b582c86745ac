"""Threads that use models at once: one after the other, and never each waiting for the other."""

import copy
import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest
import torch
from torch import nn

from xgradcam.errors import XGradCamError
from xgradcam.lending.borrowing import borrowed
from xgradcam.lending.turns import _DESK, in_turn, modules_of, turn_of

PATIENCE = 20


class Told(nn.Sequential):
    """Two modules of its own, and others that it may share."""

    def __init__(self, *shared):
        super().__init__(nn.Linear(3, 3), nn.ReLU(), *shared)


@contextmanager
def another(model, ended):
    """Have the model in another thread until the end."""
    begun, over = threading.Event(), threading.Event()

    def have():
        with turn_of(model):
            begun.set()
            assert over.wait(PATIENCE)
            ended.append("other")

    thread = threading.Thread(target=have)
    thread.start()
    assert begun.wait(PATIENCE)
    try:
        yield over
    finally:
        over.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def pairs():
    shared, model = nn.Linear(3, 3), Told()
    tied, other = Told(), Told()
    other[0].weight = tied[0].weight
    return {
        "the same": (model, model, True),
        "a submodule": (model, model[0], True),
        "one around it": (model[0], nn.Sequential(model), True),
        "a shared module": (Told(shared), Told(shared), True),
        "two models": (Told(), Told(), False),
        "shared parameters, which are only read": (tied, other, False),
        "a copy": (model, copy.deepcopy(model), False),
    }


@pytest.mark.parametrize("name", pairs())
def test_a_thread_waits_for_models_that_share_modules_alone(name):
    one, other, waits = pairs()[name]
    ended = []
    with another(one, ended) as over:
        timer = threading.Timer(0.1, over.set)
        timer.start()
        with turn_of(other):
            ended.append("own")
        timer.join()
    assert ended == (["other", "own"] if waits else ["own", "other"])


def test_turns_within_a_turn_are_not_waited_for():
    model = Told()
    with turn_of(model), turn_of(model), borrowed(model[0]), turn_of(nn.Sequential(model)):
        assert in_turn(lambda given: given)(model) is model
    with another(model, []):
        pass


def test_what_is_no_module_has_no_turns():
    with turn_of(None), turn_of("a model"):
        assert in_turn(lambda given, more: (given, more))("a model", more=1) == ("a model", 1)


def test_threads_that_want_two_models_in_opposite_orders_both_get_them():
    models, met, order = (Told(), Told()), threading.Barrier(2), []

    def work(first, second):
        for number in range(20):
            with turn_of(models[first]):
                if not number:
                    met.wait(PATIENCE)
                models[first].flag = first
                with turn_of(models[second]):
                    order.append((first, second))
                # Given back as it was.
                assert models[first].flag == first

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(work, 0, 1), threads.submit(work, 1, 0)]:
            done.result(PATIENCE)
    assert sorted(order) == 20 * [(0, 1)] + 20 * [(1, 0)]


def test_a_flag_that_was_changed_is_restored_in_the_order_of_turns_in_opposite_orders():
    one, other, met = Told().train(), Told().train(), threading.Barrier(2)
    flags = []

    def work(first, second):
        with borrowed(first):
            met.wait(PATIENCE)
            with borrowed(second):
                flags.append((first.training, second.training))
            flags.append((first.training, second[0].training or not second.training))

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(work, one, other), threads.submit(work, other, one)]:
            done.result(PATIENCE)
    assert (False, False) in flags
    assert all(not first for first, _ in flags)
    assert all(module.training for model in (one, other) for module in model.modules())


def test_first_come_first_served():
    model, order, threads = Told(), [], []

    def want(number):
        with turn_of(model):
            order.append(number)

    with another(model, []):
        for number in range(6):
            threads.append(threading.Thread(target=want, args=(number,)))
            threads[-1].start()
            time.sleep(0.02)
    for thread in threads:
        thread.join(PATIENCE)
    assert order == list(range(6))


def test_an_error_gives_the_model_back():
    model = Told()
    with pytest.raises(ZeroDivisionError), borrowed(model):
        raise ZeroDivisionError
    with another(model, []):
        pass


def test_an_interrupt_while_waiting_leaves_what_the_thread_had_its_own():
    one, other, ended, interrupted = Told(), Told(), [], []

    class Interrupted(BaseException):
        pass

    def interrupt(timeout=None):
        if not interrupted:
            interrupted.append(True)
            raise Interrupted
        return wait(timeout)

    wait = _DESK._changed.wait
    with another(other, ended), turn_of(one):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_DESK._changed, "wait", interrupt)
            with pytest.raises(Interrupted), turn_of(other):
                raise AssertionError("it came")
        assert set(map(id, one.modules())) <= {
            module for module, thread in _DESK._lent.items() if thread == threading.get_ident()
        }
    assert not _DESK._lent
    assert not _DESK._waiting


def test_an_abandoned_loan_ends_with_its_object():
    model = Told().train()

    def loan():
        with borrowed(model):
            yield

    left = loan()
    next(left)
    assert not model.training
    del left
    assert model.training
    with another(model, []):
        pass


def test_models_are_pickled_and_copied_while_they_are_lent():
    model = Told()
    with borrowed(model):
        again = pickle.loads(pickle.dumps(model))
        assert not again.training
        assert [*vars(copy.deepcopy(model))] == [*vars(again)] == [*vars(Told())]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_does_not_wait_for_threads_that_it_has_not():
    model = Told()
    with another(model, []):
        child = os.fork()
        if not child:
            with ExitStack() as left:
                left.callback(os._exit, 1)
                with turn_of(model):
                    os._exit(0)
        waited, end = 0, time.monotonic() + PATIENCE
        while not waited and time.monotonic() < end:
            waited, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.01)
        if not waited:
            os.kill(child, 9)
            os.waitpid(child, 0)
    assert waited == child
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_thread_that_trains_the_model_meanwhile_is_told_of():
    model = Told().eval()
    with another(Told(), []):
        with pytest.raises(XGradCamError, match="another thread put the model into training mode"):
            with borrowed(model):
                model.train()
        # One module alone: a dropout that draws in evaluation mode too.
        with borrowed(model) as run:
            model[1].train()
            assert run(torch.zeros(1, 3)).shape == (1, 3)


class Around(nn.Module):
    """Has a module in a list, of which it tells by `tells`."""

    def __init__(self, tells):
        super().__init__()
        self.linear, self.others = nn.Linear(3, 3), [nn.Dropout(0.5)]
        if tells == "modules":
            self.__class__ = type("Telling", (Around,), {"modules": lambda one: iter(one.told())})
        elif tells == "named_modules":
            named = {
                "named_modules": lambda one, *_args, **_how: ((str(n), m) for n, m in enumerate(one.told()))
            }
            self.__class__ = type("Telling", (Around,), named)

    def told(self):
        return [self, self.linear, *self.others]

    def forward(self, inputs):
        return self.others[0](self.linear(inputs))


# Of a module in another PyTorch asks for its named modules alone.
@pytest.mark.parametrize(
    ("tells", "inside"), [("modules", False), ("named_modules", False), ("named_modules", True)]
)
def test_modules_of_which_a_model_tells_by_a_method_of_its_own_are_lent_too(tells, inside):
    one = Around(tells).train()
    one.others[0].train()
    model = nn.Sequential(one) if inside else one
    with borrowed(model) as run:
        assert not one.others[0].training
        assert torch.equal(run(torch.ones(1, 3)), one.linear(torch.ones(1, 3)))
    assert all(module.training for module in one.told())
    assert set(modules_of(model)) == {model, *one.told()}
