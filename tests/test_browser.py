"""What people see, seen by a real browser: a notebook in JupyterLab, a run's page, the dashboard.

Each test leaves a screenshot in its temporary folder; `--basetemp FOLDER` says where.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from urllib.parse import unquote

import nbformat
import pandas as pd
import pytest

import reidlab
from reidlab import dashboard
from reidlab.config import CLONE
from reidlab.run import Run
from reidlab.stages import deploy, evaluate, report, train

pytestmark = pytest.mark.browser
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE_MS = 120_000  # on a busy machine
TINY = (
    "data.source.num_identities=10 data.source.train_identities=7 data.source.images_per_camera=2 data.size=[64,32] "
    "data.source.size=[64,32] data.val_fraction=0.3 data.val_identities=2 data.batch_size=16 "
    "trainer.max_epochs=1 trainer.accelerator=cpu "
    "evaluate.resamples=50 logger=none"
)


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the dev extra")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def wrong():
    """Errors in a page's console, refused answers, and requests to other machines."""
    return []


@pytest.fixture
def page(chromium, wrong):
    """A page that fails its test where anything went wrong in it."""
    context = chromium.new_context(viewport={"width": 1400, "height": 1000})
    context.set_default_timeout(PATIENCE_MS)
    opened = context.new_page()
    opened.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("request", lambda asked: wrong.append(asked.url) if is_elsewhere(asked.url) else None)
    opened.on("response", lambda got: wrong.append(f"{got.status} {got.url}") if got.status >= 400 else None)
    yield opened
    context.close()
    assert not wrong, "\n".join(wrong)


def is_elsewhere(url):
    return not re.match(r"(https?|wss?)://(127\.0\.0\.1|localhost)[:/]|(data|blob|file|about|chrome-error):", url)


