"""``examples/segment_millions.py``: its shards without Ray, then with Ray, killed half-way."""

import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import nullcontext
from glob import glob
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unseen.errors import InputError
from unseen.miniature.world import World
from unseen.segmenter import Segmenter

SCRIPT = Path(__file__).parent.parent / "examples" / "segment_millions.py"
LABELS = ["giraffe", "sky", "grass", "sea"]
WORLD = World(size=(64, 64))
MODEL = "zegclip-miniature-inductive"

spec = importlib.util.spec_from_file_location("segment_millions", SCRIPT)
assert spec is not None and spec.loader is not None
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


def draw(number: int) -> np.ndarray:
    """Return the picture of a number."""
    return WORLD.scene(11, number).image


def png(number: int) -> bytes:
    """Return it as a file's content."""
    buffer = io.BytesIO()
    Image.fromarray(draw(number)).save(buffer, "PNG")
    return buffer.getvalue()


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Write files of any depth."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    """Write a tar file of files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def read_tar(path: Path) -> dict[str, bytes]:
    """Return the files in a tar file."""
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def run_stages(source: Path, out: Path, segmenter: Segmenter, **options) -> dict[str, int]:
    """Do what Ray does with INPUT, in turn; return how many pictures each shard is of."""
    kind, root, shards = script.list_shards(str(source), options.pop("shard_size", 2))
    segment = script.Segment(MODEL, "cpu", segmenter.embed(LABELS))
    counts = {}
    for shard, files in shards.items():
        rows = script.read(
            {"shard": shard, "files": files}, kind=kind, root=root, field=options.get("field")
        )
        counts[shard] = script.write(out / f"{shard}{kind.suffix}", kind, map(segment, rows))
    return counts


def failures(path: Path) -> dict[str, str]:
    """Return which pictures of a shard failed, and why."""
    return {one["name"]: one["reason"] for one in json.loads(path.read_text())["failed"]}


def test_pictures_of_a_folder_are_cut_into_shards_in_sorted_order(tmp_path):
    names = ("b.png", "deep/er/a.JPG", "c.webp", "notes.txt", ".hidden.png", ".part-000000/d.png")
    write_files(tmp_path, dict.fromkeys(names, b""))
    kind, root, shards = script.list_shards(str(tmp_path), 2)
    assert (kind.suffix, root) == ("", str(tmp_path))
    assert shards == {"000000": ["b.png", "c.webp"], "000001": ["deep/er/a.JPG"]}


@pytest.mark.parametrize("suffix", [".tar", ".parquet"])
def test_tar_and_parquet_files_are_shards_of_their_own_name(suffix, tmp_path):
    write_files(tmp_path, {f"{name}{suffix}": b"" for name in ("b", "a/0", "a/1")} | {"c.txt": b""})
    shards = {name: [f"{name}{suffix}"] for name in ("a/0", "a/1", "b")}
    kind, root, found = script.list_shards(str(tmp_path), 2)
    assert (kind.suffix, root, found) == (suffix, str(tmp_path), shards)
    assert script.list_shards(f"{tmp_path}/**/[01]{suffix}", 2)[2].keys() == {"a/0", "a/1"}
    _, root, found = script.list_shards(f"{tmp_path}/a/1{suffix}", 2)
    assert (root, found) == (f"{tmp_path}/a", {"1": [f"1{suffix}"]})


def test_nothing_and_a_mixture_are_refused(tmp_path):
    with pytest.raises(InputError, match="there are no shards at .*/photos: expected a folder"):
        script.list_shards(str(tmp_path / "photos"), 2)
    write_files(tmp_path, {"a.png": b"", "b.tar": b""})
    with pytest.raises(InputError, match="holds pictures and tar files: choose with a quoted glob"):
        script.list_shards(str(tmp_path), 2)


def test_a_folder_becomes_folders_of_masks_and_a_list_of_bad_pictures(tmp_path, segmenter):
    pictures = {"a.png": png(0), "deep/a.png": png(1), "broken.png": png(2)[:60], "none.png": b""}
    write_files(tmp_path / "in", pictures)
    (tmp_path / "in" / "gone.png").symlink_to("nowhere.png")
    assert run_stages(tmp_path / "in", tmp_path / "out", segmenter, shard_size=4) == {
        "000000": 4,
        "000001": 1,
    }
    found = segmenter(draw(0), LABELS)
    mask = np.asarray(Image.open(tmp_path / "out" / "000000" / "a.png.mask.png"))
    assert (mask == found.mask).all()
    assert (tmp_path / "out" / "000000" / "deep" / "a.png.mask.png").is_file()
    regions = json.loads((tmp_path / "out" / "000000" / "a.png.json").read_text())
    assert regions == found.regions()
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        *("000000", "000000.json", "000001", "000001.json")
    }
    failed = failures(tmp_path / "out" / "000000.json")
    assert failed.keys() == {"broken.png", "gone.png"}
    assert "broken.png is a broken picture" in failed["broken.png"]
    assert "No such file" in failed["gone.png"]


