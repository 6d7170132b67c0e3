"""The documentation as a site: built without a warning, whole, with no request to the outside."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import unquote

import pytest

import unseen

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def list_pages(nav: list) -> list[str]:
    """Return the pages of a navigation, in order."""
    pages = []
    for entry in nav:
        for target in entry.values():
            pages += [target] if isinstance(target, str) else list_pages(target)
    return pages


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Return the built site."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(DOCS, folder / "docs")
    shutil.copy(ROOT / "zensical.toml", folder)
    (folder / "src").symlink_to(ROOT / "src")
    program = Path(sys.executable).parent / "zensical"
    built = subprocess.run(
        [program, "build", "--strict"], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert built.returncode == 0, built.stdout[-5000:] + built.stderr[-2000:]
    return folder / "site"


def test_every_page_is_in_the_navigation_and_built(site):
    nav = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]
    pages = list_pages(nav)
    assert sorted(pages) == sorted(path.name for path in DOCS.glob("*.md"))
    for page in pages:
        assert (site / page).with_suffix(".html").is_file()


def test_every_link_of_the_site_leads_somewhere(site):
    anchors = {
        page.name: set(re.findall(r'\bid="([^"]+)"', page.read_text(encoding="utf-8")))
        for page in site.glob("*.html")
    }
    for page in site.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r'\b(?:href|src)="([^"]+)"', text):
            if re.match(r"https?:", target) or page.name == "404.html":
                continue
            file, _, anchor = unquote(target).partition("#")
            assert not file or (site / file).exists(), f"{page.name}: {target}"
            if anchor and (not file or file.endswith(".html")):
                place = (site / file).resolve().name if file else page.name
                assert anchor in anchors[place], f"{page.name}: {target}"


def test_the_site_asks_for_nothing_outside(site):
    for page in site.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        for tag in re.findall(r"<(?:script|link|img|iframe|source|video)\b[^>]*>", text):
            address = re.search(r'\b(?:src|href|srcset)="([^"]+)"', tag)
            assert address is None or not re.match(r"(https?:)?//", address[1]), tag
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", sheet.read_text("utf-8"))


def test_the_reference_has_every_public_name_once(site):
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: unseen\.(\w+)$", text, re.MULTILINE)) == unseen.__all__
    built = (site / "api.html").read_text(encoding="utf-8")
    for name in unseen.__all__:
        assert f'id="unseen.{name}"' in built
