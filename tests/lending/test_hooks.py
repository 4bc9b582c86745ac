"""Hooks of a thread beside other threads that run the model."""

import asyncio
import copy
import pickle
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn.modules import module as modules

from tests.support import TinyNet
from xgradcam.cam.explain import evidence_of, explain
from xgradcam.capture.recording import record
from xgradcam.capture.replacing import replay
from xgradcam.errors import XGradCamError
from xgradcam.lending.detours import listing_new
from xgradcam.lending.hooks import Looking, OfThread, is_of_another_thread, on_all_modules
from xgradcam.lending.outputs import at_output


def elsewhere(work):
    """The result of the work in another thread."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result(20)


def test_a_hook_is_called_in_its_thread_alone():
    seen = []
    hook = OfThread(lambda *given: seen.append(given) or "seen")
    assert hook(1, 2) == "seen"
    assert elsewhere(lambda: hook(3)) is None
    assert seen == [(1, 2)]
    assert not is_of_another_thread(hook)
    assert elsewhere(lambda: is_of_another_thread(hook))
    assert not is_of_another_thread(print)


def test_a_copy_of_a_model_takes_hooks_along_that_do_nothing():
    model, seen = nn.Sequential(nn.ReLU()), []
    with model[0].register_forward_hook(OfThread(lambda *_: seen.append(True))):
        copies = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    for one in copies:
        assert torch.equal(one(torch.ones(1)), torch.ones(1))
    assert seen == []


@pytest.mark.parametrize("first", [True, False])
def test_no_hook_on_all_modules_is_lost_where_threads_register_at_once(first):
    before, interval = list(modules._global_forward_hooks), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    model = nn.ReLU()

    def work(_number):
        for _ in range(50):
            seen = []
            with on_all_modules(lambda *_, seen=seen: seen.append(True), first):
                model(torch.ones(1))
            assert seen == [True]

    try:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(work, range(8)))
    finally:
        sys.setswitchinterval(interval)
    assert list(modules._global_forward_hooks) == before


def watchers(net, inputs):
    """Ways of this package to be at a layer while it runs."""
    layer = net.features[3]
    activation = layer(net.features[:3](inputs)).detach()
    return {
        "record": lambda: record(net, inputs, "features.3"),
        "replay": lambda: replay(net, inputs, "features.3", activation.clone() * 2),
        "evidence": lambda: evidence_of(net, inputs, "features.3", complete=True),
    }


@pytest.mark.parametrize("name", ["record", "replay", "evidence"])
def test_another_thread_that_runs_the_model_itself_neither_sees_nor_is_seen(name):
    net, inputs = TinyNet().eval(), torch.ones(2, 3, 8, 8).double().cumsum(3)
    with torch.no_grad():
        plain = net(-inputs)
    expected = watchers(net, inputs)[name]()
    found, grads, go = [], [], threading.Event()
    stop = net.features[4].register_forward_pre_hook(lambda *_: go.set() or beside())
    own = threading.get_ident()

    def other():
        with torch.no_grad():
            found.append(net(-inputs))
        grads.append(torch.is_grad_enabled())

    def beside():
        """In the middle of the run, behind the layer."""
        if threading.get_ident() == own:
            elsewhere(other)

    result = watchers(net, inputs)[name]()
    stop.remove()
    assert go.is_set()
    assert found
    assert all(torch.equal(one, plain) for one in found)
    assert all(grads)
    for one in ("activation", "gradient", "output"):
        if hasattr(expected, one) and isinstance(getattr(expected, one), torch.Tensor):
            assert torch.equal(getattr(result, one), getattr(expected, one))
    if name == "replay":
        assert torch.equal(result, expected)


def test_places_at_an_output_do_not_count_hooks_of_other_threads():
    module, places = nn.ReLU(), []
    hook = elsewhere(lambda: OfThread(lambda *_: None))
    with module.register_forward_hook(hook):
        with at_output(module, lambda place, *_: places.append(place)):
            module(torch.ones(1))
    assert places == [0, 1]


@pytest.mark.parametrize("generation", [0, 1, 2])
def test_what_is_new_is_listed_where_it_was_collected_meanwhile(generation):
    import gc

    class Keeping(nn.Module):
        def forward(self, inputs):
            self.kept = [inputs * 2]
            elsewhere(lambda: gc.collect(generation))
            return inputs * 3

    module = Keeping()
    with listing_new(module) as new, module.register_forward_hook(lambda *_: made.extend(new())):
        made = []
        module(torch.ones(3))
    assert any(one is module.kept[0] for one in made)


def test_places_at_an_output_do_not_count_hooks_that_look():
    module, order = nn.ReLU(), []
    module.register_forward_hook(lambda *_: order.append("own"))
    with module.register_forward_hook(Looking(lambda *_: order.append("looking")), prepend=True):
        with at_output(module, lambda place, *_: order.append(place)):
            module(torch.ones(1))
    assert order == [0, 1, "looking", "own", 2]


class Branches(nn.Module):
    """Two branches behind a convolution; `aside` has threads of its own run them, `whole` all of it."""

    def __init__(self, aside="", pool=None):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.one, self.other = (nn.Conv2d(count, 4, 3, padding=1) for count in (3, 4, 4))
        self.head, self.aside, self.pool = nn.Linear(8, 5), aside, pool

    def parts(self, images):
        maps = self.stem(images)
        maps = torch.cat(self.run([self.one, self.other], maps, "branches"), 1)
        return self.head(maps.relu().mean((2, 3)))

    def run(self, functions, given, when):
        if self.aside != when:
            return [function(given) for function in functions]
        if self.pool == "threads":
            results = {}
            threads = [
                threading.Thread(target=lambda one=one: results.update({one: one(given)}))
                for one in functions
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return [results[one] for one in functions]
        if self.pool == "asyncio":

            async def gather():
                return await asyncio.gather(*(asyncio.to_thread(one, given) for one in functions))

            return list(asyncio.run(gather()))
        if self.pool == "busy":
            with ThreadPoolExecutor(2) as threads:
                results = [threads.submit(function, given) for function in functions]
                time.sleep(0.02)
                end = time.monotonic() + 0.01
                while time.monotonic() < end:
                    pass
                return [one.result() for one in results]
        if self.pool is not None:
            return [one.result() for one in [self.pool.submit(function, given) for function in functions]]
        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(lambda function: function(given), functions))

    def forward(self, images):
        return self.run([self.parts], images, "whole")[0]


@pytest.fixture(params=["executor", "threads", "asyncio", "busy", "of the model"])
def pool(request):
    if request.param == "of the model":
        with ThreadPoolExecutor(2) as threads:
            yield threads
    else:
        yield None if request.param == "executor" else request.param


# What methods try with other numbers of samples may raise in a thread.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("aside", ["whole", "branches"])
@pytest.mark.parametrize("layer", ["stem", "one"])
def test_a_model_may_run_its_layers_in_threads_of_its_own(aside, layer, pool):
    images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    plain, model = Branches(), Branches(aside, pool).train()
    # Where the rest runs in the thread of the caller, it has no graph of what another thread began.
    by_gradient = [] if (aside, layer) == ("branches", "one") else ["grad-cam", "xgrad-cam"]
    methods = ["ablation-cam", "score-cam", *by_gradient]
    expected = explain(plain, images, layer, 1, methods)
    # A test of a browser leaves a loop of asyncio running in this thread, beside which there can be no other.
    call = elsewhere if pool == "asyncio" else lambda function: function()
    for _ in range(3):
        found = call(lambda: explain(model, images, layer, 1, methods))
        for method in methods:
            torch.testing.assert_close(found.maps[method], expected.maps[method], rtol=0, atol=1e-6)
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert not modules._global_forward_hooks


def test_what_a_thread_of_the_model_computes_is_not_taken_for_traced():
    images = torch.ones(1, 3, 6, 6).cumsum(3)
    model = Branches("whole")
    for _ in range(2):
        with pytest.raises(XGradCamError, match=r"in a thread of its own, where Eq\. 5 cannot follow"):
            explain(model, images, "one", 1, ["complete-cam"])
        assert explain(model, images, "one", 1).score.shape == (1,)


def test_a_thread_that_runs_the_model_meanwhile_is_not_taken_for_one_of_the_models():
    net, inputs = TinyNet().eval(), torch.ones(2, 3, 8, 8).double().cumsum(3)
    unused = nn.Conv2d(3, 4, 1).double()
    net.unused = unused
    # It runs a layer that the model does not, while the model computes, and waits for nobody.
    go, done = threading.Event(), threading.Event()

    def other():
        go.wait(20)
        unused(inputs)
        done.set()

    def beside(*_):
        go.set()
        while not done.is_set():
            pass

    thread = threading.Thread(target=other)
    thread.start()
    with net.features[4].register_forward_pre_hook(beside):
        with pytest.raises(XGradCamError, match="layer 'unused' did not run"):
            record(net, inputs, "unused")
    thread.join(20)
    assert done.is_set()


def test_a_model_may_begin_and_end_to_run_in_threads():
    images = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    model, expected = Branches(), explain(Branches(), images, "one", 1).maps["xgrad-cam"]
    for aside in ("", "whole", "", "whole"):
        model.aside = aside
        torch.testing.assert_close(explain(model, images, "one", 1).maps["xgrad-cam"], expected)
