"""The web page: drop a picture, name what to look for, see where it is (Gradio).

The segmenters do the work. page.js draws what they found, and draws it again for another opacity or
threshold without asking them. Nothing that the page loads comes from another machine.
"""

import html
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

from PIL import Image

from unseen.demo.exchange import (
    MOST_BYTES,
    MOST_LABELS,
    OPACITY,
    data_url,
    describe,
    describe_model,
    find,
    read_upload,
    write_file,
)
from unseen.drawing import palette
from unseen.errors import InputError, require
from unseen.miniature.scenes import EXAMPLES, draw_example
from unseen.ports import find_port
from unseen.segmentation import Segmentation, save_image
from unseen.segmenter import Segmenter
from unseen.vocabulary import MINIATURE

SESSIONS = 4
"""Pages whose last result is kept for downloads."""

LOOKED_FOR = {
    "wall": ("giraffe", "sky", "backpack", "traffic light", "bear", "brick wall"),
    "harbour": ("cow", "sky", "handbag", "sand", "sea", "boat"),
    "snow": ("giraffe", "snow", "bus", "wood floor", "stop sign"),
}
"""What to look for in each of the miniature's ``EXAMPLES``, in an order that gives sky blue."""

DRAWN_SETS = {
    "Animals": ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra"),
    "Traffic": ("car", "bus", "train", "truck", "bicycle", "traffic light", "stop sign", "road"),
    "Landscape": ("sky", "clouds", "grass", "sand", "sea", "snow"),
}
PHOTO_SETS = {
    "Street": ("road", "sidewalk", "building", "car", "person", "tree", "sky"),
    "Room": ("wall", "floor", "window", "table", "chair", "sofa", "lamp", "plant"),
    "Nature": ("sky", "clouds", "tree", "grass", "mountain", "water", "rock", "animal"),
}


# Gradio evaluates templates: nothing that a model or a user says may be put into them
_EXAMPLES = """<div class="examples" role="group" aria-label="Example pictures">{}</div>"""
_EXAMPLE = (
    """<button type="button" name="{0}" aria-label="Example: {0}"><img src="{1}" alt=""></button>"""
)
_LABELS = """<div class="labels"><label for="label">What to look for</label>
<div class="box"><ul></ul><input id="label" list="words" autocomplete="off" enterkeyhint="done"
 placeholder="Type a word, then Enter"></div><datalist id="words"></datalist>
<p class="sets">{}<button type="button" name="clear">Clear</button></p></div>"""
_SLIDERS = """<div class="sliders">
<label>Opacity <output>{opacity:.2f}</output>
<input type="range" min="0" max="1" step="0.05" value="{opacity}"></label>
<label title="Below it, or below the score of models not calibrated: other">
Confidence at least <output>0.00</output>
<input type="range" min="0" max="1" step="0.01" value="0"></label>
<label title="Taken from the scores of classes that training showed">γ, against seen classes
<output>{gamma:.2f}</output>
<input type="range" min="0" max="1" step="0.01" value="{gamma}"></label></div>"""
_SCROLL = """() => document.querySelector(".panels").scrollIntoView({ block: "nearest" })"""
_SAVE_FILE = """(file) => {
  const link = document.createElement("a");
  if (file) Object.assign(link, { href: file.url, download: file.orig_name }).click();
}"""


