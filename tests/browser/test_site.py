"""The page's files over HTTP: headers, caching, and nothing but the files."""

from collections.abc import Iterator

import httpx
import pytest

from tests.browser.target import Target


@pytest.fixture(scope="module")
def client(target: Target) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=target.base_url, timeout=10) as client:
        yield client


def test_the_page_allows_only_its_own_scripts_and_styles(client: httpx.Client) -> None:
    policy = client.get("/").headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "style-src 'self';" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "style=" not in client.get("/").text


@pytest.mark.parametrize(
    "path", ["/", "/static/js/main.js", "/static/css/page.css", "/static/vendor/inter-latin.woff2"]
)
def test_an_unchanged_file_is_not_sent_again(client: httpx.Client, path: str) -> None:
    first = client.get(path)
    assert first.status_code == 200
    assert first.headers["x-content-type-options"] == "nosniff"
    again = client.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_text_is_compressed_where_the_browser_takes_it(client: httpx.Client) -> None:
    packed = client.get("/static/vendor/uplot.js")
    plain = client.get("/static/vendor/uplot.js", headers={"Accept-Encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.content == plain.content


@pytest.mark.parametrize(
    "path",
    ["/static/", "/static/../site.py", "/static/%2e%2e/site.py", "/static/vendor/VENDORED.md", "/static/none.js"],
)
def test_nothing_else_can_be_reached(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404


def test_nothing_can_be_changed(client: httpx.Client) -> None:
    assert client.post("/").status_code == 405
