"""Pages: a local site, a live client against a server of every fault, and a cache that replays
without the network."""

import gzip
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dits_lib.settings import ROOT
from dits_lib.tools import (
    KINDS,
    Cached,
    CacheError,
    LocalSite,
    Page,
    PageError,
    Web,
    read_html,
    shown,
)

PAGES = {
    "index.html": "<title>Home</title><p>Welcome to the village museum of Ballymore.</p><a href='people/byrne.html'>Ada Byrne</a> <a href='http://example.com/x.html'>elsewhere</a>",  # noqa: E501
    "people/byrne.html": "<title>Ada Byrne</title><p>Ada Byrne built the stone bridge. She was born in Cork.</p><a href='../index.html#top'>home</a>",  # noqa: E501
    "bridges.html": "<title>Bridges</title><p>Three bridges cross the river; the stone bridge is the oldest.</p><script>var cork = 1</script>",  # noqa: E501
}


@pytest.fixture
def site(tmp_path):
    for name, body in PAGES.items():
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"<html><body>{body}</body></html>")
    (tmp_path / "secret.html").write_text("<p>secret</p>")
    return LocalSite(tmp_path / "site")


def test_a_site_is_searched_and_its_links_followed_inside_it(site):
    found = site.search("who was born in Cork")
    assert found[0].title == "Ada Byrne" and "born in Cork" in found[0].text
    assert found[0].links == (("home", "site:///index.html"),)
    # The way out is not there.
    assert site.open("site:///index.html").links == (("Ada Byrne", "site:///people/byrne.html"),)
    assert "cork" not in site.open("site:///bridges.html").text
    assert site.search("") == [] and site.search("zzz qqq") == [] and site.search("the of") == []


def test_bm25_ranks_as_its_formula(site):
    """bm25s' default (Lucene) on one word: idf * tf / (tf + k1 (1 - b + b len / mean)), k1 = 1.5, b
    = 0.75."""
    import bm25s

    texts = [
        [
            w
            for w in bm25s.tokenize(
                [f"{p.title} {p.text}"], stopwords="en", return_ids=False, show_progress=False
            )[0]
        ]
        for p in map(site.open, site.urls)
    ]
    mean = sum(map(len, texts)) / 3

    def score(words):
        tf = words.count("bridge")
        return tf / (tf + 1.5 * (0.25 + 0.75 * len(words) / mean))

    best = max(range(3), key=lambda i: score(texts[i]))
    assert site.search("bridge")[0].url == site.urls[best]


@pytest.mark.parametrize(
    "url",
    [
        "site:///../secret.html",
        "site:///%2e%2e/secret.html",
        "file:///etc/passwd",
        "http://example.com/",
        "site:///people",
        "site://../secret.html",
    ],
)
def test_a_site_opens_nothing_outside_itself(site, url):
    with pytest.raises(PageError, match="refused"):
        site.open(url)


def test_a_link_out_of_the_folder_by_the_file_system_is_refused(site, tmp_path):
    (tmp_path / "site" / "trap.html").symlink_to(tmp_path / "secret.html")
    with pytest.raises(PageError, match="refused"):
        LocalSite(tmp_path / "site").open("site:///trap.html")


def test_missing_pages_and_sites(site, tmp_path):
    with pytest.raises(PageError, match="no such page"):
        site.open("site:///none.html")
    with pytest.raises(PageError, match="no folder with"):
        LocalSite(tmp_path / "nothing")


def test_a_page_in_words():
    page = Page("u", "Title", "x" * 50, tuple((f"link {i}", f"u{i}") for i in range(5)))
    assert shown(page, 10, 2) == "Title\nxxxxxxxxxx [cut]\nlinks:\n[1] link 0\n[2] link 1"
    assert shown(Page("u", "", "text")) == "text"


