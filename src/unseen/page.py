"""A report as a page: one file of HTML that asks for nothing outside, in ``page.css``'s style.

Whatever comes from names of classes, models or files is escaped.
"""

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from unseen import charts
from unseen.bootstrap import MEASURES
from unseen.drawing import palette
from unseen.metrics import show
from unseen.report import Report, check_folder, shrink, thumbnail_size
from unseen.sizes import BINS, FOUND
from unseen.vocabulary import IGNORE
from unseen.writing import write_folder

SHOWN = 4
"""How many of the best pictures are shown, of the worst, and of those that models differ on."""

MENTIONED = 0.005
"""Share of a picture from which on a class is in its legend."""

LONG = 40
"""A table of more classes than this is cut in two, side by side."""

KINDS = ("right", "wrong", "unseen class given to a seen one", "not labelled, ignored")
"""What a pixel of a map of errors can be."""

# apart in lightness too; what is ignored is striped besides
_KIND_COLOURS = ((226, 232, 238), (230, 159, 0), (88, 20, 92), (176, 176, 176))

_HEADLINES = ("hIoU", "mIoU(S)", "mIoU(U)", "mIoU", "pAcc")


def write_report(report: Report, folder: Path, *, force: bool = False) -> None:
    """Write ``index.html`` and ``report.json``, both or none.

    Args:
        report: what they show.
        folder: where to.
        force: replace a report that is there.

    Raises:
        InputError: as ``check_folder``, which can be asked before all the work; or a full disk.
    """
    check_folder(folder, force=force)
    content = json.dumps(report.to_dict(), indent=1)
    write_folder(folder, {"index.html": html(report), "report.json": content})


def html(report: Report) -> str:
    """Return the page."""
    sections = {
        "Scores": _scores(report),
        "Differences": _differences(report),
        "Classes": _classes(report),
        "Confusion": _confusion(report),
        "Reliability": _reliability(report),
        "Sizes": _sizes(report),
        "Pictures": _pictures(report),
        "Conditions": _conditions(report),
    }
    sections = {title: body for title, body in sections.items() if body}
    title = " against ".join(report.records) if len(report.records) < 3 else "Models compared"
    links = "".join(f'<a href="#{t.lower()}">{t}</a>' for t in sections)
    body = "".join(
        f'<section id="{t.lower()}"><h2>{t}</h2>{content}</section>'
        for t, content in sections.items()
    )
    style = files("unseen").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; img-src data:\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title>'
        f"<style>\n{style}</style></head>\n<body><header><h1>{escape(title)}</h1>"
        f"{_lead(report)}<nav>{links}</nav></header>\n<main>{body}</main>\n"
        '<footer class="quiet">All numbers, with the confusion counts and a score for every '
        'picture, are in <a href="report.json">report.json</a>. '
        f"Written by unseen {escape(version('unseen'))}.</footer></body></html>\n"
    )


def _lead(report: Report) -> str:
    vocabulary, count = report.dataset.vocabulary, len(report.dataset)
    (first, *others) = report.conditions.values()
    unseen = ", ".join(vocabulary.unseen) if others else first["held out"]
    data = f"{count:,} picture{'s' * (count != 1)} of {report.facts['data']}"
    text = f"{data}, {len(vocabulary)} classes. Unseen: {unseen or 'none'}."
    return f'<p class="lead">{escape(text)}</p>'


def _scores(report: Report) -> str:
    tiles = ""
    if len(report.records) == 1:
        (name,) = report.records
        summary = report.scores[name].summary()
        tiles = "".join(
            f"<li><b>{show(summary[column])}</b>{escape(column)}</li>"
            for column in _HEADLINES
            if not np.isnan(summary[column])
        )
        tiles = f'<ul class="tiles">{tiles}</ul>'
    rows = {name: scores.summary() for name, scores in report.scores.items()}
    more = {n: s.details() for n, s in report.scores.items() if s.boundary is not None}
    return (
        tiles
        + _score_table(report, "In percent", rows)
        + _score_table(report, "Beyond the headlines, in percent", more)
    )


