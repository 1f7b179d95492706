"""The web's odd answers: packed, cut, endless and wrong bodies of pages, search engines and judges;
addresses that are not public; seconds that no clock knows."""

import gzip
import json
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dits_lib.tasks import Question
from dits_lib.tasks.judge import JudgeError, ModelJudge
from dits_lib.tasks.judge_server import THOUGHT_TOKENS, WORD_TOKENS, check_server, server
from dits_lib.tools import PageError, Web, searxng
from dits_lib.tools.addresses import MAX_ADDRESS, is_public
from dits_lib.tools.pages import MAX_MESSAGE

HTML = b"<title>T</title><p>The first half of a page.</p><p>And the second half of it.</p>"
GZIP, ZLIB = gzip.compress(HTML), zlib.compress(HTML)
RAW = zlib.compressobj(wbits=-zlib.MAX_WBITS)
RAW = RAW.compress(HTML) + RAW.flush()

BODIES = {
    "gzip": ("gzip", GZIP),
    "x-gzip": ("X-GZIP", GZIP),
    "members": ("gzip", gzip.compress(HTML[:40]) + gzip.compress(HTML[40:])),
    "padded": ("gzip", GZIP + bytes(20)),
    "deflate": ("deflate", ZLIB),
    "raw": ("deflate", RAW),
    "identity": ("identity", HTML),
    "cut-gzip": ("gzip", GZIP[:-12]),
    "cut-trailer": ("gzip", GZIP[:-4]),
    "cut-member": ("gzip", gzip.compress(HTML[:40]) + gzip.compress(HTML[40:])[:-9]),
    "cut-deflate": ("deflate", ZLIB[:-6]),
    "cut-raw": ("deflate", RAW[:-6]),
    "damaged": ("gzip", GZIP[:20] + b"\xff\xff" + GZIP[22:]),
    "not-packed": ("gzip", HTML),
    "br": ("br", b"\x0b\x02\x80words\x03"),
    "zstd": ("zstd", b"\x28\xb5\x2f\xfd"),
    "twice": ("gzip, gzip", gzip.compress(GZIP)),
    "bomb": ("deflate", zlib.compress(bytes(3_000_000))),
    "pdf": ("", b"%PDF-1.7\n1 0 obj\n"),
}


class Odd(BaseHTTPRequestHandler):
    """Gives `server.answers[path]`: (status, headers, body); `drip` and `endless` never end."""

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(json.loads(body))
        self.do_GET()

    def do_GET(self):
        self.server.headers.append(dict(self.headers))
        path = self.path.split("?")[0].removesuffix("/search").removesuffix("/chat/completions")
        if path in ("/drip", "/endless"):
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b"1" * (1 if path == "/drip" else 1_000_000))
                    time.sleep(0.05 if path == "/drip" else 0)
            except OSError:
                return
        status, headers, body = self.server.answers.get(path, (404, {}, b""))
        body = body(self.server.asked[-1]) if callable(body) else body
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def odd():
    found = ThreadingHTTPServer(("127.0.0.1", 0), Odd)
    found.asked, found.headers, found.answers = [], [], {}
    for name, (packed, body) in BODIES.items():
        kind = {"Content-Type": "text/html"}
        found.answers[f"/{name}"] = (
            200,
            kind | ({"Content-Encoding": packed} if packed else {}),
            body,
        )
    threading.Thread(target=found.serve_forever, daemon=True).start()
    found.root = f"http://127.0.0.1:{found.server_port}"
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture(scope="module")
def web():
    return Web(seconds=2.0, max_bytes=2_000_000, private=True, robots=False)


# Packed bodies