@pytest.mark.parametrize(
    "markup",
    [
        "<div>" * 20_000 + "words",
        "<p>words</p><![foo bar",
        "<p>words</p><a href='http://[foo'>x</a>",
        "<p>words</p>" + "<a " * 300_000,
        "words" + "<" * 100_000,
    ],
)
def test_markup_that_would_defeat_a_parser_is_read_in_time(markup):
    start = time.monotonic()
    assert (
        "words" in read_html(markup.encode(), "http://example.com/").text
        and time.monotonic() - start < 10
    )


def test_addresses_outside_ascii(tmp_path):
    for name in ("my page.html", "Zürich.html", "100%25.html", "back.html"):
        (tmp_path / name).write_text(
            f"<title>{name}</title><p>about {name}</p><a href='my%20page.html'>a</a><a "
            "href='Z%C3%BCrich.html'>b</a><a href='Zürich.html#x'>c</a><a "
            "href='100%2525.html'>d</a>"
        )
    site = LocalSite(tmp_path)
    assert sorted(url for _, url in site.open("site:///back.html").links) == [
        "site:///100%2525.html",
        "site:///Z%C3%BCrich.html",
        "site:///my%20page.html",
    ]
    assert {site.open(url).title for url in site.urls} == {
        "my page.html",
        "Zürich.html",
        "100%25.html",
        "back.html",
    }
    assert site.search("about Zürich")[0].title == "Zürich.html"
    for url in ("site:///a%00.html", "site://[x/", "\x00"):
        with pytest.raises(PageError):
            site.open(url)


def test_encodings():
    text = "<p>Zürich liegt in der Schweiz, südlich von Schaffhausen und östlich von Basel.</p>"
    assert "Zürich" in read_html(text.encode("latin-1"), "u", "iso-8859-1").text
    assert "Zürich" in read_html(text.encode("utf-8"), "u", "no-such-encoding").text
    assert "Zürich" in read_html(text.encode("utf-16"), "u").text
    # The header lies.
    assert "liegt in der Schweiz" in read_html(text.encode("latin-1"), "u", "utf-8").text
    assert read_html(b"\xff\xfe\x00broken", "u").url == "u"


# A server of every fault