def build(models: Mapping[str, Segmenter], own: Path, uploads: Path) -> Any:
    """Return the page, a ``gradio.Blocks``.

    Args:
        models: by title; the first is chosen to begin with.
        own: folder for examples and files to be downloaded; gradio gives copies away.
        uploads: where gradio keeps its files, and lets them go after a while.

    Raises:
        MissingExtra: gradio is not installed.
    """
    gr = require("gradio", extra="demo")
    script = files("unseen.demo").joinpath("page.js").read_text(encoding="utf-8")
    first = next(iter(models.values())).config
    sets = DRAWN_SETS if first.vocabulary.name == MINIATURE.name else PHOTO_SETS
    thumbs = []
    for name in EXAMPLES:
        drawn = Image.fromarray(draw_example(name))
        save_image(drawn, own / f"{name}.png")
        thumbs.append(_EXAMPLE.format(name, data_url(drawn.resize((256, 192)))))
    buttons = "".join(f'<button type="button" name="{name}">{name}</button>' for name in sets)

    def segment(
        upload: dict[str, Any] | None, labels: list[str], titles: list[str], gamma: float
    ) -> tuple[Any, Any, Any, str]:
        if upload is None:
            return gr.skip(), *clear()  # one may be on its way meanwhile
        name = upload["orig_name"] or "the picture"
        try:
            image = read_upload(upload["path"], name, uploads)
        except InputError as error:
            return None, None, None, _note(str(error))
        chosen = {title: models[title] for title in titles}
        try:
            results = find(chosen, image, name, labels, gamma)
        except InputError as error:
            return gr.skip(), gr.skip(), gr.skip(), _note(str(error))
        details = [describe_model(segmenter, gamma) for segmenter in chosen.values()]
        return gr.skip(), results, describe(results, details), ""

    def clear() -> tuple[None, None, str]:
        return None, None, _note("drop a picture, or take one of the drawings")

    def pick(name: str) -> tuple[str, list[str]]:
        return str(own / f"{name}.png"), list(LOOKED_FOR[name])

    def write(
        results: dict[str, Segmentation] | None,
        event: gr.EventData,  # type: ignore[name-defined]
    ) -> tuple[str | None, str]:
        if not results:
            return None, _note("The result was let go to save memory: segment once more.")
        title, result = list(results.items())[event.index]
        file = write_file(
            result,
            event.kind,
            Path(mkdtemp(dir=own)),
            title=title,
            opacity=event.opacity,
            threshold=event.threshold,
        )
        return str(file), ""

    with gr.Blocks(analytics_enabled=False, title="unseen", delete_cache=(600, 3600)) as page:
        gr.HTML(
            "<h1>unseen</h1><p class='lead'>Name every pixel of a picture with your own words, "
            "also words whose pixels nobody ever labelled.</p>",
            elem_classes="head",
            apply_default_css=False,
        )
        results, file = gr.State(), gr.DownloadButton(visible="hidden")
        with gr.Row():
            with gr.Column(scale=4, min_width=320):
                picture = gr.Image(
                    str(own / f"{next(iter(EXAMPLES))}.png"),
                    label="Picture",
                    sources=["upload", "clipboard"],
                    placeholder="Drop a picture here, or click to choose one",
                    type="filepath",
                    height=240,
                    buttons=[],
                )
                examples = gr.HTML(
                    "",
                    html_template=_EXAMPLES.format("".join(thumbs)),
                    js_on_load=script + "showExamples(element, props, () => trigger('input'));",
                    elem_classes="unseen",
                    apply_default_css=False,
                )
                labels = gr.HTML(
                    list(LOOKED_FOR[next(iter(EXAMPLES))]),
                    html_template=_LABELS.format(buttons),
                    js_on_load=script
                    + "editLabels(element, props, watch, () => trigger('input'));",
                    elem_classes="unseen",
                    apply_default_css=False,
                    sets=sets,
                    words=first.vocabulary.names,
                    colours=palette(MOST_LABELS + 1).tolist(),
                )
                titles = gr.CheckboxGroup(
                    list(models),
                    value=list(models)[:1],
                    label="Model",
                    info="Two are compared side by side.",
                    visible=len(models) > 1,
                )
                button = gr.Button("Segment", variant="primary")
            with gr.Column(scale=8, min_width=320):
                note = gr.HTML("", elem_classes="note", apply_default_css=False)
                gamma = gr.HTML(
                    first.calibration,
                    html_template=_SLIDERS.format(opacity=OPACITY, gamma=first.calibration),
                    js_on_load=script
                    + "moveSliders(element, props, watch, () => trigger('input'));",
                    elem_classes="unseen",
                    apply_default_css=False,
                )
                shown = gr.HTML(
                    None,
                    html_template='<div class="panels"></div>',
                    js_on_load=script
                    + "showRegions(element, props, watch, (what) => trigger('download', what));",
                    elem_classes="unseen",
                    apply_default_css=False,
                    look={"opacity": OPACITY, "threshold": 0},
                )
        work = {
            "fn": segment,
            "inputs": [picture, labels, titles, gamma],
            "outputs": [picture, results, shown, note],
            "preprocess": False,  # gradio would open the picture first, with messages of its own
            "concurrency_id": "models",
            "show_progress_on": shown,
            "api_visibility": "private",
        }
        gr.on(
            [
                page.load,
                button.click,
                picture.upload,
                labels.input,
                titles.input,
                gamma.input,
            ],
            trigger_mode="always_last",
            **work,
        )
        # told of it, gradio would still pass the picture that was there
        picture.clear(clear, None, [results, shown, note], api_visibility="private")
        picked = examples.input(pick, examples, [picture, labels], api_visibility="private")
        picked.then(**work)
        button.click(None, js=_SCROLL)
        shown.download(write, results, [file, note], api_visibility="private").then(
            None, file, js=_SAVE_FILE
        )
    return page


def _note(sentence: str) -> str:
    if "." not in sentence.split()[0]:  # the name of a file stays as it is
        sentence = sentence[0].upper() + sentence[1:]
    return f'<p role="status">{html.escape(sentence)}</p>'


@contextmanager
def serve(
    models: Mapping[str, Segmenter], *, host: str = "127.0.0.1", port: int = 7860
) -> Iterator[str]:
    """Serve the page while within; what was uploaded is removed at the end.

    Args:
        models: by title; the first is chosen to begin with.
        host: the address to listen at; ``0.0.0.0`` for every one of this machine.
        port: the port; 0 for any that is free.

    Yields:
        the page's address.

    Raises:
        InputError: the address cannot be listened at.
        MissingExtra: gradio is not installed.
    """
    port = find_port(host, port)
    with TemporaryDirectory(prefix="unseen-") as folder:
        own, uploads = Path(folder, "own"), Path(folder, "uploads")
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["GRADIO_TEMP_DIR"] = str(uploads)  # read by every component that is made
        page = build(models, own, uploads)
        gr = require("gradio", extra="demo")
        fonts = ["system-ui", "-apple-system", "Segoe UI", "Helvetica Neue", "Arial", "sans-serif"]
        theme = gr.themes.Base(
            primary_hue="blue",
            neutral_hue="slate",
            radius_size="lg",
            font=fonts,
            font_mono=["ui-monospace", "monospace"],
        ).set(body_text_color_subdued="*neutral_500", block_info_text_color="*neutral_500")
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            pwa=False,
            ssr_mode=False,
            mcp_server=False,
            run_history=False,
            enable_monitoring=False,
            footer_links=[],
            allowed_paths=[],
            max_file_size=MOST_BYTES,
            state_session_capacity=SESSIONS,
            theme=theme,
            css=files("unseen.demo").joinpath("page.css").read_text(encoding="utf-8"),
        )
        try:
            yield address
        finally:
            page.close(verbose=False)