@pytest.mark.parametrize(
    "name", ["gzip", "x-gzip", "members", "padded", "deflate", "raw", "identity"]
)
def test_packed_bodies_are_read_whole(odd, web, name):
    text = web.open(f"{odd.root}/{name}").text
    assert "first half" in text and "second half" in text
    assert odd.headers[-1]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("cut-gzip", "dead", "gzip body cut short or damaged"),
        ("cut-trailer", "dead", "gzip body cut short or damaged"),
        ("cut-member", "dead", "gzip body cut short or damaged"),
        ("cut-deflate", "dead", "deflate body cut short or damaged"),
        ("cut-raw", "dead", "deflate body cut short or damaged"),
        ("damaged", "dead", "gzip body cut short or damaged"),
        ("not-packed", "dead", "gzip body cut short or damaged"),
        ("br", "not text", "packed as br; expected gzip, deflate or not packed"),
        ("zstd", "not text", "packed as zstd"),
        ("twice", "not text", "packed as gzip, gzip"),
        ("bomb", "too large", "more than 2000000 bytes"),
        ("pdf", "not text", "a PDF file"),
    ],
)
def test_a_body_that_is_no_whole_page_is_an_error(odd, web, name, kind, told):
    with pytest.raises(PageError, match=told) as caught:
        web.open(f"{odd.root}/{name}")
    assert caught.value.kind == kind and name in str(caught.value)


def test_a_page_that_is_not_there_is_that_however_its_body_is_packed(odd, web):
    odd.answers["/gone"] = (404, {"Content-Encoding": "br"}, b"x")
    with pytest.raises(PageError, match="no page: .*status 404"):
        web.open(f"{odd.root}/gone")


@pytest.mark.parametrize(
    "header",
    [
        "text/html; charset=koi8-r",
        "text/html;Charset = 'KOI8-R'; version=1",
        'TEXT/HTML; x=1; CHARSET="koi8-r"',
    ],
)
def test_the_encoding_of_a_header_is_read_however_it_is_written(odd, web, header):
    text = "Москва, столица"
    odd.answers["/russian"] = (200, {"Content-Type": header}, f"<p>{text}".encode("koi8-r"))
    assert web.open(f"{odd.root}/russian").text == text


@pytest.mark.parametrize(
    ("headers", "body", "kind"),
    [
        ({}, b"\xef\xbb\xbfUser-agent: *\nDisallow: /", "robots"),
        ({"Content-Encoding": "gzip"}, gzip.compress(b"User-agent: *\nDisallow: /"), "robots"),
        ({"Content-Encoding": "br"}, b"x", "not text"),
        ({}, b"#" * 3_000_000, "too large"),
    ],
    # Names of their own: bytes of gzip hold the second in which they were made, and processes that
    # test side by side would each have another test.
    ids=["a mark of the encoding", "gzip", "another packing", "too large"],
)
def test_rules_of_a_site_that_cannot_be_read_allow_nothing(odd, headers, body, kind):
    odd.answers["/robots.txt"] = (200, headers, body)
    with pytest.raises(PageError) as caught:
        Web(seconds=5.0, max_bytes=2_000_000, private=True).open(f"{odd.root}/gzip")
    assert caught.value.kind == kind


# Addresses


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "100.64.0.1",
        "169.254.169.254",
        "172.31.0.1",
        "192.168.0.1",
        "0.0.0.0",
        "192.0.0.8",
        "192.0.0.9",
        "192.0.2.1",
        "192.88.99.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",  # IPv4-compatible
        "::8.8.8.8",
        "::ffff:127.0.0.1",  # IPv4-mapped
        "::ffff:10.0.0.1",
        "64:ff9b::127.0.0.1",  # NAT64
        "64:ff9b::10.0.0.1",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::1",
        "64:ff9b:1::8.8.8.8",
        "2002:7f00:1::1",  # 6to4
        "2002:808:808::1",
        "2001::1",  # Teredo
        "2001:0:808:808:0:0:80ff:fffe",
        "2001:20::1",
        "2001:db8::1",
        "3fff::1",
        "100::1",
        "fc00::1",
        "fd12:3456::1",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",  # site-local
        "febf::1",
        "ff02::1",
        "4000::1",
        "5f00::1",
    ],
)
def test_addresses_that_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "1.1.1.1",
        "93.184.216.34",
        "172.32.0.1",
        "192.0.1.1",
        "223.255.255.255",
        "2606:2800:220:1::1",
        "2001:4860:4860::8888",
        "2a00:1450:4001::1",
        "2400:cb00::1",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
    ],
)
def test_addresses_that_are_public(address):
    assert is_public(address)