class Faulty(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def reply(self, body=b"", status=200, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.server.asked.append(self.path)
        path = self.path
        if path == "/robots.txt":
            self.reply(b"User-agent: *\nDisallow: /private\n", Content_Type="text/plain")
        elif path == "/plain":
            self.reply(
                b"<title>Plain</title><p>Hello there, this is a page.</p><a href='/next'>next</a>",
                Content_Type="text/html; charset=utf-8",
            )
        elif path == "/moved":
            self.reply(status=302, Location="/plain")
        elif path.startswith("/loop"):
            self.reply(status=302, Location=path + "x")
        elif path == "/inside":
            self.reply(status=302, Location="http://169.254.169.254/latest/meta-data")
        elif path == "/file":
            self.reply(status=302, Location="file:///etc/passwd")
        elif path == "/large":
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            try:
                for _ in range(50):
                    self.wfile.write(b"x" * 1_000_000)
            except OSError:
                self.server.cut = True
        elif path == "/bomb":
            self.reply(
                gzip.compress(b"x" * 30_000_000), Content_Type="text/html", Content_Encoding="gzip"
            )
        elif path == "/gzip":
            self.reply(
                gzip.compress(b"<p>packed though nobody asked</p>"),
                Content_Type="text/html",
                Content_Encoding="gzip",
            )
        elif path == "/slow":
            time.sleep(3)
        elif path == "/drip":
            self.send_response(200)
            self.end_headers()
            for _ in range(40):
                try:
                    self.wfile.write(b"x")
                    self.wfile.flush()
                except OSError:
                    return
                time.sleep(0.1)
        elif path == "/headers":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            for _ in range(20):
                try:
                    self.wfile.write(b"X")
                    self.wfile.flush()
                except OSError:
                    return
                time.sleep(0.3)
        elif path == "/go":
            self.reply(status=302, Location="/private/x")
        elif path == "/nonsense":
            self.reply(status=302, Location="http://[x/")
        elif path == "/Z%C3%BCrich":
            self.reply(b"<title>Z</title><p>A page about the town.</p>", Content_Type="text/html")
        elif path == "/picture":
            self.reply(b"\x89PNG", Content_Type="image/png")
        elif path == "/broken":
            self.wfile.write(b"nonsense\r\n\r\n")
        else:
            self.reply(status=404)


@pytest.fixture(scope="module")
def server():
    found = ThreadingHTTPServer(("127.0.0.1", 0), Faulty)
    found.asked, found.cut = [], False
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()


@pytest.fixture(scope="module")
def root(server):
    return f"http://127.0.0.1:{server.server_port}"


@pytest.fixture(scope="module")
def web():
    return Web(seconds=1.0, max_bytes=2_000_000, private=True)


def test_a_live_page(web, root, server):
    page = web.open(f"{root}/moved")
    assert page.title == "Plain" and "this is a page" in page.text and page.url == f"{root}/plain"
    assert page.links == (("next", f"{root}/next"),)
    assert "packed though nobody asked" in web.open(f"{root}/gzip").text
    assert server.asked.count("/robots.txt") == 1  # read once a host
    assert web.open(f"{root}/Zürich").title == web.open(f"{root}/Z%C3%BCrich").title == "Z"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/private/x", "robots"),
        ("/loop", "redirects"),
        ("/large", "too large"),
        ("/bomb", "too large"),
        ("/slow", "slow"),
        ("/drip", "slow"),
        ("/picture", "not text"),
        ("/broken", "dead"),
        ("/none", "no page"),
        ("/file", "refused"),
        ("/headers", "slow"),
        ("/go", "robots"),
        ("/nonsense", "refused"),
    ],
)
def test_every_fault_has_its_kind(web, root, path, kind):
    start = time.monotonic()
    with pytest.raises(PageError) as caught:
        web.open(f"{root}{path}")
    assert caught.value.kind == kind and caught.value.kind in KINDS and time.monotonic() - start < 3


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://localhost/",
        "http://[::1]/",
        "http://10.0.0.1/",
        "http://192.168.1.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://0.0.0.0/",
        "http://2130706433/",
        "http://[::ffff:127.0.0.1]/",
        "http://224.0.0.1/",
    ],
)
def test_private_addresses_are_refused_before_a_connection(url, monkeypatch):
    monkeypatch.setattr(
        socket, "create_connection", lambda *a, **k: pytest.fail("a connection was made")
    )
    with pytest.raises(PageError, match="refused"):
        Web(seconds=1.0).open(url)


def test_a_name_that_points_inside_is_refused_however_often_it_is_asked(monkeypatch):
    """The address that was checked is the one that is called; a second look-up could give
    another."""
    answers = iter([[(2, 1, 6, "", ("93.184.216.34", 80))], [(2, 1, 6, "", ("127.0.0.1", 80))]])
    called = []

    def connect(address, *args, **kwargs):
        called.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: next(answers))
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(PageError):
        Web(seconds=1.0, robots=False).open("http://rebound.example/")
    assert called == [("93.184.216.34", 80)]


def test_another_address_of_the_host_is_tried(monkeypatch):
    called = []
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda *a, **k: [
            (10, 1, 6, "", ("2606:2800:220:1::1", 80, 0, 0)),
            (2, 1, 6, "", ("93.184.216.34", 80)),
        ],
    )
    monkeypatch.setattr(
        socket,
        "create_connection",
        lambda address, *a, **k: (
            called.append(address[0]) or (_ for _ in ()).throw(OSError("unreachable"))
        ),
    )
    with pytest.raises(PageError, match="dead"):
        Web(seconds=1.0, robots=False).open("http://two.example/")
    assert called == ["2606:2800:220:1::1", "93.184.216.34"]


@pytest.mark.parametrize(
    "url",
    ["ftp://example.com/", "file:///etc/passwd", "javascript:alert(1)", "http://", "nonsense"],
)
def test_other_addresses_are_refused(url):
    with pytest.raises(PageError, match="refused"):
        Web(seconds=1.0, robots=False).open(url)


