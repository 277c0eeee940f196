"""The web leaderboard in a real browser, opened from disk as a reader would."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs

import msgspec
import pytest
from trials import digits_trial

from harness.engine.records import CurvePoint, Record
from harness.report.site import build

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.common.exceptions import StaleElementReferenceException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
HOSTILE = "<img src=x onerror=alert(1)>"
BY_FLOPS = ["random", "dm", "idm", HOSTILE]
PATIENCE_SECONDS = 60
WIDTHS = (1280, 390, 900)
PLAIN_PAGES = ("index.html", "compute.html", "how.html", "methods.html", "methods/bacon.html")
READY = {"index.html": "table", "compute.html": "plot"}
LATE_SCRIPT = re.compile(r'<script src="([^"]+)"></script>')
CONTROLS = "main :is(button, input, select, textarea)"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="no chromium and chromedriver (apt-get install both)"
    ),
]


def record(method: str, ipc: int, seed: int, flops: float, **asked: str) -> Record:
    """A finished trial whose accuracy grows with its FLOPs."""
    trial = digits_trial(method=method, ipc=ipc, seed=seed, scale="cpu", evals=2, **asked)
    cost = {"seconds": 2.0, "warmup_seconds": 0.1, "steps": 3, "flops": flops, "images_forwarded": 9}
    mean = 0.3 + 0.05 * len(method) + 0.01 * ipc + 0.002 * seed
    facts: dict[str, Any] = {
        "id": trial.id,
        "status": "done",
        "trial": msgspec.to_builtins(trial),
        "accuracies": [mean, mean + 0.01],
        "class_accuracies": [[mean] * 10] * 2,
        "distill": cost | {"peak_host_bytes": 2**28, "peak_device_bytes": None},
        "curve": [
            msgspec.to_builtins(CurvePoint(step, flops * step / 3 + 1, [0.1 * step])) for step in (1, 3)
        ],
        "stored_images": 10 * ipc,
        "stored_bytes": 10 * ipc * (8 * 8 * 4 + 8),
    }
    return msgspec.convert(facts, Record)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("site")
    methods = {"dm": 1e12, "idm": 2e12, "random": 0.0, HOSTILE: 3e12}
    records = [
        record(method, ipc, seed, flops)
        for method, flops in methods.items()
        for ipc in (1, 10)
        for seed in (0, 1)
    ]
    build.write(build.files(build.site_of(records, folder)), folder)
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("profile")
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, site: Path) -> Iterator[Page]:
    opened = Page(browser, site)
    opened.resize(WIDTHS[0])
    browser.get_log("browser")
    browser.get_log("performance")
    yield opened
    opened.assert_quiet()


class Page:
    """The browser on a page of the site."""

    def __init__(self, browser: Any, site: Path) -> None:
        self.browser, self.site = browser, site

    def open(self, name: str, query: str = "") -> None:
        self.browser.get(f"{(self.site / name).as_uri()}{query}")
        if name in READY:
            self.ready(READY[name])

    def open_early(self, name: str, query: str = "") -> None:
        """Open a page as it is before the scripts at its end have come, which `arrive` lets them."""
        head, end, tail = (self.site / name).read_text(encoding="utf-8").partition("</main>")
        self.late, self.waits_for = LATE_SCRIPT.findall(tail), READY[name]
        assert self.late
        early = self.site / f"early-{name}"
        early.write_text(head + end + LATE_SCRIPT.sub("", tail), encoding="utf-8")
        self.browser.get(f"{early.as_uri()}{query}")

    def arrive(self) -> None:
        """Let the scripts come that `open_early` held back, in their order."""
        self.run(
            "for (const src of arguments[0])"
            "  document.body.append(Object.assign(document.createElement('script'), { src, async: false }))",
            self.late,
        )
        self.ready(self.waits_for)

    def ready(self, what: str) -> None:
        """Wait until the `table` or the `plot` listens."""
        self.until("return document.documentElement.dataset.ready === arguments[0]", what)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def until(self, script: str, *arguments: Any) -> Any:
        return WebDriverWait(self.browser, PATIENCE_SECONDS).until(lambda _: self.run(script, *arguments))

    def all(self, selector: str) -> list[Any]:
        return list(self.browser.find_elements(By.CSS_SELECTOR, selector))

    def one(self, selector: str) -> Any:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def labels(self) -> list[str]:
        """Methods in the rows that are shown, in their order, all of one moment."""
        names = "return [...document.querySelectorAll('#board tbody .name')].map((name) => name.innerText)"
        return list(self.run(names))

    def comes_to_show(self, labels: list[str]) -> None:
        """Wait for these rows: a click on a header is heard at once and obeyed in a later task."""
        wait = WebDriverWait(self.browser, PATIENCE_SECONDS)
        wait.until(lambda _: self.labels() == labels, f"rows are not {labels}")

    def choose(self, facet: str, value: str) -> None:
        Select(self.one(f"select[data-facet={facet}]")).select_by_visible_text(value)

    def hover(self, selector: str, appears: str) -> None:
        """Move the mouse over an element until what it calls up is there: it may be drawn anew meanwhile."""

        def moved(_: object) -> bool:
            mouse = webdriver.ActionChains(self.browser)
            mouse.move_to_element(self.one("h1")).move_to_element(self.one(selector)).perform()
            return bool(self.all(appears))

        forgiven = [StaleElementReferenceException]
        WebDriverWait(self.browser, PATIENCE_SECONDS, ignored_exceptions=forgiven).until(moved)

    def query(self) -> dict[str, list[str]]:
        return parse_qs(str(self.run("return location.search.slice(1)")))

    def resize(self, width: int, scheme: str = "light") -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def assert_quiet(self) -> None:
        """No message in the console, and no request but for files of the site."""
        assert self.browser.get_log("browser") == []
        messages = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        assert sent
        allowed = (self.site.as_uri(), "data:", "http://127.0.0.1:")
        assert [url for url in sent if not url.startswith(allowed)] == []


def test_filters_are_kept_in_the_address(page: Page) -> None:
    page.open("index.html")
    page.choose("kind", "measured")
    page.choose("ipc", "10")
    assert set(page.labels()) == {"dm", "idm", "random", HOSTILE}
    assert page.query() == {"kind": ["measured"], "ipc": ["10"]}
    page.one("[data-search]").send_keys("DM")
    assert set(page.labels()) == {"dm", "idm"}
    page.browser.refresh()
    page.ready("table")
    assert set(page.labels()) == {"dm", "idm"}
    assert page.one("[data-search]").get_attribute("value") == "DM"
    page.one("[data-reset]").click()
    assert len(page.labels()) > 4
    assert page.query() == {}


@pytest.fixture(scope="module")
def asked_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sets of two methods asked with their own network and with another, one also under another protocol."""
    folder: Path = tmp_path_factory.mktemp("asked")
    records = [
        record(method, 1, 0, 1e12, eval_arch=other) for method in ("dm", "idm") for other in ("", "MLP")
    ]
    records.append(record("dm", 1, 0, 1e12, protocol="kd-300"))
    records[1] = msgspec.structs.replace(records[1], regime="hard")
    build.write(build.files(build.site_of(records, folder)), folder)
    return folder