def _score_table(report: Report, title: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    columns = [
        column
        for column in next(iter(rows.values()))
        if any(not np.isnan(row[column]) for row in rows.values())
    ]
    body = [
        [_named(report, name), *(show(numbers[column]) for column in columns)]
        for name, numbers in rows.items()
    ]
    return _table(title, ["model", *map(escape, columns)], body)


def _named(report: Report, name: str) -> str:
    key = report.keys.get(name)
    return f"<b>{key}</b> {escape(name)}" if key else escape(name)


def _differences(report: Report) -> str:
    found = report.facts.get("differences")
    if not found:
        return ""
    rows = []
    for name, measures in found["of"].items():
        cells = []
        for measure in MEASURES:
            value, low, high = (measures[measure][k] for k in ("value", "low", "high"))
            if value is None or low is None:
                cells.append("–")
                continue
            strong = ' class="clear"' if low > 0 or high < 0 else ""
            ends = f"{low:+.1f} to {high:+.1f}".replace("-", "−")
            shown = f"{value:+.1f}".replace("-", "−")
            cells.append(f"<span{strong}>{shown}</span><small>{ends}</small>")
        rows.append([_named(report, name), *cells])
    return (
        f"<p>What the others score less what {_named(report, found['to'])} scores, in points of "
        f"percent. For the intervals the {found['pictures']:,} pictures were drawn anew "
        f"{found['resamples']:,} times with replacement, the same ones for both models. "
        "Differences whose interval leaves out 0 are in bold. "
        f"{escape(found['note'].capitalize())}.</p>"
        + _table("Difference, and its 95 % interval", ["model", *MEASURES], rows)
    )


def _classes(report: Report) -> str:
    vocabulary, keys = report.dataset.vocabulary, report.keys
    scores = [report.scores[name] for name in keys]
    iou, found = (
        100 * np.stack([getattr(one, kind) for one in scores], axis=1)
        for kind in ("iou", "accuracy")
    )
    known = np.isfinite(iou).any(axis=1)
    order = np.argsort(-np.nan_to_num(iou[:, 0], nan=-1), kind="stable").tolist()
    tables = []
    for title, names in (("Seen", vocabulary.seen), ("Unseen", vocabulary.unseen)):
        places = set(vocabulary.positions(names))
        rows = [
            _class_row(_class(report, c), list(keys.values()), iou[c], found[c])
            for c in order
            if c in places and known[c]
        ]
        means = ", ".join(
            f"{key} {show(100 * one.mean(one.iou, names))}".strip()
            for key, one in zip(keys.values(), scores, strict=True)
        )
        caption = f"<b>{title}</b>{len(names)} classes, mean IoU {means}"
        half = (len(rows) + 1) // 2
        if len(rows) > LONG:
            tables.append(_class_table(f"{title} half", caption, rows[:half]))
            tables.append(_class_table(title, f"<b>{title}</b>continued", rows[half:]))
        elif rows:
            tables.append(_class_table(title, caption, rows))
    absent = ", ".join(vocabulary.names[c] for c in np.flatnonzero(~known).tolist())
    none = f'<p class="quiet">Neither labelled nor predicted here: {escape(absent)}.</p>'
    return (
        "<p>Sorted by IoU, in percent; the last column is the share of a class's pixels that was "
        "found. Bars of unseen classes are hatched and their names have a star.</p>"
        f'<div class="pair">{"".join(tables)}</div>{none if absent else ""}'
    )


def _class_table(kind: str, caption: str, rows: Sequence[str]) -> str:
    return (
        f'<table class="classes {kind.lower()}"><caption>{caption}</caption><thead><tr>'
        '<th scope="col">class</th><th scope="col">IoU</th><th scope="col">found</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _class_row(
    name: str,
    keys: Sequence[str],
    iou: Float[np.ndarray, " N"],
    found: Float[np.ndarray, " N"],
) -> str:
    bars = "".join(
        f'<div class="bar">{f"<b>{key}</b>" if key else ""}<span>'
        + (f'<i style="width:{value:.1f}%"></i>' if np.isfinite(value) else "")
        + f"</span><em>{show(value)}</em></div>"
        for key, value in zip(keys, iou.tolist(), strict=True)
    )
    shares = "".join(f"<div>{show(value)}</div>" for value in found.tolist())
    return f'<tr><th scope="row">{name}</th><td>{bars}</td><td>{shares}</td></tr>'


def _class(report: Report, c: int) -> str:
    name = report.dataset.vocabulary.names[c]
    return escape(name) + ("*" if name in report.dataset.vocabulary.unseen else "")


def _confusion(report: Report) -> str:
    total = sum(report.scores[name].matrix for name in report.records)
    assert isinstance(total, np.ndarray)
    vocabulary = report.dataset.vocabulary
    shown = charts.most_confused(total, charts.MOST)
    there = int(((total.sum(axis=0) + total.sum(axis=1)) > 0).sum())
    note = (
        "What became of each class's pixels: labels in rows, predictions in columns, in "
        "percent of the row. Blue on the diagonal is right, orange beside it wrong; unseen "
        "classes, with a star, come last, behind the line."
    )
    if len(shown) < there:
        note += (
            f" Of {there} classes these are the {len(shown)} with the largest confusions; "
            "report.json has all."
        )
    parts = [f"<p>{note}</p>"]
    for i, (name, key) in enumerate(report.keys.items()):
        matrix = report.scores[name].matrix
        drawn = charts.heat_map_svg(matrix, vocabulary.names, vocabulary.unseen, shown)
        pairs = [
            [_class(report, label), _class(report, given), f"{100 * share:.1f}"]
            for label, given, share in charts.confusions(matrix)[:12]
        ]
        part = (
            f'<div class="side">{_scroll("Confusion", drawn)}'
            + _table("Largest confusions", ["label", "given to", "of it, %"], pairs, kind="pairs")
            + "</div>"
        )
        if key:
            opened = " open" if i == 0 else ""
            part = f"<details{opened}><summary>{_named(report, name)}</summary>{part}</details>"
        parts.append(part)
    return "".join(parts)


def _reliability(report: Report) -> str:
    figures = []
    for name in report.records:
        bins = report.scores[name].reliability_by_bin
        if bins is None:
            continue
        error = show(100 * report.scores[name].calibration_error)
        figures.append(
            f"<figure>{charts.reliability_svg(bins)}<figcaption>{_named(report, name)}: "
            f"ECE {error} %</figcaption></figure>"
        )
    if not figures:
        return ""
    return (
        "<p>How far the scores can be taken at their word: a point for each bin of scores, at "
        "its mean score and the share of its pixels that is right. On the dashed line both "
        "agree. The wider a bar, the more pixels.</p>"
        f'<div class="side">{"".join(figures)}</div>'
    )


def _sizes(report: Report) -> str:
    figures = []
    for name, sizes in report.sizes.items():
        rows = {size: row for size, row in sizes.summary().items() if size in BINS[1:]}
        points = [(size, int(row["components"]), row["recall"] / 100) for size, row in rows.items()]
        figures.append(
            f"<figure>{charts.size_curve_svg(points)}<figcaption>{_named(report, name)}"
            "</figcaption></figure>"
        )
    areas = next(iter(report.sizes.values())).areas.describe()
    return (
        "<p>Which share of the labelled components, the pixels of a class that hang together, is "
        f"found, by their area: {areas}. Found means an sIoU of {FOUND:g} or more; the mean over "
        f'classes.</p><div class="side">{"".join(figures)}</div>'
    )


def _pictures(report: Report) -> str:
    numbers = range(len(report.dataset))
    scores = np.array([[record.score(i) for i in numbers] for record in report.records.values()])
    mean = scores.mean(axis=0)
    known = np.flatnonzero(np.isfinite(mean))
    ranked = known[np.argsort(-mean[known], kind="stable")].tolist()
    best = ranked[: min(SHOWN, (len(ranked) + 1) // 2)]
    worst = ranked[len(best) :][::-1][:SHOWN]
    groups = {"Best": best, "Worst": worst}
    if len(report.records) > 1:
        spread = scores.max(axis=0) - scores.min(axis=0)
        apart = sorted(known.tolist(), key=lambda i: -spread[i])
        taken = {*best, *worst}
        groups["Most different"] = [i for i in apart if i not in taken][:SHOWN]
    key = {kind: _css(colour) for kind, colour in zip(KINDS, _KIND_COLOURS, strict=True)}
    key[KINDS[3]] = f"repeating-linear-gradient(-45deg,{key[KINDS[3]]} 0 3px,#fff 3px 6px)"
    if not report.dataset.vocabulary.unseen:
        del key[KINDS[2]]
    swatches = "".join(
        f'<li><span class="swatch" style="background:{colour}"></span>{kind}</li>'
        for kind, colour in key.items()
    )
    of = "the mean of all models'" if len(report.records) > 1 else "the"
    note = (
        f"By {of} mean IoU over the classes that a picture is labelled with. A class has one "
        "colour and, within a picture, one number; a star marks unseen classes. In the maps of "
        "errors:"
    )
    parts = [f'<p>{note}</p><ul class="key">{swatches}</ul>']
    for title, chosen in groups.items():
        if chosen:
            parts.append(f"<h3>{title}</h3>" + "".join(_picture(report, i) for i in chosen))
    return "".join(parts)


def _picture(report: Report, index: int) -> str:
    """Show a picture, its labels, and each model's prediction and errors, over a legend."""
    sample, records = report.dataset[index], report.records
    name, truth = sample.name, shrink(sample.labels)
    counts = np.stack([record.count(index) for record in records.values()])
    labelled, predicted = counts[0, 1], counts[:, 2].max(axis=0)
    largest = np.maximum(labelled, predicted)
    enough = np.flatnonzero(largest >= MENTIONED * labelled.sum()).tolist()
    order = sorted(enough, key=lambda c: (-labelled[c], -predicted[c]))
    numbers = {c: i for i, c in enumerate(order, start=1)}
    vocabulary = report.dataset.vocabulary
    unseen = np.isin(np.arange(256), vocabulary.positions(vocabulary.unseen))
    colours = palette(len(vocabulary))
    figures = [
        _figure(_photo(sample.image, name), "picture"),
        _figure(_mask_svg(truth, colours, numbers, f"labels of {name}"), "labels"),
    ]
    for i, (model, key) in enumerate(report.keys.items()):
        who, mask = f"{key}: " if key else "", records[model].mask(index)
        painted = _mask_svg(mask, colours, numbers, f"{who}prediction for {name}")
        wrong = _error_svg(truth, mask, unseen, f"{who}errors in {name}")
        share = 1 - counts[i, 0].sum() / labelled.sum()
        figures.append(_figure(painted, f"{who}prediction", kind="later" if i else ""))
        figures.append(_figure(wrong, f"{who}errors, {100 * share:.0f} % of the pixels"))

    def each(values: Iterable[float]) -> str:
        shown = zip(report.keys.values(), values, strict=True)
        return ", ".join(f"{key} {show(100 * value)}".strip() for key, value in shown)

    ious = [record.iou(index) for record in records.values()]
    entries = []
    for c, number in numbers.items():
        share = labelled[c] / labelled.sum()
        text = f"{100 * share:.0f} % of the labels, IoU {each(iou[c] for iou in ious)}"
        swatch = f"background:{_css(colours[c])};color:{_readable(colours[c])}"
        entries.append(
            f'<li><span class="swatch" style="{swatch}">{number}</span><span>{_class(report, c)} '
            f"<small>{text if share else 'not labelled here'}</small></span></li>"
        )
    legend = f'<ul class="legend">{"".join(entries)}</ul>'
    several = len(records) > 1
    grid = f'<div class="grid" style="--rows:{len(records) - 1}">{"".join(figures)}'
    body = f"{grid}{legend}</div>" if several else f"{grid}</div>{legend}"
    score = each(record.score(index) for record in records.values())
    title = f'{escape(name)} <span class="quiet">mean IoU {score}</span>'
    return f"<article><h4>{title}</h4>{body}</article>"


def _conditions(report: Report) -> str:
    titles = dict.fromkeys(t for rows in report.conditions.values() for t in rows)
    body = [
        [escape(title), *(escape(rows.get(title, "–")) for rows in report.conditions.values())]
        for title in titles
    ]
    header = [""] + [key for key in report.keys.values() if key]
    return _table("Conditions", header if header[1:] else [], body, kind="conditions")


def errors(
    truth: UInt8[np.ndarray, "y x"],
    prediction: UInt8[np.ndarray, "y x"],
    unseen: Bool[np.ndarray, " 256"],
) -> UInt8[np.ndarray, "y x"]:
    """Return which of ``KINDS`` each pixel is.

    Args:
        truth: labels, and ``IGNORE``.
        prediction: what was given instead.
        unseen: whether a label is of an unseen class.
    """
    kinds = (truth != prediction).astype(np.uint8)
    kinds[(kinds == 1) & unseen[truth] & ~unseen[prediction]] = 2
    kinds[truth == IGNORE] = 3
    return kinds


def _photo(image: UInt8[np.ndarray, "H W 3"], name: str) -> str:
    size = thumbnail_size(image.shape)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    data = _data_uri(np.asarray(small, np.uint8), "JPEG")
    alt = escape(f"picture {name}")
    return f'<img alt="{alt}" src="{data}" width="{size[0]}" height="{size[1]}">'


def _mask_svg(
    mask: UInt8[np.ndarray, "y x"],
    colours: UInt8[np.ndarray, "C 3"],
    numbers: Mapping[int, int],
    title: str,
) -> str:
    """Draw a mask in its classes' colours, with their numbers where there is room."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    painted = _hatch(table[mask], mask == IGNORE)
    height, width = mask.shape
    marks = []
    large = 0.075 * max(width, height)
    for c, number in numbers.items():
        inside = np.pad((mask == c).astype(np.uint8), 1)
        depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3)
        y, x = np.unravel_index(int(depth.argmax()), depth.shape)
        if depth[y, x] > 0.6 * large:
            marks.append(
                f'<text x="{x - 0.5:g}" y="{y - 0.5 + 0.36 * large:.1f}" '
                f'stroke-width="{large / 5:.1f}" style="font-size:{large:.1f}px">{number}</text>'
            )
    return _picture_svg(painted, title, marks)


def _error_svg(
    truth: UInt8[np.ndarray, "y x"],
    prediction: UInt8[np.ndarray, "y x"],
    unseen: Bool[np.ndarray, " 256"],
    title: str,
) -> str:
    kinds = errors(truth, prediction, unseen)
    painted = _hatch(np.array(_KIND_COLOURS, np.uint8)[kinds], kinds == 3)
    counted = max(int((kinds != 3).sum()), 1)
    parts = [f"{(kinds == k).sum() / counted:.0%} {KINDS[k]}" for k in range(3)]
    return _picture_svg(painted, f"{title}: {', '.join(parts)}", [])


def _hatch(
    painted: UInt8[np.ndarray, "y x 3"], where: Bool[np.ndarray, "y x"]
) -> UInt8[np.ndarray, "y x 3"]:
    """Paint what is ignored in grey stripes, which no class and no kind of error has."""
    rows, columns = np.indices(where.shape)
    period = max(4, max(where.shape) // 40)
    stripes = (rows + columns) % period < period / 2
    painted = painted.copy()
    painted[where] = _KIND_COLOURS[3]
    painted[where & stripes] = 255
    return painted


def _picture_svg(painted: UInt8[np.ndarray, "y x 3"], title: str, marks: Sequence[str]) -> str:
    height, width = painted.shape[:2]
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>"
        f'<image class="small" width="{width}" height="{height}" '
        f'href="{_data_uri(painted, "PNG")}"/>{"".join(marks)}</svg>'
    )


def _data_uri(pixels: UInt8[np.ndarray, "y x 3"], kind: str) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=88, optimize=True)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{text}"


def _figure(content: str, caption: str, *, kind: str = "") -> str:
    shaped = f' class="{kind}"' if kind else ""
    return f"<figure{shaped}>{content}<figcaption>{caption}</figcaption></figure>"


def _table(
    title: str, header: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = ""
) -> str:
    """Lay out cells of HTML as a table that scrolls by itself where it is too wide."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    caption = f"<caption>{escape(title)}</caption>" if kind != "conditions" else ""
    head = f"<thead><tr>{top}</tr></thead>" if header else ""
    shaped = f' class="{kind}"' if kind else ""
    content = f"<table{shaped}>{caption}{head}<tbody>{body}</tbody></table>"
    return _scroll(title, content)


def _scroll(title: str, content: str) -> str:
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(title)}">'
        f"{content}</div>"
    )


def _css(colour: Sequence[int] | UInt8[np.ndarray, " 3"]) -> str:
    return "#" + "".join(f"{int(channel):02x}" for channel in colour)


def _readable(colour: UInt8[np.ndarray, " 3"]) -> str:
    """Return black or white, whichever stands out on a colour."""
    red, green, blue = (float(channel) for channel in colour)
    return "#000" if 0.299 * red + 0.587 * green + 0.114 * blue > 125 else "#fff"