def test_a_host_of_such_an_address_is_refused(monkeypatch):
    monkeypatch.setattr(
        "socket.getaddrinfo", lambda *a, **k: [(10, 1, 6, "", ("64:ff9b::7f00:1", 80, 0, 0))]
    )
    monkeypatch.setattr("socket.create_connection", lambda *a, **k: pytest.fail("a connection"))
    with pytest.raises(PageError, match="refused"):
        Web(seconds=1.0, robots=False).open("http://inside.example/")


@pytest.mark.parametrize("path", ["x" * 60_000, "ü" * 1000])
def test_a_long_address_is_refused_and_its_message_cut(odd, web, path):
    odd.answers["/away"] = (302, {"Location": f"/{'x' * 60_000}"}, b"")
    for url in (f"{odd.root}/{path}", f"{odd.root}/away"):
        with pytest.raises(PageError, match=f"longer than {MAX_ADDRESS} characters") as caught:
            web.open(url)
        assert caught.value.kind == "refused" and len(caught.value.message) <= MAX_MESSAGE


def test_results_of_a_search_that_cannot_be_opened_are_cut(odd):
    long = f"{odd.root}/{'x' * 60_000}"
    web = Web(private=True, robots=False, search_engine=lambda query: [long, f"{odd.root}/gzip"])
    assert len(web.search("x")[0].url) <= MAX_MESSAGE


# Seconds


@pytest.mark.parametrize("seconds", [1e10, 1e300, float("inf"), 10**400])
def test_any_long_time_is_a_day_and_pages_open(odd, seconds):
    odd.answers["/found"] = (200, {}, json.dumps({"results": [{"url": "http://x"}]}).encode())
    web = Web(seconds=seconds, private=True, robots=False)
    assert web.open(f"{odd.root}/gzip").title == "T"
    assert searxng(f"{odd.root}/found", seconds)("x") == ["http://x"]
    odd.answers["/judge"] = (200, {}, completion("correct"))
    assert server(f"{odd.root}/judge", "m", seconds=seconds)(["x"]) == ["correct"]


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_no_time_is_refused(seconds):
    for made in (lambda: Web(seconds=seconds), lambda: searxng("http://x", seconds)):
        with pytest.raises(ValueError, match="expected a number above 0"):
            made()
    with pytest.raises(ValueError, match="expected a number above 0"):
        server("http://x", "m", seconds=seconds)


# Search engines and judges


def answer(text: bytes) -> bytes:
    """An engine's and a judge's answer with this text in it."""
    return b'{"results": [{"url": %b}], "choices": [{"message": {"content": %b}}]}' % (text, text)


ODD_JSON = {
    "no json": b"<html>",
    "nothing": b"",
    "a list": b"[]",
    "null": b"null",
    "nan": b"NaN",
    "other keys": b'{"answers": []}',
    "rows of another kind": b'{"results": [7], "choices": [7]}',
    "null inside": b'{"results": [{"url": null}], "choices": [{"message": null}]}',
    "numbers": answer(b"7"),
    "not a number": b'{"results": NaN, "choices": NaN}',
    "not utf-8": answer(b'"\xff\xfe"'),
    "half a character": answer(rb'"\ud800"'),
    "a giant integer": b'{"results": ' + b"9" * 100_000 + b', "choices": ' + b"9" * 100_000 + b"}",
    "deep": b'{"results": ' + b"[" * 100_000 + b"}",
    "deep elsewhere": b'{"x": '
    + b"[" * 100_000
    + b"]" * 100_000
    + b', "results": [], "choices": []}',
}


@pytest.mark.parametrize("name", ODD_JSON)
def test_odd_answers_of_a_search_engine_are_one_line(odd, name):
    odd.answers["/engine"] = (200, {}, ODD_JSON[name])
    with pytest.raises(PageError) as caught:
        searxng(f"{odd.root}/engine")("x")
    told = str(caught.value)
    assert told.startswith("no search: ") and f"{odd.root}/engine" in told and "\n" not in told
    assert len(told) < 600