def test_rows_are_filtered_by_network_protocol_and_regime(browser: Any, asked_site: Path) -> None:
    opened = Page(browser, asked_site)
    opened.resize(WIDTHS[0])
    opened.open("index.html", "?kind=measured")
    assert opened.labels().count("dm") == 3
    opened.choose("network", "MLP")
    assert sorted(opened.labels()) == ["dm", "idm"]
    assert "sets by ConvNetW16" in opened.one("#board tbody").text
    opened.choose("regime", "hard labels")
    assert opened.labels() == ["dm"]
    assert opened.query() == {"kind": ["measured"], "network": ["MLP"], "regime": ["hard labels"]}
    opened.one("[data-reset]").click()
    opened.choose("protocol", "kd-300")
    assert opened.labels() == ["dm"]
    opened.all("nav .page")[1].click()
    opened.ready("plot")
    assert "kd-300" in Select(opened.one("[data-track]")).first_selected_option.text


def test_a_record_leads_to_the_other_evaluations_of_its_set(browser: Any, asked_site: Path) -> None:
    opened = Page(browser, asked_site)
    opened.open("index.html", "?protocol=kd-300")
    opened.one("#board .name").click()
    opened.until("return document.querySelector('h1')?.textContent === 'dm'")
    links = [link for link in opened.all(".seeds a") if link.text.startswith("MLP")]
    assert [link.text for link in links] == ["MLP · dc-smoke"]
    links[0].click()
    opened.until("return document.querySelector('.lead').textContent.includes('MLP on sets by ConvNetW16')")
    assert opened.query() == {"protocol": ["kd-300"]}