def test_a_dead_host_is_told(web):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(PageError, match="dead"):
        web.open(f"http://127.0.0.1:{port}/")


def test_search_needs_an_engine_and_tells_what_fails(root):
    with pytest.raises(PageError, match="no search"):
        Web().search("x")
    web = Web(
        seconds=1.0, private=True, search_engine=lambda query: [f"{root}/none", f"{root}/plain"]
    )
    assert [(page.title, page.text) for page in web.search("x")][0] == (
        "",
        "(no page)",
    ) and web.search("x")[1].title == "Plain"
    with pytest.raises(PageError, match="no page"):
        Web(seconds=1.0, private=True, search_engine=lambda query: [f"{root}/none"] * 2).search("x")


# The cache


class Counting:
    def __init__(self, source):
        self.source, self.asked = source, []

    def search(self, query):
        self.asked.append(query)
        return self.source.search(query)

    def open(self, url):
        self.asked.append(url)
        return self.source.open(url)


def test_a_cache_replays_pages_searches_and_failures(site, tmp_path):
    source = Counting(site)
    first = Cached(source, tmp_path / "cache")
    seen = (first.search("stone bridge"), first.open("site:///index.html"))
    with pytest.raises(PageError, match="no such page"):
        first.open("site:///none.html")
    again = Cached(None, tmp_path / "cache")
    assert (again.search("stone bridge"), again.open("site:///index.html")) == seen
    with pytest.raises(PageError, match="no such page"):
        again.open("site:///none.html")
    assert len(source.asked) == 3 and again.failures == {"no page": 1}
    with pytest.raises(CacheError, match="replays another run"):
        again.open("site:///bridges.html")


def test_dialogues_that_ask_together_get_one_answer(tmp_path):
    class Changing:
        count = 0

        def open(self, url):
            self.count += 1
            time.sleep(0.05)
            return Page(url, str(self.count), "x")

    from concurrent.futures import ThreadPoolExecutor

    cache = Cached(Changing(), tmp_path)
    with ThreadPoolExecutor(8) as pool:
        assert {page.title for page in pool.map(cache.open, ["u"] * 8)} == {"1"}
    assert Cached(None, tmp_path).open("u").title == "1"


def test_two_processes_on_one_cache_replay_what_both_saw(tmp_path):
    class Titled:
        def __init__(self, title, before=lambda: None):
            self.title, self.before = title, before

        def open(self, url):
            self.before()
            return Page(url, self.title, "x")

    other = Cached(Titled("other"), tmp_path)
    # The other one asks and is done while mine still waits.
    mine = Cached(Titled("mine", lambda: other.open("u")), tmp_path)
    assert (
        mine.open("u").title
        == other.open("u").title
        == Cached(None, tmp_path).open("u").title
        == "other"
    )


def test_failures_come_back_from_workers():
    error = pickle.loads(pickle.dumps(PageError("slow", "http://x: took long")))
    assert (error.kind, str(error)) == ("slow", "slow: http://x: took long")


def test_a_damaged_answer_is_named(site, tmp_path):
    cache = Cached(site, tmp_path / "cache")
    cache.open("site:///index.html")
    file = next((tmp_path / "cache").glob("open-*.json"))
    file.write_text(file.read_text()[:40])
    with pytest.raises(CacheError, match=file.name):
        cache.open("site:///index.html")
    assert json.loads(json.dumps(Page("u", "t", "x", (("a", "b"),)).to_json())) and not list(
        (tmp_path / "cache").glob("*.tmp")
    )


