"""The HTML report in a real browser, from disk."""

import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cnnres_infer import Predictor
from cnnres_infer.core.mask import Lesion, Mask
from cnnres_infer.core.result import Result
from cnnres_infer.outputs import page as pages
from cnnres_infer.outputs.report_page import html_page
from tests.conftest import blob_volume, oriented_affine

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = pytest.mark.slow
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
DRIVER = shutil.which("chromedriver")
PROGRAM = Path(pages.__file__).parent / "assets" / "niivue" / "niivue.umd.js"
NAME = "<img src=x onerror=\"document.title='run'\"><b>name</b>"
# Voxels of a ball in an oblique volume whose axes are not those of the patient.
ORDER, SIGNS, SHAPE = (1, 2, 0), (1, -1, 1), (20, 60, 70)
REJECTED_AT = (14, 20, 50)


def browse(path: Path, *switches: str) -> "Chrome":
    """Open a page from disk, and wait until its viewer is ready or has given up."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    if not PROGRAM.exists():
        pytest.skip("this checkout was installed without the viewer")
    pytest.importorskip("selenium")
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService
    from selenium.webdriver.support.ui import WebDriverWait

    options = ChromeOptions()
    options.binary_location = CHROMIUM
    gl = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
    for switch in ("--headless=new", "--no-sandbox", "--window-size=1100,900", *gl, *switches):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=ChromeService(DRIVER))
    driver.get(path.as_uri())
    WebDriverWait(driver, 60).until(
        lambda each: each.execute_script("return document.documentElement.dataset.viewer")
    )
    return driver


@pytest.fixture(scope="module")
def result(bright_bundle: Path) -> Result:
    affine = oriented_affine(ORDER, SIGNS, (5.0, 2.5, 2.5), (0.3, 0.1, -0.1), SHAPE)
    volume, _ = blob_volume(SHAPE, affine, centre_mm=(20.0, 10.0, 5.0), radius_mm=14)
    with Predictor.load(bright_bundle) as predictor:
        found = predictor.predict(replace(volume, name=NAME))
    rejected = np.zeros_like(found.mask.data)
    rejected[11:18, 14:27, 44:57] = 1
    lesion = Lesion(1183, 37.0, REJECTED_AT, (0.0, 0.0, 0.0), 1.1, 0.0009)
    mask = Mask(rejected, volume.grid)
    return replace(found, rejected=(lesion,), rejected_mask=mask)


@pytest.fixture(scope="module")
def path(result: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "a b_report.html"
    path.write_text(html_page(result), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def driver(path: Path) -> Iterator["Chrome"]:
    driver = browse(path)
    yield driver
    driver.quit()


@pytest.fixture
def page(driver: "Chrome") -> "Chrome":
    """The page in its initial state."""
    click(driver, "reset")
    return driver


def click(driver: "Chrome", name: str) -> None:
    driver.execute_script("document.getElementById(arguments[0]).click()", name)


def put(driver: "Chrome", name: str, value: object) -> None:
    """Move a control as a person does, with its events."""
    driver.execute_script(
        "const control = document.getElementById(arguments[0]); control.value = arguments[1];"
        "control.dispatchEvent(new Event('input')); control.dispatchEvent(new Event('change'));",
        name,
        value,
    )


def canvas(driver: "Chrome") -> NDArray[np.int64]:
    """The canvas as it is seen, (H, W, 3)."""
    shot = driver.find_element("id", "canvas").screenshot_as_png
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(np.int64)


def grey(picture: NDArray[np.int64]) -> int:
    red, green, blue = np.moveaxis(picture, 2, 0)
    return int(((red == green) & (green == blue) & (red > 30)).sum())


def red(picture: NDArray[np.int64]) -> int:
    return int((picture[:, :, 0] - picture[:, :, 1:].max(axis=2) > 40).sum())


def yellow(picture: NDArray[np.int64]) -> int:
    both = picture[:, :, :2].min(axis=2) - picture[:, :, 2] > 40
    return int((both & (abs(picture[:, :, 0] - picture[:, :, 1]) < 60)).sum())


def text(driver: "Chrome", name: str) -> str:
    return str(driver.find_element("id", name).text)


def test_the_page_opens_from_disk_without_complaint(page: "Chrome") -> None:
    assert page.execute_script("return document.documentElement.dataset.viewer") == "ready"
    assert not page.find_element("id", "viewer-missing").is_displayed()
    assert page.get_log("browser") == []


def test_the_canvas_shows_the_volume_and_the_mask(page: "Chrome") -> None:
    picture = canvas(page)
    assert grey(picture) > 0.05 * picture[:, :, 0].size
    assert red(picture) > 200
    assert len(np.unique(picture[:, :, 1])) > 20


def test_masks_are_switched_off_and_on(page: "Chrome") -> None:
    before = canvas(page)
    click(page, "show-lesions")
    without = canvas(page)
    assert red(without) == 0
    assert grey(without) > grey(before)
    click(page, "show-lesions")
    assert red(canvas(page)) == red(before)

    page.execute_script("document.querySelectorAll('button[data-voxel]')[1].click()")
    shown = canvas(page)
    assert yellow(shown) > 200
    click(page, "show-rejected")
    assert yellow(canvas(page)) < 0.1 * yellow(shown)


def test_opacity_window_and_view_change_the_picture(page: "Chrome") -> None:
    first = canvas(page)
    put(page, "opacity", 0)
    assert red(canvas(page)) == 0
    put(page, "opacity", 50)
    put(page, "width", 20)
    narrow = canvas(page)
    assert (narrow == 255).all(axis=2).sum() > (first == 255).all(axis=2).sum()
    click(page, "reset")
    for plane in ("axial", "coronal", "sagittal"):
        put(page, "view", plane)
        assert (canvas(page) != first).any()
    click(page, "reset")
    assert red(canvas(page)) == red(first)


def test_the_window_starts_as_in_the_mosaic(page: "Chrome", result: Result) -> None:
    white = float(np.percentile(result.volume.data[result.volume.data > 0], 99.5))
    low, high = page.execute_script(
        "const v = lesionViewer.volumes[0]; return [v.cal_min, v.cal_max]"
    )
    assert low == pytest.approx(0, abs=0.01 * white)
    assert high == pytest.approx(white, rel=0.01)


def test_voxels_are_counted_as_in_the_file(page: "Chrome", result: Result) -> None:
    """The volume is oblique, and its axes run in other directions than the viewer's."""
    buttons = page.find_elements("css selector", "button[data-voxel]")
    for button, lesion in zip(buttons, (*result.lesions, *result.rejected), strict=True):
        page.execute_script("arguments[0].click()", button)
        voxel = tuple(int(np.floor(each + 0.5)) for each in lesion.centre_voxel)
        place = result.volume.grid.to_mm(np.array(voxel, np.float64))
        sides = [
            f"{pair[int(mm < 0)]} {abs(mm):.1f}"
            for pair, mm in zip(("RL", "AP", "SI"), place, strict=True)
        ]
        value = float(result.volume.data[voxel])
        assert text(page, "position") == (
            f"voxel {voxel[0]}, {voxel[1]}, {voxel[2]}; {', '.join(sides)} mm; "
            f"intensity {value:.{decimals(result)}f}"
        )


