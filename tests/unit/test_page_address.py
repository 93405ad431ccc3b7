"""Reading a page's address: nothing raises, and the same site is one name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.page_address import NO_ADDRESS, PageAddress, page_address, referrer_domain


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", NO_ADDRESS),
        ("https://WWW.Shop.Example:8080/a/b?x=1#c", PageAddress("shop.example", "/a/b", "", "", "")),
        ("/a?utm_source=n%20l&utm_medium=m&utm_campaign=c", PageAddress("", "/a", "n l", "m", "c")),
        ("https://[broken/", NO_ADDRESS),
        ("https://a.example?utm_source=first&utm_source=second", PageAddress("a.example", "", "first", "", "")),
    ],
)
def test_the_parts_that_count(url: str, told: PageAddress) -> None:
    assert page_address(url) == told


def test_nobody_comes_from_the_page_s_own_site() -> None:
    host = page_address("https://shop.example/p").host
    assert referrer_domain("https://www.shop.example/basket", host) == ""
    assert referrer_domain("https://www.search.example/", host) == "search.example"
    assert referrer_domain("android-app://com.example.app", "") == "com.example.app"


@given(st.text(max_size=50) | st.text(":/?#[]@&=utm_sorce.w%", max_size=50))
def test_any_text_is_an_address_or_none(url: str) -> None:
    address = page_address(url)
    assert not address.host.startswith("www.") or url.count("www.") > 1
