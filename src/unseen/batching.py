"""A model that several threads share: what they ask of it at the same time is computed at once."""

import threading
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from unseen.backends import Backend, TorchBackend


class _Call:
    """What one thread asks for, and what comes of it."""

    def __init__(self, image: Float[Tensor, "B 3 H W"], text: Float[Tensor, "C D"]) -> None:
        self.image, self.text = image, text
        self.done = False
        self.logits: Tensor | None = None
        self.error: Exception | None = None

    def joins(self, other: "_Call", *, same_text: bool) -> bool:
        """Tell whether both can be computed at once."""
        return self.image.shape[1:] == other.image.shape[1:] and (
            not same_text
            or (self.text.shape == other.text.shape and torch.equal(self.text, other.text))
        )


class SharedBackend:
    """Run a model for several threads; each calls it as if it were its own.

    Who comes while ``passes`` others compute waits. Who is next takes along the windows of all that
    wait: the image encoder does not know the labels, so one pass of it serves calls with any text,
    and the head is asked for each. Exported and compiled models are not in such parts, and take
    along only calls with the same text.

    Args:
        backend: what runs the model.
        passes: how many are computed at once, each on its own thread.
        most: pixels of all windows of a pass; a single call may have more.
    """

    def __init__(self, backend: Backend, *, passes: int = 1, most: int = 2**22) -> None:
        self.name, self.precision = backend.name, backend.precision
        self.vision, self.device = backend.vision, backend.device
        self.digest = backend.digest
        self._backend, self._passes, self._most = backend, passes, most
        self._split = isinstance(backend, TorchBackend) and not backend.compiled
        self._waiting: list[_Call] = []
        self._running = 0
        self._changed = threading.Condition()

    def __call__(
        self, image: Float[Tensor, "B 3 H W"], text: Float[Tensor, "C D"]
    ) -> Float[Tensor, "B C h w"]:
        call, taken = _Call(image, text), []
        with self._changed:
            self._waiting.append(call)
            self._changed.wait_for(
                lambda: call.done or (self._running < self._passes and self._waiting[:1] == [call])
            )
            if not call.done:
                taken = self._take()
                self._running += 1
                self._changed.notify_all()  # another pass may be free for who is first now
        if taken:
            self._compute(taken)
        if call.error is not None:
            raise call.error
        assert call.logits is not None
        return call.logits

    def _take(self) -> list[_Call]:
        """Take the call that waits longest and those that can be computed with it."""
        first, *others = self._waiting
        taken, pixels = [first], first.image[:, 0].numel()
        for other in others:
            more = other.image[:, 0].numel()
            if pixels + more <= self._most and first.joins(other, same_text=not self._split):
                taken.append(other)
                pixels += more
        self._waiting = [call for call in self._waiting if call not in taken]
        return taken

    def _compute(self, calls: Sequence[_Call]) -> None:
        try:
            for call, logits in zip(calls, self._run(calls), strict=True):
                call.logits = logits
        except Exception as error:
            for call in calls:
                call.error = error
        finally:
            with self._changed:
                for call in calls:
                    call.done = True
                self._running -= 1
                self._changed.notify_all()

    def _run(self, calls: Sequence[_Call]) -> Sequence[Float[Tensor, "B C h w"]]:
        if len(calls) == 1:
            return [self._backend(calls[0].image, calls[0].text)]
        images, counts = torch.cat([call.image for call in calls]), [len(c.image) for c in calls]
        if isinstance(self._backend, TorchBackend) and self._split:
            return self._backend.run_each(images, counts, [call.text for call in calls])
        return self._backend(images, calls[0].text).split(counts)
