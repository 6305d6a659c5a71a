"""The pages in a real browser without a screen: they load without errors, and every picture is there and not blank."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from bayesdiff import reporting
from bayesdiff.calibration import sbc
from tests.sbc_toys import Conjugate, model
from tests.test_reporting_page import BOUNDS, PIXEL_ARCMIN, SECTIONS, separation

webdriver = pytest.importorskip("selenium.webdriver")
WebDriverWait = pytest.importorskip("selenium.webdriver.support.wait").WebDriverWait

OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--window-size=1200,1600",
)
# Every picture as the browser decoded it: its size, where it stands, and the spread of its grey values.
PICTURES = """
return Array.from(document.images).map(image => {
  if (image.naturalWidth === 0) return {complete: image.complete, width: 0};
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
  const drawing = canvas.getContext("2d");
  drawing.drawImage(image, 0, 0);
  const grey = [], pixels = drawing.getImageData(0, 0, canvas.width, canvas.height).data;
  for (let i = 0; i < pixels.length; i += 4) grey.push((pixels[i] + pixels[i + 1] + pixels[i + 2]) / 3);
  const mean = grey.reduce((a, b) => a + b, 0) / grey.length;
  const variance = grey.reduce((a, b) => a + (b - mean) ** 2, 0) / grey.length;
  const section = image.closest("section");
  return {complete: image.complete, width: image.naturalWidth, shown: image.getBoundingClientRect().width,
          spread: Math.sqrt(variance), section: section === null ? "" : section.id, words: image.alt};
});
"""


@pytest.fixture(scope="module")
def browser():
    """Chromium, if this machine has it."""
    program, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs Chromium and chromedriver (Debian: apt install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for option in OPTIONS:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


def look(browser: Any, page: Path) -> list[dict[str, Any]]:
    """Open a page, and say what pictures it shows; what the browser complains of fails."""
    browser.get(page.resolve().as_uri())
    # A page with megabytes of pictures may still be loading when the browser says that it is there.
    WebDriverWait(browser, 60).until(lambda browser: browser.execute_script("return document.readyState") == "complete")
    pictures = browser.execute_script(PICTURES)
    assert browser.get_log("browser") == []
    for picture in pictures:
        assert picture["complete"], picture
        assert picture["width"] > 200, picture
        assert picture["shown"] > 200, picture
        assert picture["spread"] > 5, picture
        assert picture["words"], picture
    # Nothing is cut off on the right of a window of usual width.
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    return pictures


def test_calibration_page(browser, tmp_path):
    settings: Any = {"num_simulations": 100, "num_chains": 1, "num_samples": 60, "num_draws": 39, "progress": False}
    study = sbc(jax.random.key(1), model, algorithm=Conjugate(), **settings)
    page = reporting.write_calibration_report(study, tmp_path, title="Calibration of a toy")
    pictures = look(browser, page)
    assert [picture["section"] for picture in pictures] == ["ecdf", "ranks", "coverage", "tarp", "z"]
    assert "Calibrated" in browser.find_element("css selector", ".verdict").text


def test_page_of_a_run(browser, tmp_path):
    rng = np.random.default_rng(0)
    page = reporting.write_report(
        separation(),
        tmp_path,
        title="Dust and CMB",
        pixel_arcmin=PIXEL_ARCMIN,
        bounds=BOUNDS,
        prior_draws={name: rng.uniform(*bounds, size=500) for name, bounds in BOUNDS.items()},
    )
    sections = {picture["section"] for picture in look(browser, page)}
    assert sections == set(SECTIONS) - {"summary", "run"}


def test_a_blank_or_broken_picture_is_found(browser, tmp_path):
    blank = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
    page = tmp_path / "page.html"
    for source in (blank, "missing.png"):
        page.write_text(f'<img src="{source}" alt="nothing" width="300">')
        with pytest.raises(AssertionError):
            look(browser, page)
