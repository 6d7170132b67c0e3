"""Pictures in every form that people have them in."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unseen import pictures
from unseen.errors import InputError
from unseen.pictures import as_array, name

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("words")
    return tmp_path


@pytest.fixture
def site(folder: Path) -> Iterator[str]:
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            if self.path == "/odd.png":
                self.wfile.write(b"no HTTP\r\n\r\n")
            else:
                super().do_GET()

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_every_form_of_a_picture_is_the_same_pixels(folder: Path, site: str):
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    path = folder / "a.png"
    forms = [path, str(path), f"{site}/a.png", Image.open(path), PIXELS, tensor, tensor / 255]
    for form in forms:
        assert (as_array(form) == PIXELS).all()
    assert [name(form) for form in forms[1:5]] == [str(path), f"{site}/a.png", str(path), ""]


def test_addresses_without_a_picture_get_one_sentence(site: str, monkeypatch):
    with pytest.raises(InputError, match="none.png cannot be fetched: File not found"):
        as_array(f"{site}/none.png")
    with pytest.raises(InputError, match=f"{site}/b.png is no picture"):
        as_array(f"{site}/b.png")
    with pytest.raises(InputError, match="cannot be fetched"):
        as_array("http://127.0.0.1:1/a.png")
    with pytest.raises(InputError, match="cannot be fetched"):
        as_array("http://[a.png")
    with pytest.raises(InputError, match="my photo.jpg cannot be fetched: .*control characters"):
        as_array(f"{site}/my photo.jpg")
    with pytest.raises(InputError, match="odd.png cannot be fetched: no HTTP$"):
        as_array(f"{site}/odd.png")
    monkeypatch.setattr(pictures, "MOST_BYTES", 20)
    with pytest.raises(InputError, match="more than"):
        as_array(f"{site}/a.png")


def test_pil_images_whose_file_is_broken_get_one_sentence(folder: Path):
    content = (folder / "a.png").read_bytes()
    (folder / "cut.png").write_bytes(content[: len(content) // 2])
    with Image.open(folder / "cut.png") as image:
        with pytest.raises(InputError, match="cut.png is a broken picture"):
            as_array(image)
    with pytest.raises(InputError, match="^this picture: .* no agreed range"):
        as_array(Image.new("F", (4, 4)))


@pytest.mark.parametrize(
    "tensor, says",
    [
        (torch.zeros(5, 7, 3), r"\(3, height, width\)"),
        (torch.zeros(1, 3, 5, 7), r"\(3, height, width\)"),
        (torch.zeros(3, 5, 7, dtype=torch.int32), "int32"),
        (torch.full((3, 5, 7), 2.0), r"must lie in \[0, 1\]"),
        (torch.full((3, 5, 7), torch.nan), r"must lie in \[0, 1\]"),
    ],
)
def test_tensors_that_are_no_pictures_get_one_sentence(tensor: torch.Tensor, says: str):
    with pytest.raises(InputError, match=says):
        as_array(tensor)
