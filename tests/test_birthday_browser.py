"""The page in a real browser, headless and offline. Skipped where there is no Chromium or no Playwright."""

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from PIL import Image
from torch import Generator

from bench.birthday.page import make_page
from bench.birthday.pairs import Chosen
from bench.birthday.record import Key, Kind, Shown, check_answers, read_answers, sealed

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="Playwright is not installed: pip install genbench[browser]"
)
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-headless-shell", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")

SCRIPT = "<script>alert(1)</script>"
CLOSED = "</script ><!--<script &amp;"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # Chromium's own sandbox does not start for root, as whom tests run in containers; the page is ours.
        started = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


def written(folder: Path, n: int, name: str = "birthday") -> tuple[Path, Key]:
    """A page of random pictures: what is in them does not matter here."""
    generator = Generator().manual_seed(n)
    pictures, neighbours = (
        torch.randint(256, (n, 2, 3, 12, 12), generator=generator, dtype=torch.uint8) for _ in range(2)
    )
    kinds: list[Kind] = ["candidate", "same", "different"]
    shown = tuple(Shown(f"{k:016x}", kinds[k % 3], k, k + 1, 0.5) for k in range(n))
    key = sealed(
        Key(
            format="genbench birthday key 1", page="0" * 64, model=SCRIPT, dataset=CLOSED, revision="r",
            seed=0, samples=1000, pairs=shown,
        )
    )  # fmt: skip
    path = folder / f"{name}.html"
    path.write_bytes(make_page(Chosen(shown, pictures, neighbours, 1000), key, 256, name))
    path.with_suffix(".key.json").write_bytes(msgspec.json.encode(key))
    return path, key


class Opened:
    """The page in a fresh window, with everything that it said, asked for or failed at."""

    def __init__(self, browser: Any, path: Path, width: int = 1200, **options: Any) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, offline=True, accept_downloads=True, **options
        )
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", self._dialog)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.resolve().as_uri())

    def _dialog(self, dialog: Any) -> None:
        self.said.append(f"dialog: {dialog.message}")
        dialog.accept()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).inner_text())

    def saved(self, folder: Path) -> Path:
        with self.page.expect_download() as download:
            self.press("s")
        path = folder / download.value.suggested_filename
        download.value.save_as(path)
        return path


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[tuple[Opened, Key]]:
    path, key = written(tmp_path, 6)
    window = Opened(browser, path)
    yield window, key
    assert window.said == []
    assert [url for url in window.asked if not url.startswith(("data:", "blob:"))] == [path.resolve().as_uri()]
    window.context.close()


def test_every_key_and_the_answers_that_are_saved(opened: tuple[Opened, Key], tmp_path: Path) -> None:
    window, key = opened
    assert window.text("#count") == "Pair 1 of 6 · 0 of 6 answered"
    window.press("y", "N", "?")
    assert window.text("#count") == "Pair 4 of 6 · 3 of 6 answered"
    window.press("y", "u", "n", "Backspace", "?")  # the fourth: its last answer counts
    window.press("ArrowLeft")
    assert window.text("#given") == "Your answer: cannot tell"
    window.press("ArrowLeft", "y")  # the third, changed; then on to the first that is open
    assert window.text("#count") == "Pair 5 of 6 · 4 of 6 answered"
    window.press("u")
    assert window.text("#count") == "Pair 3 of 6 · 4 of 6 answered"
    assert window.text("#given") == "Your answer: cannot tell", "the answer before comes back"
    window.press("ArrowRight", "ArrowRight", "n", "y")
    assert window.text("#done h2") == "All pairs are answered"
    window.press("y", "ArrowRight")  # nothing is left to answer
    path = window.saved(tmp_path)
    answers = read_answers(path)
    check_answers(path, answers, key)
    assert list(answers.answers.values()) == ["y", "n", "?", "?", "n", "y"]
    assert path.name == f"birthday-{answers.session[:4]}.answers.json"
    assert json.loads(window.page.locator("#saved textarea").input_value()) == json.loads(path.read_text())


def test_help_and_keys_that_are_no_answers(opened: tuple[Opened, Key]) -> None:
    window, _ = opened
    assert window.page.locator("#help").is_visible()
    window.press("h")
    assert not window.page.locator("#help").is_visible()
    window.press("h", "Control+y", "Alt+n", "x", "Enter")
    assert window.page.locator("#help").is_visible()
    assert window.text("#count") == "Pair 1 of 6 · 0 of 6 answered"
    window.page.keyboard.down("y")
    window.page.keyboard.down("y")  # held down: it repeats
    window.page.keyboard.up("y")
    assert window.text("#count") == "Pair 2 of 6 · 1 of 6 answered"


def test_buttons(opened: tuple[Opened, Key]) -> None:
    window, _ = opened
    assert window.page.locator("#undo").is_disabled()
    for label in ("Same", "Different", "Cannot tell"):
        window.page.get_by_role("button", name=label).click()
    window.page.locator("#undo").click()
    assert window.text("#count") == "Pair 3 of 6 · 2 of 6 answered"
    window.page.locator("#back").click()
    assert window.page.locator('[data-answer="n"]').get_attribute("aria-pressed") == "true"
    window.page.locator("#next").click()
    window.press("y")  # the focus is on a button: keys work all the same
    assert window.text("#count") == "Pair 4 of 6 · 3 of 6 answered"
    window.page.locator("#ask").click()
    assert not window.page.locator("#help").is_visible()