@contextmanager
def serving(command, port, path="/", **environment):
    """A server of this machine, for as long as the block; what it said is printed, and shown where a test fails."""
    with tempfile.TemporaryFile() as log:  # no pipe: one that nobody reads fills up, and stops the server
        process = subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            for _ in range(PATIENCE_MS // 100):
                time.sleep(0.1)
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).read()
                    break
                except OSError:
                    assert process.poll() is None
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)
            log.seek(0)
            print(log.read().decode(errors="replace")[-5000:])


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def sizes(page, selector):
    """Width and height of the pictures in their files; 0 for one that isn't shown."""
    return page.locator(selector).evaluate_all("all => all.map(image => [image.naturalWidth, image.naturalHeight])")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, small):
    """Two small runs, evaluated, one with its page."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        for name in ("one", "two"):
            run = Run.compose([*small, f"run.root={root}", f"run.name={name}", "evaluate.resamples=50"])
            train.run(run)
            evaluate.run(run)
        report.run(run)
    return root


@pytest.mark.parametrize(("file", "title", "pictures"), [("evaluation", "two: eval", 7), ("card", "two: osnet", 2)])
def test_the_pages_of_a_run(page, runs, tmp_path, file, title, pictures):
    """All pictures are drawn, and all links lead to a place in the page or a file of the run."""
    page.goto((runs / "two" / f"{file}.html").as_uri())
    assert page.title().startswith(title)
    drawn = sizes(page, "img")
    assert len(drawn) >= pictures and min(min(size) for size in drawn) > 50
    for link in page.locator("a").evaluate_all("all => all.map(link => link.getAttribute('href'))"):
        if link.startswith("#"):
            assert page.locator(link).count() == 1, link
        elif not link.startswith("https://"):
            assert (runs / "two" / unquote(link)).exists(), link
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)


WIDER = """() => [...document.querySelectorAll("table, pre, img")]
    .filter(each => each.scrollWidth > each.parentElement.clientWidth)
    .map(each => [each.tagName, each.className, each.textContent.slice(0, 200)])"""
A4_PRINTED = 703  # CSS pixels between margins of 12 mm


@pytest.fixture(scope="module")
def cards(runs, kept_classifier):
    """Pages of a small run, and the card of a network with published, estimated and measured figures of many boards."""
    return [runs / "two" / "card.html", runs / "two" / "evaluation.html", kept_classifier / "card.html"]


@pytest.fixture(scope="module")
def kept_classifier(runs):
    folder = runs.parent / f"{runs.name}_kept" / "flowers"
    shutil.copytree(CLONE / "data" / "models" / "flowers_st_fdmobilenet_v1_224", folder)
    run = deploy.run(Run.resume([f"run.root={folder.parent}", "run.name=flowers", "deploy=stm32"]))
    run.record({"emulated m7": {"instructions": 2e7, "flash_bytes": 270_304, "ram_bytes": 44_032}})
    report.run(run)
    return folder


@pytest.mark.parametrize("width", [1200, 390, "print"])
def test_no_table_is_wider_than_its_page(page, cards, width, tmp_path):
    """On a screen, on a telephone, and on A4; what is folded is open."""
    page.set_viewport_size({"width": A4_PRINTED if width == "print" else width, "height": 900})
    for file in cards:
        page.goto(file.as_uri())
        page.emulate_media(media="print" if width == "print" else "screen")
        page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
        page.screenshot(path=tmp_path / f"{file.parent.name}_{file.stem}.png", full_page=True)
        assert page.locator("table").count() and page.evaluate(WIDER) == []
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        shown = page.locator("th, td").evaluate_all("all => all.map(each => getComputedStyle(each).display)")
        assert ("grid" in shown) == (width == 390)  # rows that became lists; on paper a table stays one
    if width == "print":
        page.pdf(path=tmp_path / "card.pdf", prefer_css_page_size=True)


def test_the_dashboard(page, runs, tmp_path):
    """Every view; a name made to harm is text; an epoch that ends appears by itself."""
    evil = runs / "<img src=x onerror=alert(1)> ![p](http:⁄⁄elsewhere.invalid⁄x.png) **bold**"
    shutil.copytree(runs / "one", evil)
    (evil / "metrics.json").write_text('{"checkpoint": ')
    port = free_port()
    with serving(dashboard.command(runs, port), port, "/_stcore/health") as address:
        page.goto(address)
        page.get_by_test_id("stDataFrame").first.wait_for()
        page.get_by_text("not readable as JSON").wait_for()
        assert page.locator("img[src='x']").count() == 0 and page.locator("strong", has_text="bold").count() == 0
        page.get_by_text("best mAP: ").wait_for()
        cells = page.locator("[data-testid=stDataFrame] [role=gridcell]")
        cells.filter(has_text="two").first.wait_for(state="attached")
        texts = cells.all_text_contents()
        assert "two" in texts and not {"None", "nan", "<NA>"} & {*texts}
        page.screenshot(path=tmp_path / "leaderboard.png", full_page=True)
        page.set_viewport_size({"width": 390, "height": 900})
        page.wait_for_function("document.querySelector('[data-testid=stDataFrame]').clientWidth < 390")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        page.screenshot(path=tmp_path / "leaderboard_390.png", full_page=True)
        page.set_viewport_size({"width": 1400, "height": 1000})

        page.get_by_role("radio", name="Curves").click()
        page.locator(".vega-embed canvas, .vega-embed svg").nth(2).wait_for()
        page.screenshot(path=tmp_path / "curves.png", full_page=True)
        page.get_by_text("two: 3 epochs").wait_for()
        history = pd.read_csv(runs / "two" / "history.csv")
        pd.concat([history, history.tail(1).assign(epoch=4)]).to_csv(runs / "two" / "history.csv", index=False)
        page.get_by_text("two: 4 epochs").wait_for()

        page.get_by_role("radio", name="Evaluation").click()
        page.get_by_test_id("stImage").nth(2).wait_for()
        page.wait_for_function(  # again and again, since the page draws them anew every few seconds
            "[...document.querySelectorAll('[data-testid=stImage] img')]"
            ".every(i => Math.min(i.naturalWidth, i.naturalHeight) > 50)"
        )
        page.screenshot(path=tmp_path / "evaluation.png", full_page=True)

        page.get_by_role("radio", name="Devices").click()
        page.get_by_text("No run is quantized").wait_for()
        page.get_by_role("radio", name="Compare").click()
        page.get_by_role("heading", name="Config").wait_for()
        page.screenshot(path=tmp_path / "compare.png", full_page=True)
        page.goto("about:blank")  # before the server ends


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab as `make lab` starts it, over copies of the notebooks with small parameters: address and folder."""
    pytest.importorskip("jupyterlab", reason="needs the notebooks extra")
    folder = tmp_path_factory.mktemp("lab")
    (folder / "notebooks").mkdir()
    for file in (CLONE / "notebooks").glob("*.ipynb"):
        copy = nbformat.read(file, as_version=4)
        cell = next(cell for cell in copy.cells if "parameters" in cell.metadata.get("tags", []))
        overrides = [*TINY.split(), f"run.root={folder / 'runs'}", f"data.root={folder / 'data'}"]
        cell.source = f'experiment = "smoke"\noverrides = {overrides}'
        nbformat.write(copy, folder / "notebooks" / file.name)
    settings = folder / ".settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')  # all cells are in the page
    announcements = folder / ".settings" / "@jupyterlab" / "apputils-extension"
    announcements.mkdir(parents=True)
    silent = {"fetchNews": "false", "checkForUpdates": False}
    (announcements / "notification.jupyterlab-settings").write_text(json.dumps(silent))
    port = free_port()
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"),
        *("--IdentityProvider.token=t", f"--ServerApp.root_dir={folder}"),
        *(f"--LabApp.user_settings_dir={folder / '.settings'}", f"--LabApp.workspaces_dir={folder / '.workspaces'}"),
    ]
    path = f"{CLONE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    own = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "JUPYTER_CONFIG_DIR": str(folder / ".config")}
    with serving(command, port, "/api?token=t", **own) as address:
        yield address, folder