def test_a_link_to_what_is_gone_shows_everything(page: Page) -> None:
    page.open("index.html", "?dataset=gone&sort=nothing.asc")
    assert len(page.labels()) > 4


def test_sorting_by_mouse_and_by_keyboard(page: Page) -> None:
    page.open("index.html", "?kind=measured&ipc=1")
    header = page.one("#board th.flops .dt-column-order")
    header.click()
    page.comes_to_show(BY_FLOPS)
    assert page.query()["sort"] == ["flops.asc"]
    header.send_keys(Keys.ENTER)
    page.comes_to_show(BY_FLOPS[::-1])
    page.browser.refresh()
    page.ready("table")
    assert page.labels() == BY_FLOPS[::-1]


def test_a_click_on_a_header_counts_as_soon_as_there_is_one(page: Page) -> None:
    page.open_early("index.html", "?kind=measured&ipc=1")
    page.run("""
      new MutationObserver((_, observer) => {
        const header = document.querySelector("#board th.flops .dt-column-order");
        if (!header) return;
        observer.disconnect();
        header.click();
      }).observe(document.body, { childList: true, subtree: true });""")
    page.arrive()
    page.comes_to_show(BY_FLOPS)
    assert page.query()["sort"] == ["flops.asc"]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", READY)
def test_nothing_can_be_chosen_before_the_page_listens(page: Page, name: str, width: int) -> None:
    page.resize(width)
    page.open_early(name, "?ipc=1")
    assert len(page.all(CONTROLS)) > 1
    assert page.all(f"{CONTROLS}:enabled") == []
    for control in page.all(CONTROLS):
        if control.is_displayed():
            webdriver.ActionChains(page.browser).move_to_element(control).click().send_keys("x").perform()
    reached = set()
    for _ in range(12):
        webdriver.ActionChains(page.browser).send_keys(Keys.TAB).perform()
        reached.add(page.run("return document.activeElement.tagName"))
    assert "A" in reached
    assert reached <= {"A", "SUMMARY", "MAIN", "BODY"}
    page.arrive()
    assert page.all(f"{CONTROLS}:disabled") == []
    assert page.query() == {"ipc": ["1"]}


def test_a_link_takes_the_filter_along_before_the_page_listens(page: Page) -> None:
    page.open_early("index.html", "?kind=measured&ipc=10")
    page.all("nav .page")[1].click()
    page.ready("plot")
    assert Select(page.one("[data-ipc]")).first_selected_option.text == "10"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", READY)
def test_nothing_moves_under_a_finger_when_the_page_begins_to_listen(
    page: Page, name: str, width: int
) -> None:
    places = """
      const shown = [...document.querySelectorAll("nav a, summary, .filters, .notice, .legend")];
      return shown.map((each) => each.getBoundingClientRect().top);"""
    page.resize(width)
    page.open_early(name)
    before = page.run(places)
    page.arrive()
    assert page.run(places) == before


def test_unknown_figures_come_last_either_way(page: Page) -> None:
    for direction in ("asc", "desc"):
        page.open("index.html", f"?sort=flops.{direction}")
        kinds = [element.text for element in page.all("#board tbody .badge")]
        assert kinds[0] == "measured"
        assert kinds[-1] == "reported"


def test_mixed_tracks_are_said_not_to_compare(page: Page) -> None:
    page.open("index.html")
    assert "compare only within one" in page.one("[data-notice]").text
    page.choose("kind", "measured")
    assert "compare" not in page.one("[data-notice]").text