def decimals(result: Result) -> int:
    extent = float(result.volume.data.max() - min(0.0, result.volume.data.min()))
    return max(0, 2 - int(np.floor(np.log10(extent))))


def test_the_slider_moves_through_the_slices_of_the_file(page: "Chrome", result: Result) -> None:
    axis = result.volume.grid.orientation.axes[2]
    put(page, "view", "axial")
    pictures = []
    for position in (6, 13):
        put(page, "slice", position)
        shown = int(page.execute_script("return document.querySelector('[for=slice]').value"))
        expected = result.volume.grid.orientation.slice_index(
            position, result.volume.grid.shape[axis]
        )
        assert shown == expected
        assert text(page, "position").split(";")[0].split(" ", 1)[1].split(", ")[axis] == str(shown)
        pictures.append(canvas(page))
    assert (pictures[0] != pictures[1]).any()


def test_the_mask_lies_on_the_lesion_of_the_picture(page: "Chrome") -> None:
    """Radiological convention: a lesion on the patient's right is on the left, and anterior."""
    put(page, "view", "axial")
    picture = canvas(page)
    rows, columns = np.nonzero(picture[:, :, 0] - picture[:, :, 1:].max(axis=2) > 40)
    brain_rows, brain_columns = np.nonzero(picture.max(axis=2) > 30)
    assert columns.mean() < brain_columns.mean()
    click(page, "show-lesions")
    bright = canvas(page)[rows, columns].mean()
    assert bright > 1.3 * canvas(page)[brain_rows, brain_columns].mean()


def test_names_are_shown_and_not_run(page: "Chrome") -> None:
    assert NAME in page.find_element("tag name", "h1").text
    assert page.title == f"Lesion report: {NAME}"
    assert not page.find_elements("tag name", "b")


class Listener(BaseHTTPRequestHandler):
    """Notes every request."""

    asked: list[str]

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        self.send_response(200)
        self.end_headers()

    do_POST = do_GET  # noqa: N815

    def log_message(self, *message: Any) -> None:
        pass


def test_no_request_leaves_the_page(page: "Chrome", path: Path) -> None:
    """Neither when it opened nor in any of the tests before."""
    messages = [json.loads(each["message"])["message"] for each in page.get_log("performance")]
    requests = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert path.as_uri() in requests
    assert all(each == path.as_uri() or each.startswith("data:image/") for each in requests)


def test_the_page_may_not_connect_to_anything(page: "Chrome") -> None:
    Listener.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        outcome = page.execute_async_script(
            "const [address, done] = arguments;"
            "new Image().src = `${address}/image`;"
            "navigator.sendBeacon(`${address}/beacon`, 'x');"
            "const frame = document.createElement('iframe'); frame.src = `${address}/frame`;"
            "document.body.append(frame);"
            "const script = document.createElement('script'); script.src = `${address}/script`;"
            "document.body.append(script);"
            "fetch(`${address}/fetch`)"
            ".then(() => done('sent'), () => setTimeout(done, 500, 'refused'));",
            address,
        )
        server.shutdown()
    assert outcome == "refused"
    assert Listener.asked == []


def test_without_webgl_the_page_says_why_and_shows_the_rest(path: Path) -> None:
    driver = browse(path, "--disable-3d-apis")
    try:
        assert "does not offer WebGL 2" in text(driver, "viewer-missing")
        assert not driver.find_element("id", "viewer").is_displayed()
        mosaic = driver.find_element("css selector", "figure img")
        assert mosaic.is_displayed()
        assert mosaic.get_property("naturalWidth") == 1120
        rows = driver.find_elements("css selector", ".found tr")
        assert len(rows) == 4
        assert not any(
            each.is_displayed()
            for each in driver.find_elements("css selector", "button[data-voxel]")
        )
    finally:
        driver.quit()
