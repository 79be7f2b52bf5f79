"""The status page of a real daemon, as a real browser shows it to a person."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from processes import free_port, running

pytestmark = pytest.mark.e2e

PHONE, NARROWEST, DESK = 360, 320, 1280
"""Widths in pixels. WCAG 2.2, 1.4.10: nothing scrolls in two directions at 320."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        yield started
        started.close()


def sink(folder: Path, name: str) -> dict[str, Any]:
    (folder / name).mkdir()
    return {"type": "aws_credentials", "path": str(folder / name / "credentials"), "profile": "s3"}


@pytest.fixture(scope="module")
def address(cloud: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a daemon shows two identities in order, one after three rotations, and two on hold."""
    folder = tmp_path_factory.mktemp("daemon")
    users = {
        "backup_user": [sink(folder, "host"), sink(folder, "mirror")],
        "archive": [sink(folder, "archive")],
        "photos": [sink(folder, "photos"), sink(folder, "lost-disk")],
        "mail": [sink(folder, "mail")],
    }
    for user in set(users) - {"backup_user"}:
        cloud.iam.create_user(UserName=user)
    (folder / "aws").write_text(cloud.credentials)
    listen = f"127.0.0.1:{free_port()}"
    settings = cloud.configuration("unused", listen=listen, state=str(folder / "state"))
    plain = settings["identities"][0]
    settings["identities"] = [plain | {"user": user, "sinks": users[user]} for user in users]
    config = folder / "rekeyd.yaml"
    config.write_text(yaml.safe_dump(settings))
    with running(config, {"AWS_SHARED_CREDENTIALS_FILE": str(folder / "aws")}) as daemon:
        for _ in users:
            daemon.expect("rotated")
        cloud.iam.create_access_key(UserName="archive")
        rmtree(folder / "lost-disk")
        daemon.signal(signal.SIGUSR1)
        daemon.expect("rotated", identity="backup_user")
        daemon.expect("delete", identity="backup_user")
        daemon.signal(signal.SIGUSR1)
        daemon.expect("rotated", identity="backup_user")
        yield f"http://{listen}/"
        assert daemon.stop() == 0


@contextmanager
def opened(browser: Browser, address: str, width: int = DESK, **settings: Any) -> Iterator[Page]:
    """Show the page in a window of its own, in which nothing may be complained of."""
    window = browser.new_context(viewport={"width": width, "height": 900}, **settings)
    page = window.new_page()
    complaints: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    yield page
    window.close()
    assert (complaints, asked) == ([], [address])


SCHEMES = ("light", "dark")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_axe_finds_nothing_to_mend(
    browser: Browser, address: str, width: int, scheme: Any, tmp_path: Path
) -> None:
    with opened(browser, address, width, color_scheme=scheme) as page:
        page.screenshot(path=tmp_path / f"{scheme}-{width}.png", full_page=True)
        found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("width", [NARROWEST, PHONE])
def test_nothing_is_cut_off_on_a_phone(browser: Browser, address: str, width: int) -> None:
    with opened(browser, address, width) as page:
        page.locator("summary").first.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_what_to_do_is_seen_without_scrolling(browser: Browser, address: str) -> None:
    with opened(browser, address, PHONE) as page:
        assert page.title() == "rekeyd: 2 of 4 identities wait for you"
        cards = page.get_by_role("article")
        held, also_held, well = (cards.nth(place).inner_text() for place in range(3))
        assert "rekeyd adopt archive KEY_ID" in held
        assert "lost-disk does not exist" in also_held
        assert "in order" in well
        box = page.get_by_text("What to do:").first.bounding_box()
        assert box
        assert box["y"] + box["height"] < 640


def test_it_works_by_keyboard_and_without_javascript(browser: Browser, address: str) -> None:
    with opened(browser, address, java_script_enabled=False) as page:
        card = page.get_by_role("article").nth(2)
        card.locator("summary").focus()
        page.keyboard.press("Enter")
        told = card.locator("ol").inner_text()
    assert [word for word in ("made", "replaced", "deleted") if word not in told] == []


def test_a_script_that_got_in_would_not_run(browser: Browser, address: str) -> None:
    page = browser.new_page()
    page.goto(address)
    ran = page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.ran = true";
            document.body.append(script);
            return window.ran ?? false;
        }"""
    )
    page.close()
    assert ran is False