def test_a_record_opens_and_leads_back_to_the_same_filter(page: Page) -> None:
    page.open("index.html", "?kind=measured&ipc=1")
    next(link for link in page.all("#board .name") if link.text == "dm").click()
    page.until("return document.querySelector('h1')?.textContent === 'dm'")
    assert "/records/" in page.browser.current_url
    for text in ("While it was distilled", "Class by class", "Provenance", "--methods dm"):
        assert text in page.one("main").text
    page.one(".crumbs a").click()
    page.ready("table")
    assert page.query() == {"kind": ["measured"], "ipc": ["1"]}


def test_a_name_with_markup_is_text(page: Page) -> None:
    page.open("index.html", "?kind=measured&ipc=1")
    assert HOSTILE in page.labels()
    assert page.all("img") == []
    next(link for link in page.all("#board .name") if link.text == HOSTILE).click()
    page.until("return document.querySelector('h1')?.textContent === arguments[0]", HOSTILE)
    assert "/records/" in page.browser.current_url
    assert page.all("img") == []
    page.open("compute.html")
    assert HOSTILE in [button.text for button in page.all(".entry")]
    assert page.all("img") == []


def test_the_legend_takes_methods_away_and_the_address_keeps_it(page: Page) -> None:
    marks = "return document.querySelectorAll('#plot .mark-symbol path').length"
    page.open("compute.html", "?ipc=1")
    page.until(f"{marks} === 3")
    assert len(page.all("#plot .mark-rule line")) >= 1
    entry = next(button for button in page.all(".entry") if button.text == "idm")
    entry.send_keys(Keys.SPACE)
    page.until(f"{marks} === 2")
    assert entry.get_attribute("aria-pressed") == "false"
    assert page.query()["hide"] == ["idm"]
    page.browser.refresh()
    page.ready("plot")
    page.until(f"{marks} === 2")
    page.one("[data-none]").click()
    page.until(f"{marks} === 0")
    page.one("[data-all]").click()
    page.until(f"{marks} === 3")
    assert "hide" not in page.query()


def test_names_stand_at_points_and_lines_and_cover_nothing(browser: Any, tmp_path: Path) -> None:
    """More methods than colours: a crowd of points a hair apart, and two methods that compute nothing."""
    costs = {f"m{k:02}{'x' * (k % 5)}": 1e12 * (1 + 0.1 * k) for k in range(14)}  # accuracy goes by length
    costs |= {"random": 0.0, "random_packed": 0.0}
    made = [record(method, 1, seed, flops) for method, flops in costs.items() for seed in (0, 1)]
    records = [msgspec.structs.replace(one, curve=[]) for one in made]
    build.write(build.files(build.site_of(records, tmp_path)), tmp_path)
    opened = Page(browser, tmp_path)
    for width in WIDTHS:
        opened.resize(width)
        opened.open("compute.html")
        texts = "[...document.querySelectorAll('#plot .role-mark.mark-text text')]"
        names = f"{texts}.filter((one) => one.textContent)"
        opened.until(f"return {names}.length >= {len(costs) if width == max(WIDTHS) else 3}")
        box = "one.getBoundingClientRect().toJSON()"
        found = opened.run(f"return {names}.map((one) => [one.textContent, {box}])")
        shown, boxes = zip(*found, strict=True)
        assert {"random", "random_packed"} <= set(shown) <= set(costs)
        overlapping = [
            (shown[i], shown[k])
            for i, a in enumerate(boxes)
            for k, b in enumerate(boxes[:i])
            if a["left"] < b["right"] - 1 and b["left"] < a["right"] - 1
            if a["top"] < b["bottom"] - 3 and b["top"] < a["bottom"] - 3
        ]
        assert overlapping == []


