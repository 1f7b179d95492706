"""Pages from HTML: links, encodings, what is no text, the time that odd markup takes; the words
of a local search."""

import time

import pytest

from dits_lib.tools import LocalSite, Page, PageError, markup, read_html
from dits_lib.tools.addresses import MAX_ADDRESS
from dits_lib.tools.markup import MAX_CHARACTERS, MAX_LINKS
from dits_lib.tools.pages import MAX_MESSAGE

URL = "http://example.com/a/b.html"


def page(html: str, url: str = URL) -> Page:
    return read_html(html.encode(), url)


# Links


@pytest.mark.parametrize(
    ("base", "link"),
    [
        ("/docs/", "http://example.com/docs/x.html"),
        ("https://other.org/y/", "https://other.org/y/x.html"),
        ("../c/d.html", "http://example.com/c/x.html"),
        ("javascript:alert(1)", "http://example.com/a/x.html"),
        ("http://[", "http://example.com/a/x.html"),
        ("", "http://example.com/a/x.html"),
    ],
)
def test_links_are_relative_to_the_base_that_a_page_names(base, link):
    found = page(f"<head><base href='{base}'></head><p>words</p><a href='x.html#part'>x</a>")
    assert found.links == (("x", link),)


def test_the_first_base_with_an_address_counts_and_serves_a_local_site(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "page.html").write_text(
        "<base target='_top'><base href='/deep/'><base href='/none/'><p>words</p><a "
        "href='other.html'>other</a><a href='er/page.html'>itself</a>"
    )
    (tmp_path / "deep" / "other.html").write_text("<p>the other page</p>")
    found = LocalSite(tmp_path).open("site:///deep/er/page.html")
    assert found.links == (("other", "site:///deep/other.html"),)


def test_a_link_longer_than_an_address_may_be_is_none():
    found = page(f"<p>words</p><a href='/{'x' * MAX_ADDRESS}'>long</a><a href='/y'>short</a>")
    assert found.links == (("short", "http://example.com/y"),)


def test_a_page_of_very_many_links_has_the_first():
    found = page("".join(f"<p><a href='/{n}'>link {n}</a></p>" for n in range(MAX_LINKS + 9)))
    assert len(found.links) == MAX_LINKS and found.links[-1][0] == f"link {MAX_LINKS - 1}"


# Time


def seconds(html: str) -> float:
    start = time.process_time()
    page(html)
    return time.process_time() - start


GROWING = {
    "nested divisions": "<div><p>",
    "nested divisions with words": "<div><p>words ",
    "tables": "<table><tr><td>words</td></tr></table>",
    "nested tables": "<table><tr><td>words ",
    "list items": "<li>w",
    "links within links": "<b><a href=/x>w",
    "links around divisions": "<a href='/x'><div>",
}


@pytest.mark.parametrize("kind", GROWING)
def test_twice_the_markup_takes_about_twice_the_time(kind):
    """The time by the square would be four times as long for each step, sixteen in all."""
    part = GROWING[kind]
    read_html(b"<p>words</p>", URL)  # imports
    size = 25_000 // len(part)
    quick, slow = seconds(part * size), seconds(part * 4 * size)
    assert slow < 9 * quick + 0.5


def test_what_is_parsed_is_bounded():
    """Five megabytes take no longer than one, but for the time to decode them."""
    part = GROWING["nested tables"]
    size = MAX_CHARACTERS // len(part)
    assert seconds(part * 5 * size) < 2.5 * seconds(part * size) + 0.5


def test_the_end_of_a_page_beyond_the_bounds_is_not_read(monkeypatch):
    monkeypatch.setattr(markup, "MAX_CHARACTERS", 10_000)
    monkeypatch.setattr(markup, "MAX_TAGS", 1000)
    assert "end" not in page("<p>words</p>" + "x " * 5000 + "<p>end</p>").text
    assert "end" not in page("<p>words</p>" + "<br>" * 1000 + "<p>end</p>").text
    assert "end" in page("<p>words</p>" + "<br>" * 500 + "<p>end</p>").text


def test_bytes_are_cut_before_they_are_decoded_and_no_character_is_broken():
    text = "<p>" + "日本" * 2_000_000
    found = read_html(text.encode(), URL)
    assert set(found.text) == {"日", "本"} and len(found.text) < MAX_CHARACTERS


# Encodings


@pytest.mark.parametrize(
    "name",
    ["punycode", "idna", "unicode_escape", "utf-7", "hz", "x" * 60_000, "a\0b", "zlib", "rot13"],
)
def test_only_encodings_of_pages_are_known(name):
    start = time.process_time()
    text = "<p>Zürich-" + "a-" * 200_000
    assert "Zürich" in read_html(text.encode(), URL, name).text
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("text", "encoding", "header"),
    [
        ("東京都は日本の首都です。", "shift_jis", "Shift_JIS"),
        ("東京都は日本の首都です。", "euc-jp", "EUC-JP"),
        ("東京都は日本の首都です。", "iso-2022-jp", "ISO-2022-JP"),
        ("北京是中国的首都", "gb18030", "gb2312"),
        ("北京是中國的首都", "big5", "Big5"),
        ("서울은 대한민국의 수도이다", "euc-kr", "ks_c_5601-1987"),
        ("Москва, столица", "koi8-r", "KOI8-R"),
        ("Zürich “quoted”", "cp1252", "windows-1252"),
        ("Zürich", "utf-16", None),
        ("Zürich", "utf-16-le", "utf-16"),
        ("Zürich", "utf-8", "utf-16"),
        ("Zürich", "utf-8-sig", "iso-8859-1"),
    ],
)
def test_encodings_of_pages_are_read(text, encoding, header):
    assert read_html(f"<p>{text}</p>".encode(encoding), URL, header).text == text


