"""What ``unseen evaluate`` says of scores."""

import json as json_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unseen.metrics import Scores
    from unseen.report import Record
    from unseen.vocabulary import Vocabulary

NOT_HELD_OUT = {
    "transductive": "their names and which pixels show one of them were known in training",
    "self-training": "their names were known in training, and any pixel without a seen label could "
    "be given one of them",
    "supervised": "their masks were shown in training like all others",
    "training-free": "no masks were shown at all",
}

PROMISED = {
    "pAcc": "pacc",
    "mIoU": "miou",
    "mIoU(S)": "seen",
    "mIoU(U)": "unseen",
    "hIoU": "hiou",
}
"""Columns of scores and the field of ``Expected`` for each."""


def print_curve(curves: "dict[float, Scores]", *, json: bool) -> None:
    """Print what each γ scores, one a line."""
    from unseen.evaluation import best_calibration
    from unseen.metrics import compare, rounded

    rows = {f"{gamma:.2f}": scores.summary() for gamma, scores in curves.items()}
    if json:
        print(json_module.dumps({"curve": {g: rounded(row) for g, row in rows.items()}}, indent=1))
        return
    print(compare(rows, corner="γ"))
    best = best_calibration(curves)
    if best is None:
        print("\nno hIoU: there are no seen classes, or no unseen ones, in this data set")
    else:
        print(f"\nbest hIoU: {100 * curves[best].hiou:.1f} at γ = {best:.2f}")


def hardly_better(scores: "Scores", blind: "Scores") -> str:
    """Return a note on a mIoU near that of chance, the mark of labels in another order.

    Near is less above it than chance itself is above 0, and than a tenth of what is left to 100.
    """
    ours, theirs = (100 * one.mean(one.iou) for one in (scores, blind))
    if not scores.matrix.any():
        return "note: no pixel of these pictures has a label"
    if len(scores.vocabulary) == 1 or ours >= theirs + min(theirs, (100 - theirs) / 10):
        return ""
    where = "hardly above" if ours > theirs else "not above"
    return (
        f"note: mIoU {ours:.1f} is {where} chance, {theirs:.1f}: if the model is trained, it may "
        "have had too few steps ('unseen runs' shows its losses), or its labels may have another "
        "order; look with 'unseen doctor data', 'unseen doctor checkpoint'"
    )


def print_scores(
    scores: "dict[str, Scores]", models: dict[str, dict[str, Any]], about: dict[str, Any]
) -> None:
    from unseen.metrics import compare

    views = f", {about['views']}" if about["views"] != "one" else ""
    unseen = ", ".join(about["unseen"]) or "none"
    if len(models) > 1:
        print(f"{about['pictures']} pictures of {about['data']}{views}; unseen classes: {unseen}")
        for title, one in models.items():
            print(f"{title}: {_shown(one)}{held_out(one, about)}")
        print()
    else:
        (one,) = models.values()
        print(f"{about['pictures']} pictures of {about['data']}{views}; {_shown(one)}")
        print(f"unseen classes: {unseen}{held_out(one, about)}\n")
    if about["words"]:
        said = (f"{label} as {', '.join(words)}" for label, words in about["words"].items())
        print(f"looked for: {'; '.join(said)}\n")
    rows: dict[str, dict[str, float | None]] = {t: {**s.summary()} for t, s in scores.items()}
    if promised := about["expected"]:
        known = {title: promised[field] for title, field in PROMISED.items()}
        rows[f"expected of {about['recipe']}"] = {
            column: known.get(column) for column in next(iter(rows.values()))
        }
    print(compare(rows) + "\n")
    if "differences" in about:
        _print_differences(about["differences"])
    if promised and promised["note"]:
        print(f"expected: {promised['note']}\n")
    print(compare({t: s.details() for t, s in scores.items() if s.boundary is not None}) + "\n")
    print(_classes({title: scores[title] for title in models}))


def _shown(model: dict[str, Any]) -> str:
    return (
        f"{model['setting']}, γ = {model['calibration']:g}, {model['device']}; short side "
        f"{model['short_side']}, windows of {model['window']} every {model['stride']}"
    )


def _classes(scores: "dict[str, Scores]") -> str:
    """Lay out the classes: a model's, or the IoU of several models side by side."""
    from unseen.metrics import compare

    if len(scores) == 1:
        return next(iter(scores.values())).table()
    rows = {
        name + (" (unseen)" if facts["unseen"] else ""): {
            title: one.to_dict()["classes"][name]["IoU"] for title, one in scores.items()
        }
        for name, facts in next(iter(scores.values())).to_dict()["classes"].items()
    }
    return compare(rows, corner="IoU, %")


def held_out(model: dict[str, Any], about: dict[str, Any]) -> str:
    """Return, in brackets, what must be known of a model to take its unseen classes for unseen."""
    if not about["unseen"]:
        return " (every class counts as seen)"
    facts = []
    if model["trained_on"] not in ("", about["vocabulary"]):
        facts.append(f"the split of {about['vocabulary']}; training was on {model['trained_on']}")
    elif model["setting"] in NOT_HELD_OUT:
        facts.append(NOT_HELD_OUT[model["setting"]])
    if model["shown"] and model["setting"] != "supervised":
        facts.append(f"it, or its start, was shown masks of {', '.join(model['shown'])}")
    return f" ({'; '.join(facts)})" if facts else ""


def find_differences(records: "dict[str, Record]", vocabulary: "Vocabulary") -> dict[str, Any]:
    """Return, as JSON takes it, how far the other models differ from the first."""
    from unseen.bootstrap import RESAMPLES, compare_paired
    from unseen.metrics import rounded

    first, *others = records
    of = {
        name: compare_paired(records[first].counts, records[name].counts, vocabulary)
        for name in others
    }
    return {
        "to": first,
        "pictures": len(records[first].names),
        "resamples": RESAMPLES,
        "note": "intervals are over pictures, one training each: they say nothing of other seeds",
        "of": {n: {m: rounded(d._asdict()) for m, d in found.items()} for n, found in of.items()},
    }


def _print_differences(found: dict[str, Any]) -> None:
    from unseen.bootstrap import MEASURES
    from unseen.metrics import markdown

    rows = []
    for name, measures in found["of"].items():
        cells = [
            "–"
            if None in (one := measures[measure]).values()
            else f"{one['value']:+.1f} ({one['low']:+.1f} to {one['high']:+.1f})"
            for measure in MEASURES
        ]
        rows.append([name, *cells])
    print(markdown([f"less {found['to']}", *MEASURES], rows))
    print(
        f"\n95 % intervals in points, from {found['resamples']} paired resamples of "
        f"{found['pictures']} pictures; {found['note']}\n"
    )