def test_answers_outlive_a_reload_and_start_over_forgets_them(browser: Any, tmp_path: Path) -> None:
    path, _ = written(tmp_path, 6)
    window = Opened(browser, path)
    window.press("y", "n", "n")
    window.page.reload()
    assert window.text("#count") == "Pair 4 of 6 · 3 of 6 answered"
    window.press("u")
    assert window.text("#count") == "Pair 3 of 6 · 2 of 6 answered"
    before = read_answers(window.saved(tmp_path))
    assert list(before.answers.values()) == ["y", "n"]
    window.press("h")
    window.page.locator("#anew").click()
    assert window.text("#count") == "Pair 1 of 6 · 0 of 6 answered"
    window.press("?")
    after = read_answers(window.saved(tmp_path))
    assert (list(after.answers.values()), after.session != before.session) == (["?"], True)
    assert window.said == ["dialog: Forget all answers on this page?"]
    window.page.evaluate("for (const name of Object.keys(localStorage)) localStorage.setItem(name, '{broken')")
    window.page.reload()
    assert window.text("#count") == "Pair 1 of 6 · 0 of 6 answered"
    window.context.close()


def test_without_storage_answers_are_kept_until_they_are_saved(browser: Any, tmp_path: Path) -> None:
    path, key = written(tmp_path, 3)
    window = Opened(browser, path)
    window.page.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError'); } })"
    )
    window.page.reload()
    assert "keeps no answers for this page" in window.text("#kept")
    window.press("y", "n", "y")
    saved = window.saved(tmp_path)
    check_answers(saved, read_answers(saved), key)
    assert window.said == []
    window.context.close()


def test_two_hundred_pairs(browser: Any, tmp_path: Path) -> None:
    path, key = written(tmp_path, 200)
    window = Opened(browser, path)
    given = ["yn?"[k % 3] for k in range(200)]
    for answer in given:
        widths = window.page.evaluate(
            "Promise.all([...document.images].map((image) => image.decode().then(() => image.naturalWidth)))"
        )
        assert widths == [12] * 6
        window.press(answer)
    assert window.text("#count") == "200 of 200 answered"
    assert list(read_answers(window.saved(tmp_path)).answers.items()) == [
        (pair.hash, answer) for pair, answer in zip(key.pairs, given, strict=True)
    ]
    assert window.said == []
    window.context.close()


@pytest.mark.parametrize("width", [375, 768, 1200])
def test_nothing_is_cut_off(width: int, browser: Any, tmp_path: Path) -> None:
    path, _ = written(tmp_path, 3)
    window = Opened(browser, path, width)
    for key in ("h", "y", "n", "s", "?"):
        assert window.page.evaluate("document.documentElement.scrollWidth") <= width
        window.press(key)
    assert window.page.evaluate("document.documentElement.scrollWidth") <= width
    window.context.close()


def test_answers_are_in_reach_on_a_phone(browser: Any, tmp_path: Path) -> None:
    path, _ = written(tmp_path, 3)
    window = Opened(browser, path, 375, has_touch=True, is_mobile=True)
    button = window.page.locator('[data-answer="y"]')
    box = button.bounding_box()
    assert box["y"] + box["height"] <= 812, "below the edge of a phone"
    assert box["height"] >= 44
    button.tap()
    assert "1 of 3 answered" in window.text("#count")
    window.context.close()


def test_a_hostile_name_is_text_and_the_policy_holds(opened: tuple[Opened, Key]) -> None:
    window, _ = opened
    assert window.text("#subject").startswith(f"Model {SCRIPT} · data {CLOSED} ·")
    assert window.page.title() == f"Same or different? {SCRIPT} on {CLOSED}"
    assert window.page.evaluate("document.querySelectorAll('script').length") == 2
    blocked = window.page.evaluate(
        "new Promise((done) => { document.addEventListener('securitypolicyviolation', (event) => "
        "done(event.effectiveDirective)); fetch('https://example.org/').catch(() => 0); })"
    )
    assert blocked == "connect-src"
    window.said.clear()  # the browser reports what was blocked
    window.asked[:] = [url for url in window.asked if "example.org" not in url]


def test_the_difference_is_black_where_pictures_are_equal(browser: Any, tmp_path: Path) -> None:
    pictures = torch.zeros((1, 2, 1, 8, 8), dtype=torch.uint8)
    pictures[0, 0, 0, :, :4], pictures[0, 1, 0, :, :4] = 200, 200  # equal
    pictures[0, 0, 0, :, 4:], pictures[0, 1, 0, :, 4:] = 250, 50
    shown = (Shown("0" * 16, "candidate", 0, 1, 0.1),)
    key = sealed(
        Key(
            format="genbench birthday key 1", page="0" * 64, model="m", dataset="d", revision="r", seed=0, samples=9,
            pairs=shown,
        )
    )  # fmt: skip
    path = tmp_path / "page.html"
    path.write_bytes(make_page(Chosen(shown, pictures, pictures, 9), key, 256, "page"))
    window = Opened(browser, path)
    seen = Image.open(io.BytesIO(window.page.locator("#difference div").screenshot())).convert("L")
    assert seen.getpixel((seen.width // 4, seen.height // 2)) == 0
    assert abs(seen.getpixel((3 * seen.width // 4, seen.height // 2)) - 200) <= 1
    window.context.close()
