"""A real browser: Debian's chromium, without a screen, driven through selenium."""

import os
import shutil

import pytest

PROGRAMS = ("chromium", "chromedriver")


@pytest.fixture(scope="session")
def driver():
    """Start the browser; skip where there is none, but fail where CI should have installed it."""
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    try:
        from selenium import webdriver
    except ImportError:
        missing.append("selenium")
    if missing:
        reason = f"no {', '.join(missing)}: apt-get install chromium chromium-driver"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for option in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()
