"""Charts as SVG, for a page that says in its style sheet what the colours are.

Colours are CSS variables: ``--right``, ``--wrong``, ``--line``, ``--ink``, ``--quiet``, ``--page``.
Nothing is told by colour alone: cells and bars carry their numbers, unseen names a star.
"""

from collections.abc import Sequence
from html import escape

import numpy as np
from jaxtyping import Float, Integer

from unseen.metrics import divide

MOST = 40
"""How many classes a heat map shows; of more, those that are most confused."""

_CELL, _NAME = 18, 104  # side of a cell and room for a name, in pixels


def row_shares(matrix: Integer[np.ndarray, "C C"]) -> Float[np.ndarray, "C C"]:
    """Return what share of each class's labelled pixels was given to each; NaN without pixels."""
    total = matrix.sum(axis=1, keepdims=True)
    return divide(matrix, total)


def confusions(matrix: Integer[np.ndarray, "C C"]) -> list[tuple[int, int, float]]:
    """List (label, prediction, share of the label's pixels) of what was confused, most first."""
    shares = np.nan_to_num(row_shares(matrix))
    np.fill_diagonal(shares, 0)
    order = np.argsort(-shares, axis=None, kind="stable")[: np.count_nonzero(shares)]
    return [(i, j, float(shares[i, j])) for i, j in (divmod(int(k), len(matrix)) for k in order)]


def most_confused(matrix: Integer[np.ndarray, "C C"], count: int) -> list[int]:
    """Return the classes of the largest confusions, in label order; those that occur if few do."""
    there = np.flatnonzero(matrix.sum(axis=0) + matrix.sum(axis=1)).tolist()
    if len(there) <= count:
        return there
    chosen: list[int] = []
    for i, j, _ in confusions(matrix):
        new = [c for c in (i, j) if c not in chosen]
        if len(chosen) + len(new) <= count:
            chosen += new
        if len(chosen) == count:
            break
    return sorted(chosen)


def heat_map_svg(
    matrix: Integer[np.ndarray, "C C"],
    names: Sequence[str],
    unseen: Sequence[str],
    shown: Sequence[int],
) -> str:
    """Draw who was taken for whom: labels in rows, predictions in columns, seen before unseen.

    Shares are of all of a row's pixels, also of those given to classes that are not shown.

    Args:
        matrix: pixels by (label, prediction).
        names: the classes.
        unseen: those that get a star.
        shown: positions of the classes to draw.
    """
    shares = row_shares(matrix)
    order = sorted(shown, key=lambda c: (names[c] in unseen, c))
    first_unseen = sum(names[c] not in unseen for c in order)
    side = _CELL * len(order)
    width, height = _NAME + side + 2, _NAME + side + 2
    parts = []
    for k, c in enumerate(order):
        title = names[c] + ("*" if names[c] in unseen else "")
        middle = _NAME + _CELL * k + _CELL / 2
        short = _shorten(title, keep=len(title) - len(names[c]))
        text = f"<title>{escape(title)}</title>{escape(short)}"
        across = f'x="{_NAME - 5}" y="{middle + 3.5:g}" text-anchor="end"'
        upward = f'transform="translate({middle + 3.5:g} {_NAME - 5}) rotate(-90)"'
        parts += [f"<text {place}>{text}</text>" for place in (across, upward)]
    for k, label in enumerate(order):
        top = _NAME + _CELL * k
        if np.isnan(shares[label]).any():
            parts.append(
                f'<rect x="{_NAME}" y="{top}" width="{side}" height="{_CELL}" class="none">'
                f"<title>{escape(names[label])} is labelled nowhere</title></rect>"
            )
            continue
        for n, given in enumerate(order):
            share = shares[label, given]
            if share < 0.005:
                continue
            left, kind = _NAME + _CELL * n, "right" if label == given else "wrong"
            title = f"{names[label]} given to {names[given]}: {share:.1%}"
            parts.append(
                f'<rect x="{left}" y="{top}" width="{_CELL}" height="{_CELL}" '
                f'fill="var(--{kind})" fill-opacity="{0.12 + 0.88 * share:.2f}">'
                f"<title>{escape(title)}</title></rect>"
            )
            strong = "strong" if share > 0.6 else "weak"
            parts.append(
                f'<text x="{left + _CELL / 2:g}" y="{top + _CELL / 2 + 3:g}" class="cell {strong}">'
                f"{100 * share:.0f}</text>"
            )
    place, end = _NAME + _CELL * first_unseen, _NAME + side
    parts.append(f'<rect x="{_NAME}" y="{_NAME}" width="{side}" height="{side}" class="frame"/>')
    if 0 < first_unseen < len(order):
        parts.append(f'<path d="M{place} {_NAME}V{end}M{_NAME} {place}H{end}" class="split"/>')
    title = "Confusion: labels in rows, predictions in columns, in percent of a label's pixels"
    return _svg("heat", width, height, title, parts)