def test_a_tar_becomes_a_tar_that_webdataset_joins_by_key(tmp_path, segmenter):
    files = {"x/0.jpg": png(0), "x/0.json": b"{}", "x/1.seg.png": png(1), "._x": b"", "2.png": b"?"}
    write_tar(tmp_path / "in" / "a" / "b.tar", files)
    assert run_stages(tmp_path / "in", tmp_path / "out", segmenter) == {"a/b": 3}
    written = read_tar(tmp_path / "out" / "a" / "b.tar")
    assert list(written) == ["x/0.mask.png", "x/0.json", "x/1.mask.png", "x/1.json"]
    mask = np.asarray(Image.open(io.BytesIO(written["x/1.mask.png"])))
    assert (mask == segmenter(draw(1), LABELS).mask).all()
    assert "is no picture" in failures(tmp_path / "out" / "a" / "b.tar.json")["2"]


def test_of_two_pictures_of_a_sample_one_is_chosen(tmp_path):
    write_tar(tmp_path / "a.tar", {"0.jpg": b"photo", "0.png": b"depth"})
    read = script.read_tar
    (_, _, fine), (_, _, again) = read(["a.tar"], str(tmp_path), None)
    assert not fine and again == "there is another picture of 0: choose one with --field"
    assert list(read(["a.tar"], str(tmp_path), "png")) == [("0", b"depth", "")]


@pytest.mark.parametrize("kept", [0, 1024, 1500, 3072])
def test_a_tar_that_was_not_copied_whole_is_not_finished(kept, tmp_path, segmenter):
    """It ends: at once, between two members, within a member, before the end's mark."""
    write_tar(tmp_path / "in" / "a.tar", {f"{i}.png": b"not a picture" for i in range(3)})
    whole = (tmp_path / "in" / "a.tar").read_bytes()
    (tmp_path / "in" / "a.tar").write_bytes(whole[:kept])
    with pytest.raises(script.BrokenShard):
        run_stages(tmp_path / "in", tmp_path / "out", segmenter)
    assert not list((tmp_path / "out").iterdir())


def test_a_shard_without_pictures_is_not_finished(tmp_path, segmenter):
    write_tar(tmp_path / "in" / "a.tar", {"0.txt": b"words"})
    with pytest.raises(script.BrokenShard, match="it holds no pictures"):
        run_stages(tmp_path / "in", tmp_path / "out", segmenter)


@pytest.mark.parametrize("nested", [False, True])
def test_parquet_becomes_parquet(nested, tmp_path, segmenter):
    parquet = pytest.importorskip("pyarrow.parquet", reason="comes with unseen[ray]")
    import pyarrow

    contents = [png(0), None, b"?"]
    column = [{"bytes": content, "path": None} for content in contents] if nested else contents
    columns = {"photo": column} | ({} if nested else {"name": ["a", "b", "c"]})
    names = ["00000000", "00000001", "00000002"] if nested else ["a", "b", "c"]
    (tmp_path / "in").mkdir()
    parquet.write_table(pyarrow.table(columns), tmp_path / "in" / "0.parquet")
    with pytest.raises(script.BrokenShard, match="no column image: choose of photo.* by --field"):
        run_stages(tmp_path / "in", tmp_path / "out", segmenter)
    assert run_stages(tmp_path / "in", tmp_path / "out", segmenter, field="photo") == {"0": 3}
    (row,) = parquet.read_table(tmp_path / "out" / "0.parquet").to_pylist()
    found = segmenter(draw(0), LABELS)
    assert (np.asarray(Image.open(io.BytesIO(row["mask"]))) == found.mask).all()
    assert (row["name"], json.loads(row["found"])) == (names[0], found.regions())
    failed = failures(tmp_path / "out" / "0.parquet.json")
    assert failed[names[1]] == "row 1 has no picture"
    assert "is no picture" in failed[names[2]]


def test_what_is_no_parquet_file_is_a_broken_shard(tmp_path, segmenter):
    pytest.importorskip("pyarrow", reason="comes with unseen[ray]")
    write_files(tmp_path / "in", {"0.parquet": b"words"})
    with pytest.raises(script.BrokenShard):
        run_stages(tmp_path / "in", tmp_path / "out", segmenter)


def test_out_may_be_begun_with_one_thing_only(tmp_path):
    facts = {"model": "a", "labels": ["cat"]}
    out, root = tmp_path / "out", str(tmp_path / "in")
    script.claim(out, root, facts).close()
    with script.claim(out, root, facts), pytest.raises(InputError, match="another run is writing"):
        script.claim(out, root, facts)
    with pytest.raises(InputError, match="was begun with other labels: give what .*made-with.json"):
        script.claim(out, root, facts | {"labels": ["dog"]})
    with pytest.raises(InputError, match="was begun with other model and pictures"):
        script.claim(out, root, facts | {"model": "b", "pictures": "c"})
    write_files(tmp_path, {"in/0.tar": b"", "full/000000/a.txt": b""})
    for other in (tmp_path / "in", tmp_path / "full"):
        with pytest.raises(InputError, match="holds other files: give an empty or a new folder"):
            script.claim(other, root, facts)
    with pytest.raises(InputError, match="lies in .*, all of which is read"):
        script.claim(tmp_path / "in" / "masks", root, facts)