def test_no_two_methods_of_a_track_look_alike_until_there_are_more_than_looks(
    browser: Any, tmp_path: Path
) -> None:
    methods = [f"m{k:02}" for k in range(81)]  # one more than there are looks
    made = [record(method, 1, 0, 1e12 * (k + 1)) for k, method in enumerate(methods)]
    made += [record(method, 1, 0, 1e12, arch="LeNet") for method in methods[::20]]
    records = [msgspec.structs.replace(one, curve=[]) for one in made]
    build.write(build.files(build.site_of(records, tmp_path)), tmp_path)
    opened = Page(browser, tmp_path)
    opened.resize(WIDTHS[0])
    opened.open("compute.html")
    tracks = Select(opened.one("[data-track]"))
    look = "(path) => `${path.getAttribute('fill')} ${path.getAttribute('d')}`"
    for network, hidden, alike in (("LeNet", 0, 0), ("ConvNetW16", 0, 1), ("ConvNetW16", 1, 0)):
        tracks.select_by_visible_text(next(o.text for o in tracks.options if o.text.endswith(network)))
        for entry in opened.all(".entry")[:hidden]:
            entry.click()
        shown = len(opened.all(".entry[aria-pressed=true]"))
        opened.until(
            "return document.querySelectorAll('#plot .mark-symbol path').length === arguments[0]", shown
        )
        for marks in ("#plot .mark-symbol path", ".entry[aria-pressed=true] svg path"):
            looks = opened.run(f"return [...document.querySelectorAll(arguments[0])].map({look})", marks)
            assert len(set(looks)) == len(looks) - alike
        assert ("look alike" in opened.one("[data-notice]").text) == bool(alike)


def test_hovering_says_what_a_point_is(page: Page) -> None:
    page.open("compute.html", "?ipc=1&hide=idm")
    page.until("return document.querySelectorAll('#plot .mark-symbol path').length === 2")
    page.hover("#plot .mark-symbol path", "#vg-tooltip-element.visible")
    assert "95 % interval" in page.one("#vg-tooltip-element").text


def test_the_plot_takes_the_filter_of_the_table_along(page: Page) -> None:
    page.open("index.html", "?kind=measured&ipc=10")
    page.all("nav .page")[1].click()
    page.ready("plot")
    assert Select(page.one("[data-ipc]")).first_selected_option.text == "10"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_scrolls_sideways(page: Page, width: int, scheme: str) -> None:
    page.resize(width, scheme)
    record_page = sorted((page.site / "records").glob("*.html"))[0]
    for name in (*PLAIN_PAGES, f"records/{record_page.name}"):
        page.open(name)
        assert page.run("return document.documentElement.scrollWidth") <= width, name


def test_colours_follow_the_system_and_are_legible(page: Page) -> None:
    luminance = """
      const rgb = (name) => getComputedStyle(document.body)[name].match(/[\\d.]+/g).map(Number);
      const light = (c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
      const of = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
      return [of(rgb("color")), of(rgb("backgroundColor"))];"""
    for scheme in ("light", "dark"):
        page.resize(1280, scheme)
        page.open("how.html")
        text, ground = page.run(luminance)
        assert (text < ground) == (scheme == "light")
        assert (max(text, ground) + 0.05) / (min(text, ground) + 0.05) > 7


def test_focus_is_seen_on_everything_that_takes_it(page: Page) -> None:
    page.open("index.html", "?kind=measured&ipc=1")
    seen = set()
    for _ in range(24):
        webdriver.ActionChains(page.browser).send_keys(Keys.TAB).perform()
        tag, style, width = page.run(
            "const e = document.activeElement, s = getComputedStyle(e);"
            "return [e.tagName, s.outlineStyle, parseFloat(s.outlineWidth)]"
        )
        if tag != "BODY":
            assert style != "none"
            assert width >= 1, tag
            seen.add(tag)
    assert {"A", "SELECT", "INPUT", "BUTTON"} <= seen


def test_on_a_phone_rows_can_be_sorted_too(page: Page) -> None:
    page.resize(WIDTHS[1])
    page.open("index.html", "?kind=measured&ipc=1")
    page.one(".filter-box summary").click()
    Select(page.one("[data-sort]")).select_by_value("flops.desc")
    page.comes_to_show(BY_FLOPS[::-1])


def test_it_works_from_a_web_server_as_well(page: Page) -> None:
    handler = partial(QuietHandler, directory=str(page.site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with contextlib.closing(Stopper(server)):
            page.browser.get(f"http://127.0.0.1:{server.server_port}/index.html?kind=measured")
            page.ready("table")
            assert "dm" in page.labels()


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class Stopper:
    """Ends a server when it is closed."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.server = server

    def close(self) -> None:
        """Stop serving."""
        self.server.shutdown()