def reliability_svg(reliability: Float[np.ndarray, "3 B"]) -> str:
    """Draw the share of pixels that are right against the score the model gave them.

    Args:
        reliability: by bins of the score: share of the pixels, share right, mean score, as
            ``Scores.reliability_by_bin`` has them.
    """
    width, height, left, bottom = 340.0, 290.0, 44.0, 40.0
    wide, high = width - left - 12, height - bottom - 14
    parts = _axes(left, 14, wide, high, "score the model gave", "share right, %")
    step, largest = wide / reliability.shape[1], reliability[0].max()
    for i, (pixels, right, score) in enumerate(reliability.T.tolist()):
        if not pixels:
            continue
        top = 14 + high * (1 - right)
        title = f"<title>score {score:.2f}: {right:.0%} right, {pixels:.1%} of the pixels</title>"
        # the more pixels, the wider: a bin of few is no evidence
        thick = max(2, (step - 2) * (pixels / largest) ** 0.5)
        parts.append(
            f'<rect x="{left + step * (i + 0.5) - thick / 2:.1f}" y="{top:.1f}" '
            f'width="{thick:.1f}" height="{high * right + 0.5:.1f}" class="bin">{title}</rect>'
            f'<circle cx="{left + wide * score:.1f}" cy="{top:.1f}" r="3.5" class="point">'
            f"{title}</circle>"
        )
    parts.append(f'<path d="M{left} {14 + high}L{left + wide} 14" class="ideal"/>')
    return _svg("plot", width, height, "Reliability: share right by score", parts)


def size_curve_svg(points: Sequence[tuple[str, int, float]]) -> str:
    """Draw how much of regions is found against how large they are.

    Args:
        points: what the size is, how many regions are of it, and their recall in 0..1, NaN where
            there are none; from small to large.
    """
    width, height, left, bottom = 460.0, 300.0, 44.0, 52.0
    wide, high = width - left - 12, height - bottom - 14
    parts = _axes(left, 14, wide, high, "", "share found, %", ticks=False)
    known = []
    for i, (label, components, recall) in enumerate(points):
        x = left + wide * (i + 0.5) / len(points)
        for text, down in ((label, 18), (f"{components:,} regions", 34)):
            place = f'x="{x:.1f}" y="{14 + high + down:.1f}"'
            parts.append(f'<text {place} text-anchor="middle">{escape(text)}</text>')
        if not np.isnan(recall):
            known.append((x, 14 + high * (1 - recall), f"{100 * recall:.1f}"))
    line = "L".join(f"{x:.1f} {y:.1f}" for x, y, _ in known)
    if known:
        parts.append(f'<path d="M{line}" class="curve"/>')
    for x, y, text in known:
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" class="point"/>')
        beside = y + (18 if y < 32 else -10)
        parts.append(f'<text x="{x:.1f}" y="{beside:.1f}" text-anchor="middle">{text}</text>')
    return _svg("plot", width, height, "Share of regions found, by their size", parts)


def _axes(
    left: float, top: float, wide: float, high: float, across: str, up: str, *, ticks: bool = True
) -> list[str]:
    """Draw a frame with lines at quarters; upward always in percent, across in 0..1 if at all."""
    parts = []
    for i in range(5):
        y, x = top + high * (1 - i / 4), left + wide * i / 4
        parts.append(f'<path d="M{left} {y:.1f}h{wide}" class="grid"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{25 * i}</text>')
        if ticks:
            parts.append(
                f'<text x="{x:.1f}" y="{top + high + 16:.1f}" text-anchor="middle">{i / 4:g}</text>'
            )
    middle = top + high / 2
    parts.append(
        f'<text x="{left + wide / 2:.1f}" y="{top + high + 33:.1f}" text-anchor="middle">'
        f"{escape(across)}</text>"
        f'<text transform="translate(11 {middle:.1f}) rotate(-90)" text-anchor="middle">'
        f"{escape(up)}</text>"
    )
    return parts


def _svg(kind: str, width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


def _shorten(name: str, length: int = 17, *, keep: int = 0) -> str:
    """Cut a name to a length, but for so many characters at its end."""
    if len(name) <= length:
        return name
    return name[: length - 1 - keep] + "…" + name[len(name) - keep :]