def command(source: Path, out: Path, model: str | Path = MODEL) -> list[str]:
    """Return the example's command line."""
    wanted = {"--labels": ", ".join(LABELS), "--model": model, "--out": out, "--workers": 2}
    given = [str(word) for option in wanted.items() for word in option]
    return [sys.executable, str(SCRIPT), str(source), *given, "--device", "cpu"]


def test_shards_may_come_later_but_pictures_of_a_folder_may_not(tmp_path):
    options = Namespace(input="in", model=MODEL, field=None, shard_size=2)
    pictures, tars = script.KINDS["pictures"], script.KINDS["tar files"]
    for kind, refused in ((pictures, True), (tars, False)):
        out = tmp_path / f"out{kind.suffix}"
        before = script.describe(options, LABELS, kind, {"0": ["a", "b"]})
        now = script.describe(options, LABELS, kind, {"0": ["a", "b"], "1": ["c"]})
        script.claim(out, "in", before).close()
        with pytest.raises(InputError, match="other pictures") if refused else nullcontext():
            script.claim(out, "in", now).close()


def ray_processes(folder: str) -> set[int]:
    """Return the other processes that have a file open in Ray's folder, as all its own have."""
    found = set()
    for link in glob("/proc/[0-9]*/fd/*"):
        try:
            if os.readlink(link).startswith(folder):
                found.add(int(link.split("/")[2]))
        except OSError:  # it was closed, or is another user's
            continue
    return found - {os.getpid()}


def wait_for(condition, seconds: float = 300) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


@pytest.fixture
def ray_folder(monkeypatch) -> Iterator[str]:
    """Give Ray a folder of its own (short: it makes sockets there), and see that it has ended."""
    folder = tempfile.mkdtemp(prefix="ray-")
    monkeypatch.setenv("RAY_TMPDIR", folder)
    monkeypatch.setenv("HOME", folder)  # where it keeps a token
    monkeypatch.setenv("RAY_ADDRESS", "local")
    yield folder
    for process in ray_processes(folder):
        os.kill(process, signal.SIGKILL)
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for what Ray leaves in /proc")
def test_killed_half_way_it_completes_and_does_no_finished_shard_again(
    tmp_path, ray_folder, segmenter, capsys
):
    if importlib.util.find_spec("ray") is None:  # imported in the script's own process only
        pytest.skip("ray comes with unseen[ray]")
    size, count = 20, 16
    source, out, model = (tmp_path / name for name in ("in", "out", "model"))
    segmenter = segmenter.shown_at(short_side=64)  # in one window
    segmenter.save_pretrained(model, adapter_only=True)
    for shard in range(count):
        numbers = range(shard * size, (shard + 1) * size)
        pictures = {f"{n:04d}.png": b"?" if n == 33 else png(n) for n in numbers}
        write_tar(source / f"{shard:02d}.tar", pictures)
    blocked, kept = source / "10.tar", tmp_path / "10.tar"
    blocked.rename(kept)
    os.mkfifo(blocked)  # nobody can read beyond it, so the kill is never too late

    def finished() -> dict[str, Path]:
        return {path.stem: path for path in out.glob("[!.]*.tar")}

    log = tmp_path / "log.txt"
    with log.open("w") as stream:
        first = subprocess.Popen(
            command(source, out, model), stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        wait_for(lambda: len(finished()) >= 2 or first.poll() is not None)
        assert first.poll() is None, log.read_text()
        assert ray_processes(ray_folder)
    finally:
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)
            first.wait()
    wait_for(lambda: not ray_processes(ray_folder))
    before = {
        name: (path.stat().st_mtime_ns, path.read_bytes()) for name, path in finished().items()
    }
    assert 2 <= len(before) <= 10

    kept.replace(blocked)
    second = subprocess.run(command(source, out, model), capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    assert f"{len(before)} of {count} shards are finished" in second.stdout
    assert f"{size * count - 1} pictures are segmented, 1 are not" in second.stdout
    for name, facts in before.items():
        path = finished()[name]
        assert (path.stat().st_mtime_ns, path.read_bytes()) == facts

    written = [pair for path in sorted(finished().values()) for pair in read_tar(path).items()]
    masks = {name.partition(".")[0]: data for name, data in written if name.endswith(".mask.png")}
    expected = [f"{n:04d}" for n in range(size * count) if n != 33]
    assert [name.partition(".")[0] for name, _ in written[::2]] == expected == list(masks)
    assert failures(out / "01.tar.json").keys() == {"0033"}
    for number in (0, 32, 150, 319):
        mask = np.asarray(Image.open(io.BytesIO(masks[f"{number:04d}"])))
        assert (mask == segmenter(draw(number), LABELS).mask).all()

    wait_for(lambda: not ray_processes(ray_folder))
    script.segment(script.parse(command(source, out, model)[2:]))
    assert "16 of 16 shards are finished" in capsys.readouterr().out


def test_a_mistake_is_one_sentence(tmp_path):
    result = subprocess.run(command(tmp_path, tmp_path / "out"), capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: there are no shards at ")
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