@pytest.mark.parametrize("name", ODD_JSON)
def test_odd_answers_of_a_judge_are_no_verdict(odd, name):
    odd.answers["/judge"] = (200, {}, ODD_JSON[name])
    ask = server(f"{odd.root}/judge", "m")
    judge, question = ModelJudge(ask), Question("q", "Where?", ("Cork",), {}, {})
    assert judge.score(question, "Cork") == 1.0 and judge.unclear(question, "Cork")
    with pytest.raises(JudgeError, match="not as a chat completion with text"):
        check_server(ask, odd.root)


@pytest.mark.parametrize("path", ["/endless", "/drip"])
def test_bodies_without_end_are_stopped(odd, path):
    start = time.monotonic()
    with pytest.raises(PageError, match="no search: .*(too large|slow)"):
        searxng(odd.root + path, 1.0)("x")
    with pytest.raises(JudgeError, match="the judge cannot be asked .*(too large|slow)"):
        server(odd.root + path, "m", seconds=1.0)(["x"])
    assert time.monotonic() - start < 8


def test_a_redirect_and_an_error_are_told_with_what_they_say(odd):
    odd.answers["/moved"] = (301, {"Location": "https://elsewhere.org/"}, b"")
    odd.answers["/refused"] = (400, {}, b'{"error": "the model m\n is not here"}')
    with pytest.raises(PageError, match="redirects to https://elsewhere.org/; name that address"):
        searxng(f"{odd.root}/moved")("x")
    with pytest.raises(JudgeError, match="status 301"):
        server(f"{odd.root}/moved", "m")(["x"])
    with pytest.raises(JudgeError, match="status 400: .*the model m is not here"):
        server(f"{odd.root}/refused", "m")(["x"])


def test_a_key_that_no_header_can_hold_is_refused_without_being_shown(odd):
    odd.answers["/judge"] = (200, {}, completion("correct"))
    assert server(f"{odd.root}/judge", "m", key=" secret\n")(["x"]) == ["correct"]
    assert odd.headers[-1]["Authorization"] == "Bearer secret"
    with pytest.raises(JudgeError, match="JUDGE_API_KEY") as caught:
        server(odd.root, "m", key="sec\nret")
    assert "ret" not in str(caught.value)


def test_the_proxy_of_the_environment_is_used_for_engines_and_judges(odd, monkeypatch):
    """A proxy is asked for whole addresses."""
    monkeypatch.setenv("http_proxy", odd.root)
    monkeypatch.setenv("no_proxy", "")
    whole = "http://engine.example/search"
    odd.answers["http://engine.example"] = (200, {}, b'{"results": [{"url": "http://found/"}]}')
    assert searxng(whole.removesuffix("/search"))("x") == ["http://found/"]


def completion(content, finish="stop"):
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": finish}
    return json.dumps({"choices": [choice]}).encode()


@pytest.mark.parametrize(
    ("thought", "verdict"),
    [
        ("<think>Cork is correct, is it not?</think>\n\nincorrect", False),
        ("The template opened the thought. correct</think>correct", True),
        ("<think>correct, correct, correct", None),
        (None, None),
    ],
)
def test_a_judge_that_thinks_is_given_room_and_its_thought_is_no_verdict(odd, thought, verdict):
    def reply(asked):
        if asked["max_tokens"] == WORD_TOKENS:
            return completion(thought and thought[:20], "length")
        return completion(thought, "stop")

    odd.answers["/thinker"] = (200, {}, reply)
    judge, question = (
        ModelJudge(server(f"{odd.root}/thinker", "m")),
        Question("q", "?", ("x",), {}, {}),
    )
    judge.prepare([(question, "y")])
    assert judge.verdicts["q", "y"] is verdict
    assert [asked["max_tokens"] for asked in odd.asked[-2:]] == [WORD_TOKENS, THOUGHT_TOKENS]


def test_a_judge_that_answers_at_once_is_asked_once(odd):
    odd.answers["/judge"] = (200, {}, completion("Incorrect.", "length"))
    before = len(odd.asked)
    assert server(f"{odd.root}/judge", "m")(["x"]) == ["Incorrect."]
    assert len(odd.asked) == before + 1