ODD_FILES = {
    "not utf-8": b'{"request": "site:///index.html", "found": "\xff"}',
    "empty": b"",
    "null": b"null",
    "a list": b"[]",
    "a number": b"7",
    "not a number": b"NaN",
    "no answer": b'{"request": "site:///index.html"}',
    "no request": b'{"found": {"url": "u", "title": "t", "text": "x", "links": []}}',
    "another request": b'{"request": "v", "found": {"url": "u", "title": "t", "text": "x"}}',
    "a list of pages": b'{"request": "site:///index.html", "found": []}',
    "a page without text": (
        b'{"request": "site:///index.html", "found": {"url": "u", "title": "t"}}'
    ),
    "a text that is a number": (
        b'{"request": "site:///index.html", "found": {"url": "u", "title": "t", "text": 7}}'
    ),
    "links of one part": (
        b'{"request": "site:///index.html", "found": {"url": "u", "title": "t", "text": "x", '
        b'"links": [["a"]]}}'
    ),
    "an error of no kind": b'{"request": "site:///index.html", "error": ["odd", "x"]}',
    "an error that is a text": b'{"request": "site:///index.html", "error": "dead"}',
    "deep": b'{"request": ' + b"[" * 100_000,
    "a giant integer": b'{"request": ' + b"9" * 100_000 + b"}",
}


@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize("odd", [*ODD_FILES, "a folder", "a dangling link", "a link to itself"])
def test_an_odd_file_of_a_cache_is_one_line_that_names_it(site, tmp_path, odd, replay):
    cache = Cached(site, tmp_path / "cache")
    cache.open("site:///index.html")
    file = next((tmp_path / "cache").glob("open-*.json"))
    file.unlink()
    if odd == "a folder":
        file.mkdir()
    elif odd == "a dangling link":
        file.symlink_to(tmp_path / "nowhere")
    elif odd == "a link to itself":
        file.symlink_to(file)
    else:
        file.write_bytes(ODD_FILES[odd])
    with pytest.raises(CacheError, match=f"{file.name}: damaged") as caught:
        Cached(None if replay else site, tmp_path / "cache").open("site:///index.html")
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [file.name]


def test_a_cache_without_a_place_is_one_line(site, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CacheError, match="no folder for pages"):
        Cached(site, tmp_path / "file")
    cache = Cached(site, tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    # An agent must not be told of it: a replay would not say so.
    with pytest.raises(CacheError, match="cannot be written"):
        cache.open("site:///index.html")


def test_long_and_odd_requests_are_kept_short_and_found_again(site, tmp_path):
    for request in ("site:///" + "x" * 60_000, "half a \ud800 character", "two\n lines "):
        cache = Cached(site, tmp_path / "cache")
        with pytest.raises(PageError) as first:
            cache.open(request)
        with pytest.raises(PageError) as again:
            Cached(None, tmp_path / "cache").open(request)
        assert str(first.value) == str(again.value) and len(str(again.value)) < 600
        assert cache.search(request) == Cached(None, tmp_path / "cache").search(request)
    assert max(file.stat().st_size for file in (tmp_path / "cache").iterdir()) < 5000


def test_the_first_searches_of_a_process_may_come_together(site):
    """Sixteen threads, none of which finds bm25s imported or the index made."""
    code = (
        "from concurrent.futures import ThreadPoolExecutor\nfrom dits_lib.tools import LocalSite\n"
        f"site = LocalSite({str(site.folder)!r})\n"
        "with ThreadPoolExecutor(16) as pool: found = list(pool.map(site.search, ['stone bridge'] "
        "* 64))\n"
        "print(len(set(tuple(page.url for page in pages) for pages in found)), len(found[0]) > 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.stdout.split() == ["1", "True"], done.stderr


def test_the_index_never_starts_jax_which_would_take_a_gpu_for_itself(tmp_path):
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax/__init__.py").write_text("raise SystemError('JAX was started')")
    (tmp_path / "page.html").write_text("<p>a stone bridge</p><p>and a river</p>")
    code = f"from dits_lib.tools import LocalSite; import sys; print(len(LocalSite({str(tmp_path)!r}).search('bridge'))); assert 'jax' not in sys.modules"  # noqa: E501
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert done.stdout.strip() == "1", done.stderr