def turn_pages(page, folder):
    """The slider of each explorer shows another picture."""
    from playwright.sync_api import expect

    explorers = page.locator(".jupyter-widgets.widget-vbox", has=page.locator("img.widget-image"))
    assert explorers.count() >= 1
    for number in range(explorers.count()):
        picture = explorers.nth(number).locator("img.widget-image")
        before = picture.get_attribute("src")
        explorers.nth(number).locator(".noUi-handle").press("ArrowRight")
        expect(picture).not_to_have_attribute("src", before, timeout=PATIENCE_MS / 2)
        size = "image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])"
        assert min(picture.evaluate(size)) > 50
        page.screenshot(path=folder / f"widget{number}.png")


def test_the_page_of_a_gallery(page, runs, market, tmp_path):
    """An image that is chosen or dropped is identified, and the gallery ranked; a name made to harm is text."""
    pytest.importorskip("fastapi", reason="needs the service extra")
    gallery = reidlab.Gallery.open(tmp_path / "gallery", reidlab.load(runs / "two"))
    files = sorted((market / "bounding_box_test").glob("*.jpg"))
    evil = "<img src=x onerror=alert(1)> &amp; "
    gallery.enroll(files, [evil + file.name[:4] for file in files], camids=[file.name[6] for file in files])
    port = free_port()
    command = [sys.executable, "-m", "reidlab.cli", "serve", "--gallery", str(gallery.store.folder)]
    command += ["--http-port", str(port), f"run.root={runs}", "run.name=two"]
    (answer,) = gallery.identify(files[:1], k=20)
    with serving(command, port, "/healthz") as address:
        page.goto(address)
        assert page.locator("#access, #picture, #ranked").evaluate_all(
            "all => all.every(each => !each.checkVisibility())"
        )
        page.locator("#file").set_input_files(files[0])
        rows = page.locator("#ranked tbody tr")
        rows.first.wait_for()
        shown = [row.split("\t")[:3] for row in rows.evaluate_all("all => all.map(row => row.innerText)")]
        ranked = [(c.pid, f"{c.distance:.3f}") for c in answer.candidates]
        assert [(name, distance) for _, name, distance in shown] == ranked and len(ranked) == 6
        says = f"This is {answer.pid}." if answer.pid else "Nobody who is enrolled."
        assert page.locator("#verdict").inner_text() == says
        assert page.locator("img[src='x']").count() == 0 and min(sizes(page, "#picture")[0]) > 0
        page.screenshot(path=tmp_path / "identified.png", full_page=True)
        page.locator("#ranked tbody").evaluate("body => body.replaceChildren()")
        page.evaluate(
            """async bytes => {
                const files = new DataTransfer();
                files.items.add(new File([new Uint8Array(bytes)], "dropped.jpg", {type: "image/jpeg"}));
                const event = new DragEvent("drop", {dataTransfer: files, bubbles: true, cancelable: true});
                document.getElementById("drop").dispatchEvent(event);
            }""",
            [*files[-1].read_bytes()],
        )
        rows.first.wait_for()
        assert gallery.identify(files[-1:])[0].candidates[0].pid in rows.first.inner_text()
        page.set_viewport_size({"width": 360, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        page.emulate_media(color_scheme="dark")
        page.screenshot(path=tmp_path / "narrow.png", full_page=True)


def test_the_page_of_a_gallery_asks_for_its_token(chromium, runs, market, tmp_path):
    pytest.importorskip("fastapi", reason="needs the service extra")
    (tmp_path / "token").write_text("a-token-of-more-than-16-characters")
    port = free_port()
    command = [sys.executable, "-m", "reidlab.cli", "serve", "--gallery", str(tmp_path / "gallery"), "--http-port"]
    command += [str(port), "--token-file", str(tmp_path / "token"), f"run.root={runs}", "run.name=two"]
    page = chromium.new_page()
    with serving(command, port, "/healthz") as address:
        page.goto(address)
        page.locator("#file").set_input_files(min((market / "query").glob("*.jpg")))
        page.get_by_text("send the service's token").wait_for()
        page.locator("#token").fill("a-token-of-more-than-16-characters")
        page.locator("#token").press("Enter")
        page.get_by_text("Nobody who is enrolled.").wait_for()
    page.close()


def test_a_notebook_in_jupyterlab(page, wrong, lab, tmp_path):
    """Run All ends without an error, pictures have a size, links lead to notebooks, the slider turns the page."""
    from playwright.sync_api import TimeoutError

    address, folder = lab
    (file,) = folder.glob("notebooks/*_evaluate.ipynb")
    page.goto(f"{address}/lab/tree/notebooks/{file.name}?token=t")
    code = page.locator(".jp-Notebook .jp-CodeCell")
    failures = page.locator("[data-mime-type='application/vnd.jupyter.error']")
    for attempt in range(3):  # now and then JupyterLab misses a kernel's messages, for good; a user reloads the page
        try:
            code.first.wait_for()
            page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=PATIENCE_MS / 4)
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
            page.wait_for_function(
                """() => document.querySelector("[data-mime-type='application/vnd.jupyter.error']") ||
                    [...document.querySelectorAll('.jp-Notebook .jp-CodeCell')].every(
                        cell => /\\[\\d+\\]/.test(cell.querySelector('.jp-InputPrompt').textContent))""",
                timeout=2 * PATIENCE_MS,
            )
            if not failures.count():
                turn_pages(page, tmp_path)
            break
        except (TimeoutError, AssertionError):
            print(f"attempt {attempt}: {page.locator('.jp-InputPrompt').all_inner_texts()}")
            page.screenshot(path=tmp_path / f"stuck{attempt}.png")
            page.reload()
    else:
        pytest.fail("the notebook did not come to its end")
    if attempt:  # the reloaded page drew the outputs of widgets that the first one had missed
        wrong[:] = [each for each in wrong if "widget model not found" not in each]
    page.screenshot(path=tmp_path / "notebook.png")
    assert failures.all_inner_texts() == []
    assert code.count() >= 10
    drawn = sizes(page, ".jp-OutputArea img")
    assert len(drawn) >= 8 and min(min(size) for size in drawn) > 50

    links = page.locator(".jp-RenderedMarkdown a[href*='.ipynb']")
    targets = links.evaluate_all("all => all.map(link => decodeURIComponent(link.href))")
    assert targets and all((file.parent / re.search(r"[\w]+\.ipynb", target)[0]).exists() for target in targets)
    page.locator(".jp-OutputArea a", has_text="evaluation.html").click()  # of the run folder, beside notebooks/
    page.locator(".lm-TabBar-tab.lm-mod-current", has_text="evaluation.html").wait_for()
    page.locator(".lm-TabBar-tab", has_text=file.name).click()
    links.last.click()
    page.locator(".lm-TabBar-tab.lm-mod-current", has_text=re.search(r"[\w]+\.ipynb", targets[-1])[0]).wait_for()
