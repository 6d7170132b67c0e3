"""Slow loops, written from the papers, that the fast code is compared with."""

import math

import numpy as np
import torch
from torch import Tensor


def focal(logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> float:
    """Focal loss: mean over pixels, sum over images and classes."""
    total = 0.0
    for b in range(logits.shape[0]):
        for c in range(logits.shape[1]):
            pixels = []
            for y in range(logits.shape[2]):
                for x in range(logits.shape[3]):
                    p = 1 / (1 + math.exp(-logits[b, c, y, x].item()))
                    inside = target[b, y, x].item() == c
                    p_t = p if inside else 1 - p
                    alpha_t = alpha if inside else 1 - alpha
                    pixels.append(-alpha_t * (1 - p_t) ** gamma * math.log(p_t))
            total += sum(pixels) / len(pixels)
    return total


def dice(logits: Tensor, target: Tensor) -> float:
    """Dice loss over the (image, class) pairs that are there."""
    total = 0.0
    for b in range(logits.shape[0]):
        for c in sorted(set(target[b].flatten().tolist())):
            if c >= logits.shape[1]:
                continue
            overlap = both = 0.0
            for y in range(logits.shape[2]):
                for x in range(logits.shape[3]):
                    p = 1 / (1 + math.exp(-logits[b, c, y, x].item()))
                    m = float(target[b, y, x].item() == c)
                    overlap += p * m
                    both += p + m
            total += 1 - (2 * overlap + 1) / (both + 1)
    return total


def boundary_counts(prediction: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Boundary IoU's counts, class by class and pixel by pixel: labelled, predicted, both."""
    height, width = labels.shape
    reach = max(1, round(0.02 * math.hypot(height, width)))
    valid = labels != 255

    def is_boundary(mask: np.ndarray, y: int, x: int) -> bool:
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                inside = 0 <= y + dy < height and 0 <= x + dx < width
                if not inside or (valid[y + dy, x + dx] and not mask[y + dy, x + dx]):
                    return True
        return False

    counts = np.zeros((3, classes), np.int64)
    for c in range(classes):
        for y in range(height):
            for x in range(width):
                if not valid[y, x]:
                    continue
                mine = labels[y, x] == c and is_boundary(labels == c, y, x)
                yours = prediction[y, x] == c and is_boundary(prediction == c, y, x)
                counts[:, c] += mine, yours, mine and yours
    return counts


def calibration_error(hits: list[bool], scores: list[float], bins: int = 15) -> float:
    """ECE: for each bin of scores, |mean score - share right|, weighted by its pixels."""
    total = 0.0
    for b in range(bins):
        inside = [i for i, s in enumerate(scores) if min(int(s * bins), bins - 1) == b]
        if inside:
            confidence = sum(scores[i] for i in inside) / len(inside)
            right = sum(hits[i] for i in inside) / len(inside)
            total += len(inside) * abs(confidence - right)
    return total / len(scores)


def components(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """The 8-connected components of a mask, as sets of pixels."""
    left = {(y, x) for y, x in np.argwhere(mask).tolist()}
    found = []
    while left:
        edge = [left.pop()]
        component = set(edge)
        while edge:
            y, x = edge.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            component |= near
            edge += near
        found.append(component)
    return found


def size_counts(
    prediction: np.ndarray, labels: np.ndarray, classes: int, begins: tuple[int, int, int]
) -> np.ndarray:
    """Of each class and bin: components, found ones, pixels, hit ones, false ones charged to it.

    SegmentMeIfYouCan's sIoU component by component; for false pixels, the same of whole bins.
    """

    def size(component: set[tuple[int, int]]) -> int:
        return sum(len(component) >= area for area in begins)

    def siou(k: set[tuple[int, int]]) -> float:
        touching = set().union(*(p for p in predicted if p & k))
        others = everything - k
        return len(k & touching) / len((k | touching) - others)

    counts = np.zeros((5, classes, 4), np.int64)
    for c in range(classes):
        labelled = components(labels == c)
        predicted = components((prediction == c) & (labels != 255))
        everything = set().union(*labelled)
        scored = set().union(*(k for k in labelled if size(k)))
        for b in range(4):
            mine = [k for k in labelled if size(k) == b]
            mine_all = set().union(*mine)
            charged = [
                p for p in predicted if (size(p) == b if not p & scored else b and p & mine_all)
            ]
            counts[:, c, b] = (
                len(mine),
                sum(siou(k) >= 0.5 for k in mine),
                len(mine_all),
                len(mine_all & set().union(*predicted)),
                len(set().union(*charged) - everything),
            )
    return counts


def attention_scores(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """Mean over heads of scaled dot products, a head at a time: (C, D), (L, D) → (C, L)."""
    size = q.shape[1] // heads
    total = torch.zeros(len(q), len(k))
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for i in range(len(q)):
            for j in range(len(k)):
                total[i, j] += torch.dot(q[i, part], k[j, part]) / math.sqrt(size)
    return total / heads


def bilinear(grid: Tensor, height: int, width: int) -> Tensor:
    """Bilinear resize of one channel (h, w), corners not aligned, no antialiasing."""
    rows, columns = grid.shape
    out = torch.zeros(height, width, dtype=grid.dtype)
    for y in range(height):
        for x in range(width):
            v = min(max((y + 0.5) * rows / height - 0.5, 0), rows - 1)
            u = min(max((x + 0.5) * columns / width - 0.5, 0), columns - 1)
            top, left = int(v), int(u)
            bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            dy, dx = v - top, u - left
            upper = grid[top, left] * (1 - dx) + grid[top, right] * dx
            lower = grid[bottom, left] * (1 - dx) + grid[bottom, right] * dx
            out[y, x] = upper * (1 - dy) + lower * dy
    return out


def iou(prediction: np.ndarray, labels: np.ndarray, num_classes: int) -> list[float]:
    """Intersection over union of each class over a list of pictures; NaN where there is neither."""
    result = []
    for c in range(num_classes):
        hit = union = 0
        for p, t in zip(prediction.ravel().tolist(), labels.ravel().tolist(), strict=True):
            if t == 255:
                continue
            hit += p == c and t == c
            union += p == c or t == c
        result.append(hit / union if union else float("nan"))
    return result


def region_of(y: int, x: int, height: int, width: int, side: int) -> int:
    """The region a patch lies in: the cell of a side × side grid over height × width patches."""
    return (y * side // height) * side + x * side // width


def sees(a: int, b: int, grid: tuple[int, int], side: int, before: int) -> bool:
    """Whether token a attends to token b in CLIP-RC: [class token, prompts, patches, regions]."""
    height, width = grid
    patches = range(before, before + height * width)

    def region(token: int) -> int:
        return region_of(*divmod(token - before, width), height, width, side)

    if a >= patches.stop:
        return a == b or (b in patches and region(b) == a - patches.stop)
    if b >= patches.stop:
        return a in patches and region(a) == b - patches.stop
    return True


def cascade_weights(count: int) -> list[float]:
    """Cascade-CLIP's weights within a group: exp(-d²/2), d blocks from the deepest."""
    return [math.exp(-((count - 1 - i) ** 2) / 2) for i in range(count)]