def test_an_encoding_that_markup_declares_is_read_where_utf_8_does_not_fit():
    html = "<head><meta charset='shift_jis'></head><p>東京都は日本の首都です。</p>"
    assert page(html).text == read_html(html.encode("shift_jis"), URL).text


def test_the_parsers_say_nothing_beside_the_page(recwarn, caplog):
    markup._quiet.cache_clear()  # pytest has filters of its own for each test
    html = "<?xml version='1.0' encoding='utf-8'?><html xmlns='http://www.w3.org/1999/xhtml'>"
    assert "words" in page(f"{html}<body><p>words</p></body></html>").text
    page("words.html")
    page("")
    assert not recwarn.list and not caplog.records


# What is no text


@pytest.mark.parametrize(
    "data",
    [
        b"%PDF-1.7\n1 0 obj",
        b"\n %PDF-1.4 ",
        b"PK\x03\x04\x14\x00words",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"GIF89a",
        b"\x1f\x8b\x08",
        b"\x7fELF\x02",
        bytes(range(256)) * 40,
        b"\x00\x00\x00\x18ftypmp42" + bytes(100),
    ],
)
def test_what_is_no_text_is_told_whatever_its_header_says(data):
    with pytest.raises(PageError) as caught:
        read_html(data, URL, "utf-8")
    assert caught.value.kind == "not text" and URL in caught.value.message


def test_a_page_about_such_files_is_text():
    assert "%PDF-1.7" in page("<p>A file begins with %PDF-1.7, or GIF89a.</p>").text
    assert "bell" in page("<p>a \x07 bell</p>").text


# Messages


def test_a_message_is_one_line_and_cut():
    error = PageError("dead", "http://example.com/" + "x" * 60_000 + ": no such host")
    assert len(error.message) == MAX_MESSAGE and " [cut] " in error.message
    assert error.message.startswith("http://example.com/x")
    assert error.message.endswith("x: no such host")
    assert PageError("dead", error.message).message == error.message
    assert PageError("dead", "one\ntwo\r\n  three").message == "one two three"


# The local search


@pytest.fixture
def shelf(tmp_path):
    def made(**pages):
        for name, text in pages.items():
            (tmp_path / name.replace("_", ".")).write_text(f"<p>{text}</p>", encoding="utf-8")
        return LocalSite(tmp_path)

    return made


def test_pages_by_any_name_of_html(shelf, tmp_path):
    site = shelf(a_html="one word", b_htm="two word", c_HTML="three word", d_HtM="four", e_txt="no")
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "gone.html").symlink_to(tmp_path / "nowhere.html")
    site = LocalSite(tmp_path)
    assert site.urls == [f"site:///{name}" for name in ("a.html", "b.htm", "c.HTML", "d.HtM")]
    assert "three word" in site.open("site:///c.HTML").text
    assert {found.url for found in site.search("word")} == set(site.urls[:3])
    for url in ("site:///e.txt", "site:///folder.html", "site:///gone.html"):
        with pytest.raises(PageError):
            site.open(url)


def test_a_link_that_leads_to_itself_is_refused(shelf, tmp_path):
    site = shelf(a_html="words")
    (tmp_path / "loop.html").symlink_to(tmp_path / "loop.html")
    with pytest.raises(PageError):
        site.open("site:///loop.html")


def test_a_file_name_that_is_no_text_is_named(tmp_path):
    try:
        (tmp_path / "odd\udcff.html").write_text("<p>words</p>")
    except OSError:
        pytest.skip("this file system has UTF-8 names alone")
    with pytest.raises(PageError, match="odd.*no name for a page"):
        LocalSite(tmp_path)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("京都", "b"),
        ("東京都の首都", "a"),
        ("日本の首都", "a"),
        ("北京", "c"),
        ("猫", "d"),
        ("ﾈｺ", "e"),  # half-width
        ("か\u3099っこう", "f"),  # decomposed
        ("서울은", "g"),
        ("Python入門", "h"),
        ("python", "h"),
    ],
)
def test_text_without_spaces_is_found(shelf, query, found):
    site = shelf(
        a_html="東京は日本の首都です。人口が多い。",
        b_html="京都には寺が多く、観光客が訪れる。",
        c_html="北京是中国的政治中心。",
        d_html="三毛猫が庭で眠っている。",
        e_html="ネコという動物について。",
        f_html="がっこうへ行く。",
        g_html="서울은 대한민국의 수도이다.",
        h_html="はじめてのPython入門書",
    )
    assert site.search(query)[0].url == f"site:///{found}.html"


def test_what_stands_nowhere_is_not_found(shelf):
    site = shelf(a_html="東京は日本の首都です。", b_html="a stone bridge")
    assert site.search("火星") == [] and site.search("。") == []
