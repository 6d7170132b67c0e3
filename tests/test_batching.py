"""A model that several threads share, against the model alone."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from test_export import build
from torch import Tensor

from unseen.backends import TorchBackend
from unseen.batching import SharedBackend

Asked = tuple[Tensor, Tensor]


class Exported:
    """A backend that cannot be taken apart; it notes how many windows a call brings."""

    def __init__(self, inner: TorchBackend) -> None:
        self.inner, self.digest, self.device = inner, inner.digest, inner.device
        self.name, self.precision, self.vision = "exported", inner.precision, inner.vision

    def __call__(self, image: Tensor, text: Tensor) -> Tensor:
        return self.inner(image, text)


@pytest.fixture(params=["zegclip", "cascade", "cliprc"])
def backend(request) -> TorchBackend:
    return build(request.param).backend


def ask(count: int, classes: int, side: int = 48) -> Asked:
    return torch.rand(count, 3, side, side), torch.randn(classes, 32)


def ask_together(
    shared: SharedBackend, model: torch.nn.Module, asked: Sequence[Asked]
) -> tuple[list[Tensor | Exception], list[int]]:
    """Return what comes of calls, all but the first made while that one is computed.

    Also how many windows went through the encoder each time.
    """
    free, passes = threading.Event(), []

    def hold(_: torch.nn.Module, given: tuple[Tensor]) -> None:
        passes.append(len(given[0]))
        assert free.wait(60)

    def call(one: Asked) -> Tensor | Exception:
        try:
            with torch.inference_mode():
                return shared(*one)
        except RuntimeError as error:
            return error

    hook = model.encoder.register_forward_pre_hook(hold)
    with ThreadPoolExecutor(len(asked)) as pool:
        futures = [pool.submit(call, asked[0])]
        wait_until(lambda: len(passes) == 1)
        for number, one in enumerate(asked[1:], start=1):
            futures.append(pool.submit(call, one))
            wait_until(lambda number=number: len(shared._waiting) == number)
        free.set()
        found = [future.result(60) for future in futures]
    hook.remove()
    return found, passes


def wait_until(there: Callable[[], bool]) -> None:
    for _ in range(60_000):
        if there():
            return
        time.sleep(0.001)
    raise AssertionError


def assert_equal(found, backend, asked) -> None:
    for logits, one in zip(found, asked, strict=True):
        with torch.inference_mode():
            torch.testing.assert_close(logits, backend(*one), atol=1e-5, rtol=1e-5)


def test_one_pass_of_the_encoder_serves_calls_with_any_text(backend):
    asked = [ask(1, 2), ask(2, 3), ask(1, 5), ask(3, 2)]
    found, passes = ask_together(SharedBackend(backend), backend.model, asked)
    assert passes == [1, 6]
    assert_equal(found, backend, asked)


def test_windows_of_another_size_wait_for_a_pass_of_their_own():
    backend = build("zegclip").backend
    asked = [ask(1, 2), ask(1, 2), ask(1, 2, side=32), ask(1, 2), ask(2, 2, side=32)]
    found, passes = ask_together(SharedBackend(backend), backend.model, asked)
    assert passes == [1, 2, 3]
    assert_equal(found, backend, asked)


def test_a_pass_is_no_larger_than_it_may_be_but_a_call_is_whole():
    backend = build("zegclip").backend
    asked = [ask(1, 2), ask(2, 2), ask(2, 2), ask(1, 2), ask(5, 2)]
    found, passes = ask_together(SharedBackend(backend, most=3 * 48**2), backend.model, asked)
    assert passes == [1, 3, 2, 5]
    assert_equal(found, backend, asked)


def test_exported_models_take_along_calls_with_the_same_text():
    backend = build("zegclip").backend
    text = torch.randn(3, 32)
    asked = [(torch.rand(1, 3, 48, 48), t) for t in (text, text, torch.randn(3, 32), text.clone())]
    found, passes = ask_together(SharedBackend(Exported(backend)), backend.model, asked)
    assert passes == [1, 2, 1]
    assert_equal(found, backend, asked)


def test_several_passes_are_computed_at_once_if_they_may():
    backend = build("zegclip").backend
    meeting = threading.Barrier(2)

    def meet(*_: object) -> None:
        meeting.wait(60)

    backend.model.encoder.register_forward_pre_hook(meet)
    shared = SharedBackend(backend, passes=2)
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(shared, *ask(1, 2)) for _ in range(2)]
        assert all(future.result(60).shape[1] == 2 for future in futures)


def test_a_failure_is_told_to_all_that_were_in_the_pass_and_the_next_one_works():
    backend = build("zegclip").backend
    shared = SharedBackend(backend)

    def fail(_: torch.nn.Module, given: tuple[object, Tensor]) -> None:
        if len(given[1]) == 7:
            raise RuntimeError("out of memory")

    backend.model.head.register_forward_pre_hook(fail)
    found, passes = ask_together(shared, backend.model, [ask(1, 2), ask(1, 7), ask(1, 2)])
    assert isinstance(found[0], Tensor) and passes == [1, 2]
    assert isinstance(found[1], RuntimeError) and isinstance(found[2], RuntimeError)
    one = ask(1, 2)
    assert_equal([shared(*one)], backend, [one])
