"""From logits on patch grids to a label at every pixel: windows, views, the read-out.

A score at a pixel is made in four steps, as the authors make it: logits of a window are enlarged to
the window, σ is taken and γ subtracted, windows are averaged where they overlap, and the picture as
it was shown is resized to the picture. All of them are weighted means but σ, which is monotone: so
what a class can score in a tile lies between its least and its greatest logit near by. Classes that
cannot win in a tile are never brought to its pixels, and no class is ever brought to all of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from unseen.errors import InputError

RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""The scales of the authors' ``--aug-test``, each of which is also shown mirrored."""

Tile = tuple[tuple[int, int], tuple[int, int]]
"""A rectangle of pixels: rows (from, to), columns (from, to)."""

_SCORES = {"cpu": 2**19, "cuda": 2**26}  # at a time: what caches hold, what fills
_SMALLEST = 2**8  # pixels of a tile that is not halved any more: classes are taken in groups then
_SLACK = 1e-5  # what rounding may put between a score and its bounds


class Resizing:
    """The bilinear resizing of one side, corners not aligned, any part of which can be had alone.

    Each pixel after lies between two before, ``low`` and ``high``, at ``share`` of the way.

    Args:
        size: pixels before.
        to: pixels after.
        device: where to.
    """

    def __init__(self, size: int, to: int, device: torch.device) -> None:
        self.same = size == to
        # in single precision, as torch's own; its first and last pixels are not extrapolated
        place = ((torch.arange(to) + 0.5) * (size / to) - 0.5).clamp(min=0)
        low = place.long().clamp(max=size - 1)
        self.range = low.tolist(), (low + 1).clamp(max=size - 1).tolist()
        self.low, self.share = low.to(device), (place - low).to(device)
        self.high = (low + 1).clamp(max=size - 1).to(device)

    def reads(self, start: int, stop: int) -> tuple[int, int]:
        """Return which pixels before (from, to) some pixels after are made of."""
        low, high = self.range
        return (start, stop) if self.same else (low[start], high[stop - 1] + 1)

    def between(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return ``low``, counted from the first that is read, and ``share`` of some pixels."""
        if self.same:
            low = torch.arange(stop - start, device=self.low.device)
            return low, torch.zeros_like(self.share[start:stop])
        return self.low[start:stop] - self.range[0][start], self.share[start:stop]

    def part(self, x: Float[Tensor, "..."], start: int, stop: int, *, dim: int) -> Tensor:
        """Return some pixels after; ``x`` has along ``dim`` those that they read."""
        if self.same:
            return x
        origin = self.range[0][start]
        low = x.index_select(dim, self.low[start:stop] - origin)
        high = x.index_select(dim, self.high[start:stop] - origin)
        share = self.share[start:stop].view(-1, *(1,) * (x.ndim - 1 - dim))
        return low.lerp_(high, share)


@dataclass(frozen=True)
class Windows:
    """Where windows lie on a picture.

    They start every ``stride`` pixels; the last of a row or column is moved back inside. A side
    shorter than ``window`` has one window, as long as that side.

    Args:
        size: (height, width) of the picture as it is shown.
        window: side of a window.
        stride: step from one window to the next.

    Raises:
        InputError: a stride beyond the window, which would leave pixels out.
    """

    size: tuple[int, int]
    window: int
    stride: int

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.window:
            raise InputError(
                f"the stride must be from 1 to the window of {self.window}, got {self.stride}"
            )

    @property
    def crop(self) -> tuple[int, int]:
        """(height, width) of every window."""
        return min(self.window, self.size[0]), min(self.window, self.size[1])

    @cached_property
    def corners(self) -> list[tuple[int, int]]:
        """(top, left) of every window, row by row."""
        tops, lefts = (self._starts(length) for length in self.size)
        return [(top, left) for top in tops for left in lefts]

    def _starts(self, length: int) -> list[int]:
        steps = max(length - self.window + self.stride - 1, 0) // self.stride + 1
        return [min(i * self.stride, max(length - self.window, 0)) for i in range(steps)]

    def cut(self, image: Float[Tensor, "3 H W"]) -> Float[Tensor, "N 3 y x"]:
        """Cut the windows out of the picture."""
        height, width = self.crop
        return torch.stack(
            [image[:, top : top + height, left : left + width] for top, left in self.corners]
        )


@dataclass(frozen=True, eq=False)
class View:
    """What a model says of a picture that it was shown: logits of every window, not yet read out.

    Args:
        logits: of the windows, on their patch grids.
        windows: where they lie.
        bias: γ for seen classes, 0 for the others.
        side: of square crops, the pixels at which σ is taken: the window of the training.
        flipped: the picture was shown mirrored.
        weight: how often the view counts among others.
    """

    logits: Float[Tensor, "N C h w"]
    windows: Windows
    bias: Float[Tensor, " C"]
    side: int
    flipped: bool = False
    weight: int = 1

    def of(self, classes: Integer[Tensor, " G"]) -> "View":
        """Return the same view of some classes only."""
        return replace(self, logits=self.logits[:, classes], bias=self.bias[classes])

    @cached_property
    def _cells(self) -> Float[Tensor, "N h w C"]:
        """Classes last: what is done to a pixel is done to many numbers in a row."""
        return self.logits.permute(0, 2, 3, 1).contiguous()

    @cached_property
    def _sides(self) -> tuple[tuple[Resizing, Resizing], ...]:
        """Return how rows and columns of a grid become the window's, and then the crop's.

        Of a square crop σ is taken at the size of the training's windows, as the authors do, and
        the crop's comes after. Other crops, which their code cannot take, are read out at their own
        size.
        """
        crop, device = self.windows.crop, self.logits.device
        fine = (self.side, self.side) if crop[0] == crop[1] else crop
        grid = self.logits.shape[2:]
        return tuple(
            (Resizing(grid[i], fine[i], device), Resizing(fine[i], crop[i], device)) for i in (0, 1)
        )

    def _overlaps(
        self, rows: tuple[int, int], columns: tuple[int, int]
    ) -> Iterator[tuple[int, tuple[slice, slice], list[tuple[int, int]]]]:
        """Yield, per window on a rectangle, its number, where in it, and which of its pixels."""
        for number, corner in enumerate(self.windows.corners):
            own, place = [], []
            for (start, stop), origin, length in zip(
                (rows, columns), corner, self.windows.crop, strict=True
            ):
                low, high = max(start, origin), min(stop, origin + length)
                own.append((low - origin, high - origin))
                place.append(slice(low - start, high - start))
            if all(low < high for low, high in own):
                yield number, (place[0], place[1]), own

    def _near(self, number: int, own: Sequence[tuple[int, int]]) -> Float[Tensor, "h w C"]:
        """Return the logits that some pixels of a window are made of."""
        near = self._cells[number]
        for axis, (side, range_) in enumerate(zip(self._sides, own, strict=True)):
            first, last = side[0].reads(*side[1].reads(*range_))
            near = near.narrow(axis, first, last - first)
        return near

    def scores(
        self, rows: tuple[int, int], columns: tuple[int, int], classes: Tensor | None = None
    ) -> Float[Tensor, "y x G"]:
        """Score classes, by default all, on a rectangle (from, to) of the picture as shown."""
        bias = self.bias if classes is None else self.bias[classes]
        shape = (rows[1] - rows[0], columns[1] - columns[0])
        parts = []
        for number, place, own in self._overlaps(rows, columns):
            scores = self._near(number, own)
            if classes is not None:
                scores = scores.index_select(2, classes)
            for axis, (side, range_) in enumerate(zip(self._sides, own, strict=True)):
                scores = side[0].part(scores, *side[1].reads(*range_), dim=axis)
            scores = scores.sigmoid().sub_(bias)
            for axis, (side, range_) in enumerate(zip(self._sides, own, strict=True)):
                scores = side[1].part(scores, *range_, dim=axis)
            parts.append((place, scores))
        if len(parts) == 1:
            return parts[0][1]
        total, count = bias.new_zeros(*shape, len(bias)), bias.new_zeros(*shape, 1)
        for place, scores in parts:
            total[place] += scores
            count[place] += 1
        return total.div_(count)

    def rivals(self, rows: tuple[int, int], columns: tuple[int, int]) -> Integer[Tensor, " G"]:
        """Return the classes that may be the best somewhere on a rectangle, in order."""
        near = [self._near(number, own) for number, _, own in self._overlaps(rows, columns)]
        least = torch.stack([one.amin(dim=(0, 1)) for one in near]).amin(dim=0)
        most = torch.stack([one.amax(dim=(0, 1)) for one in near]).amax(dim=0)
        least, most = least.sigmoid() - self.bias, most.sigmoid() - self.bias
        return (most >= least.max() - _SLACK).nonzero()[:, 0]


@torch.inference_mode()
def score_map(view: View) -> Float[Tensor, "C H W"]:
    """Score every class at every pixel of the picture as it was shown."""
    height, width = view.windows.size
    return view.scores((0, height), (0, width)).permute(2, 0, 1)


class Enlarged:
    """A view at the pixels of the picture, not of what was shown of it.

    Args:
        view: what was seen.
        size: (height, width) of the picture.
    """

    def __init__(self, view: View, size: tuple[int, int]) -> None:
        self.view = view
        self.width = size[1]
        self._sides = [
            Resizing(shown, to, view.logits.device)
            for shown, to in zip(view.windows.size, size, strict=True)
        ]

    def _shown(self, tile: Tile) -> list[tuple[int, int]]:
        """Return the rows and columns shown that a tile is made of."""
        return [
            side.reads(*range_) for side, range_ in zip(self._sides, self._turn(tile), strict=True)
        ]

    def _turn(self, tile: Tile) -> Tile:
        rows, (left, right) = tile
        return rows, (self.width - right, self.width - left) if self.view.flipped else (
            left,
            right,
        )

    def scores(self, tile: Tile, classes: Tensor) -> Float[Tensor, "y x G"]:
        """Score classes at the pixels of a tile."""
        rows, columns = self._shown(tile)
        scores = self.view.scores(rows, columns, classes)
        for axis, (side, range_) in enumerate(zip(self._sides, self._turn(tile), strict=True)):
            scores = side.part(scores, *range_, dim=axis)
        return scores.flip(1) if self.view.flipped else scores

    def rivals(self, tile: Tile) -> tuple[Integer[Tensor, " G"], int]:
        """Return the classes that may be the best in a tile, and how many pixels they cost."""
        shown, after = self._shown(tile), area(tile)
        pixels = area((shown[0], shown[1]))
        if self.view.logits.device.type != "cpu":  # a GPU would wait for the answer
            classes = torch.arange(len(self.view.bias), device=self.view.logits.device)
            return classes, max(pixels, after)
        return self.view.rivals(*shown), pixels if self._sparse(tile) else max(pixels, after)

    def _sparse(self, tile: Tile) -> bool:
        """Tell whether many of a tile's pixels lie between the same four that were shown."""
        rows, columns = self._shown(tile)
        return self.view.logits.device.type == "cpu" and area(tile) > 2 * area((rows, columns))

    def best(
        self, tile: Tile, classes: Integer[Tensor, " G"]
    ) -> tuple[Float[Tensor, "y x"], Integer[Tensor, "y x"]]:
        """Return the best score at every pixel of a tile, and whose of some classes it is.

        Equal scores go to the class that comes first.
        """
        if not self._sparse(tile):
            values, places = self.scores(tile, classes).max(dim=2)
            return values, classes[places]
        rows, columns = self._shown(tile)
        scores = self.view.scores(rows, columns, classes)
        sides = zip(self._sides, self._turn(tile), strict=True)
        down, across = (side.between(*range_) for side, range_ in sides)
        values, places = best_between(scores, down, across)
        if self.view.flipped:
            values, places = values.flip(1), places.flip(1)
        return values, classes[places]


def area(tile: Tile) -> int:
    """Return how many pixels a tile has."""
    (top, bottom), (left, right) = tile
    return (bottom - top) * (right - left)


Between = tuple[Tensor, Tensor]
"""Of pixels after a resizing: which one before each follows, and its share of the way to the next
one before."""


def best_between(
    scores: Float[Tensor, "y x G"], rows: Between, columns: Between
) -> tuple[Float[Tensor, "h w"], Integer[Tensor, "h w"]]:
    """Enlarge scores and return the best at every pixel, and its place among the classes.

    Between four pixels no class scores more than at its best of them, nor less than at its worst:
    those that cannot win there are not enlarged.
    """
    corners = [scores, next_along(scores, 0), next_along(scores, 1)]
    corners.append(next_along(corners[1], 1))
    most, least = corners[0], corners[0]
    for corner in corners[1:]:
        most, least = torch.maximum(most, corner), torch.minimum(least, corner)
    y, x, candidate = (most >= least.amax(dim=2, keepdim=True) - _SLACK).nonzero().unbind(dim=1)
    cell = y * scores.shape[1] + x
    counts = torch.bincount(cell, minlength=scores.shape[0] * scores.shape[1])
    first = counts.cumsum(0) - counts
    # the candidates of a cell in order, then the first of them again
    listed = candidate[first][:, None].repeat(1, int(counts.max()))
    listed[cell, torch.arange(len(cell)) - first[cell]] = candidate
    listed = listed.view(*scores.shape[:2], -1)
    corners = [corner.gather(2, listed) for corner in corners]

    (low, down), (left, across) = rows, columns
    step = max(1, _SCORES["cpu"] // (len(left) * listed.shape[2]))
    values, places = [], []
    for some, share in zip(low.split(step), down.split(step), strict=True):
        upper, lower, upper_right, lower_right = (corner[some] for corner in corners)
        share = share.view(-1, 1, 1)
        here, beside = upper.lerp(lower, share), upper_right.lerp(lower_right, share)
        value, winner = here[:, left].lerp(beside[:, left], across.view(-1, 1)).max(dim=2)
        values.append(value)
        places.append(listed[some][:, left].gather(2, winner[..., None])[..., 0])
    return torch.cat(values), torch.cat(places)


def next_along(x: Float[Tensor, "y x G"], axis: int) -> Float[Tensor, "y x G"]:
    """Return at every pixel what stands at the next one; the last keeps its own."""
    length = x.shape[axis]
    return torch.cat([x.narrow(axis, 1, length - 1), x.narrow(axis, length - 1, 1)], dim=axis)


def halve(tile: Tile) -> list[Tile]:
    """Cut a tile across its longer side; a single pixel stays whole."""
    rows, columns = tile
    if rows[1] - rows[0] > columns[1] - columns[0]:
        middle = sum(rows) // 2
        return [((rows[0], middle), columns), ((middle, rows[1]), columns)]
    middle = sum(columns) // 2
    if middle == columns[0]:
        return [tile]
    return [(rows, (columns[0], middle)), (rows, (middle, columns[1]))]


@torch.inference_mode()
def find_best(
    view: View, size: tuple[int, int]
) -> tuple[Integer[np.ndarray, "H W"], Float[np.ndarray, "H W"]]:
    """Return the best class of each pixel of a picture of (height, width), and its score.

    Equal scores go to the class that comes first. Tiles are halved until what is left to compare in
    one fits into caches.
    """
    enlarged = Enlarged(view, size)
    mask = torch.zeros(size, dtype=torch.long)
    best = torch.full(size, -torch.inf)
    most = _SCORES.get(view.logits.device.type, 2**22)
    tiles: list[Tile] = [((0, size[0]), (0, size[1]))]
    while tiles:
        tile = tiles.pop()
        classes, pixels = enlarged.rivals(tile)
        place = slice(*tile[0]), slice(*tile[1])
        if len(classes) * pixels > most and pixels > _SMALLEST:
            tiles += halve(tile)
            continue
        for group in classes.split(max(1, most // pixels)):
            values, winners = (found.cpu() for found in enlarged.best(tile, group))
            better = values > best[place]
            best[place] = torch.where(better, values, best[place])
            mask[place] = torch.where(better, winners, mask[place])
    return mask.numpy(), best.numpy()


@torch.inference_mode()
def find_likeliest(
    views: Sequence[View], size: tuple[int, int]
) -> tuple[Integer[np.ndarray, "H W"], Float[np.ndarray, "H W"]]:
    """Return the class of each pixel that several views find likeliest on average, and how likely.

    As the authors do it: the mean of a softmax over the classes of each view's scores.
    """
    weight = sum(view.weight for view in views)
    mask = np.zeros(size, np.int64)
    best = np.zeros(size, np.float32)
    for place, total in _add(views, size, likely=True):
        values, winners = total.max(dim=2)
        mask[place], best[place] = winners.cpu().numpy(), (values / weight).cpu().numpy()
    return mask, best


@torch.inference_mode()
def find_margins(
    views: Sequence[View], size: tuple[int, int], labels: Sequence[str]
) -> Float[np.ndarray, "H W"]:
    """Return how far each pixel's best score is above its second best; the best of a sole label.

    Args:
        views: one, whose scores are compared, or several, whose mean probabilities are.
        size: (height, width) of the picture.
        labels: of every class; those of one label do not compete.
    """
    weight = sum(view.weight for view in views)
    margins = np.zeros(size, np.float32)
    names = list(dict.fromkeys(labels))
    homes = torch.tensor([names.index(label) for label in labels], device=views[0].logits.device)
    for place, total in _add(views, size, likely=len(views) > 1):
        if len(names) < len(labels):
            least = total.new_full((*total.shape[:2], len(names)), -torch.inf)
            total = least.scatter_reduce(2, homes.expand_as(total), total, "amax")
        first, *second = total.topk(min(2, len(names)), dim=2).values.unbind(dim=2)
        margins[place] = ((first - sum(second)) / weight).cpu().numpy()
    return margins


def _add(
    views: Sequence[View], size: tuple[int, int], *, likely: bool
) -> Iterator[tuple[tuple[slice, slice], Float[Tensor, "y x C"]]]:
    """Yield tiles of a picture, and every class's scores, or likelihoods, of all views there."""
    everywhere = [Enlarged(view, size) for view in views]
    classes = torch.arange(len(views[0].bias), device=views[0].logits.device)
    most = _SCORES.get(classes.device.type, 2**22)
    tiles: list[Tile] = [((0, size[0]), (0, size[1]))]
    while tiles:
        tile = tiles.pop()
        if len(classes) * area(tile) > most and area(tile) > 1:
            tiles += halve(tile)
            continue
        scores = (one.scores(tile, classes) for one in everywhere)
        if likely:
            scores = (some.softmax(dim=2) for some in scores)
        total = sum(some.mul_(view.weight) for some, view in zip(scores, views, strict=True))
        assert isinstance(total, Tensor)
        yield (slice(*tile[0]), slice(*tile[1])), total


def view_sides(short_side: int) -> dict[int, int]:
    """Return the short sides at which a picture is looked at several times, and how often each.

    As the authors' ``--aug-test`` does it, which is not what it seems: ratios scale the side, but
    the configurations' ``min_size``, the same side, holds it from below. So the ratios under 1 are
    that side three times over: of 512 come 512 (three times), 640, 768 and 896.
    """
    sides = [max(short_side, int(ratio * short_side)) for ratio in RATIOS]
    return {side: sides.count(side) for side in sides}
