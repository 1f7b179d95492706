"""The micro web: its site, questions, scripted agents and base model; deep search from parameters,
its cache and its judges."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import yaml

from dits_lib.agents import web_system
from dits_lib.commands.reproduce import main
from dits_lib.engines import TransformersEngine
from dits_lib.micro_model.gates import missed_gates, web_trials
from dits_lib.micro_model.scripted import SCRIPTED, scripted_dialogue
from dits_lib.rollout import sample_dialogues
from dits_lib.settings import ROOT
from dits_lib.suite.deep_search import (
    check_web,
    deep_search_system,
    page_source,
    pages_key,
    site_digest,
)
from dits_lib.suite.params import load_params
from dits_lib.suite.pipeline import Pipeline
from dits_lib.suite.store import Store, checksum
from dits_lib.suite.studies.deep_search import failure_of
from dits_lib.tasks import SPLITS, WEB_FAMILIES, make_web, web_questions, write_site
from dits_lib.tasks.judge import JudgeError
from dits_lib.tasks.micro import LINKS
from dits_lib.tools import CacheError, LocalSite, PageError, searxng

MODEL = ROOT / "models" / "micro-web"
WEB = make_web(3)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("web") / "site"
    write_site(WEB, folder)
    return LocalSite(folder, top=2)


def test_every_question_is_answered_by_the_pages_alone(site):
    """Follow the words of the question over the pages as a reader would: no facts but what the HTML
    says."""
    for question in web_questions(WEB, "test", 60, 0):
        *path, person = question.text.split(" of ")
        page = site.open(f"site:///{person}.html")
        for link in reversed(path[1:]):
            page = site.open(page.links[LINKS.index(link)][1])
            assert link in LINKS
        values = dict(re.findall(r"^(\w+) (\w+ \w+) \.$", page.text, flags=re.M))
        assert values[path[0]] == question.answers[0] and len(path) - 1 == WEB_FAMILIES.index(
            question.meta["family"]
        )
        assert page.title in {found.title for found in site.search(page.title)}


def test_keys_belong_to_one_split_and_questions_repeat_by_their_arguments():
    """Neither a question nor the fact that answers it stands in two splits, whatever the seed."""
    made = {
        split: [q for seed in range(3) for q in web_questions(WEB, split, 400, seed)]
        for split in SPLITS
    }
    texts = {split: {q.text for q in own} for split, own in made.items()}
    facts = {
        split: {(q.meta["relation"], WEB.follow(q.meta["person"], q.meta["links"])) for q in own}
        for split, own in made.items()
    }
    assert all(facts[split] == {tuple(q.meta["key"]) for q in own} for split, own in made.items())
    for found in (texts, facts):
        assert all(not found[a] & found[b] for a in found for b in found if a != b)
    assert all({q.meta["family"] for q in own} == {*WEB_FAMILIES} for own in made.values())
    assert (
        web_questions(WEB, "train", 9, 5)
        == web_questions(WEB, "train", 20, 5)[:9]
        != web_questions(WEB, "train", 9, 6)
    )
    assert [q.meta["family"] for q in web_questions(WEB, "train", 6, 0)] == [*WEB_FAMILIES] * 2
    assert make_web(3) == WEB != make_web(4)


def test_scripted_agents_answer_with_as_many_clicks_as_links(site):
    system = web_system("micro", source=site)
    for question in web_questions(WEB, "train", 30, 0):
        turns = scripted_dialogue(system, question, np.random.default_rng(0), always_good=True)
        assert system.score(question, system.answer(question, turns)) == 1
        assert [turn.agent for turn in turns].count("click") == len(question.meta["links"])


def test_bad_habits_are_seldom_the_good_reply_by_chance_and_lose(site):
    system, speaker, rng, lost = (
        web_system("micro", source=site),
        SCRIPTED["deep_search"],
        np.random.default_rng(0),
        [],
    )
    same = 0
    for question in web_questions(WEB, "train", 60, 1):
        turns = scripted_dialogue(system, question, rng, always_good=True)
        spoken = [index for index, turn in enumerate(turns) if turn.trainable]
        state = turns[: spoken[rng.integers(len(spoken))]]
        agent = system.next_agent(question, state)
        # A line of the page picked at random.
        same += speaker.flawed(question, state, agent, rng) == speaker.good(question, state, agent)
        played = scripted_dialogue(system, question, np.random.default_rng(len(lost)))
        lost.append(system.score(question, system.answer(question, played)) == 0)
    assert 0.1 < np.mean(lost) < 0.7 and same / 60 < 0.15


def test_the_base_model_knows_every_word_and_passed_its_gates(site, tmp_path):
    engine, system = TransformersEngine.load(MODEL), web_system("micro", source=site)
    words = set()
    for question in web_questions(WEB, "test", 30, 0):
        for turn in scripted_dialogue(system, question, np.random.default_rng(0)):
            words |= set(turn.text.split())
        words |= set(question.text.split())
    unknown = engine.tokenizer.unk_token_id
    assert [
        word
        for word in words
        if engine.tokenizer(word, add_special_tokens=False)["input_ids"] in ([unknown], [])
    ] == []
    assert missed_gates(json.loads((MODEL / "gates.json").read_text())) == []
    assert checksum(MODEL / "model.safetensors") in (MODEL / "README.md").read_text()
    trial = web_trials(tmp_path)["deep_search"]
    metric = np.mean(
        [d.metric for d in sample_dialogues(engine, trial.system, trial.ask("test", 200), "gate")]
    )
    told = json.loads((MODEL / "gates.json").read_text())["deep_search"]["metric"]
    assert abs(metric - told) < 4 * (told * (1 - told) / 200) ** 0.5


# Deep search from parameters


def of(*changes):
    return load_params("smoke", list(changes)).serving("08_deep_search")


def test_a_run_is_replayed_from_its_cache_alone(tmp_path):
    engine, questions = TransformersEngine.load(MODEL), web_questions(make_web(0), "test", 20, 0)
    first = deep_search_system(of(), tmp_path)
    spoken = sample_dialogues(engine, first, questions, 0)
    again = deep_search_system(of("web.replay=true"), tmp_path)
    assert again.source.source is None
    assert sample_dialogues(engine, again, questions, 0) == spoken and any(
        turn.agent == "open" for d in spoken for turn in d.turns
    )
    with pytest.raises(CacheError, match="nothing is in it"):
        page_source(of("web.replay=true", "seed=1"), tmp_path)
    with pytest.raises(CacheError, match="replays another run"):
        again.source.search("words that nobody asked for")
    (tmp_path / "own").mkdir()
    assert (
        page_source(of("web.cache=" + str(tmp_path / "own")), tmp_path).folder
        != page_source(of("web.cache=" + str(tmp_path / "own"), "seed=1"), tmp_path).folder
    )


def test_what_decides_the_pages_is_in_the_key(tmp_path):
    (tmp_path / "a.html").write_text("<p>one</p>")
    own = ["data.deep_search=webwalkerqa", f"web.site={tmp_path}"]
    before = site_digest(of(*own))
    (tmp_path / "a.html").write_text("<p>two</p>")
    digests = {
        before,
        site_digest(of(*own)),
        site_digest(of()),
        site_digest(of("seed=1")),
        site_digest(of("web.results=3")),
        site_digest(of(own[0], "web.site=live")),
    }
    assert len(digests) == 6
    assert (
        pages_key(of())
        == pages_key(of("web.seconds=5", "web.seeds=4", "web.cache=x"))
        != pages_key(of("web.calls=3"))
    )
    live = [own[0], "web.site=live"]
    assert (
        len(
            {
                json.dumps(pages_key(of(*live, change)))
                for change in (
                    "seed=0",
                    "web.seconds=5",
                    "web.cache=x",
                    "web.cache=y",
                    "web.search_engine=http://x",
                )
            }
        )
        == 5
    )
    judge = tmp_path / "judge"
    judge.mkdir()
    keys = []
    for weights in ("one", "two"):
        (judge / "model.safetensors").write_text(weights)
        keys.append(pages_key(of("web.judge=model", f"web.judge_model={judge}")))
    assert keys[0] != keys[1]
    with pytest.raises(PageError, match="no folder with"):
        deep_search_system(of(own[0], "web.site=nowhere"), tmp_path)


def test_own_questions_about_own_pages(tmp_path):
    """A folder of HTML and a file of questions in place of the micro world's, whatever they are
    called."""
    web = make_web(9)
    write_site(web, tmp_path / "pages")
    made = [
        (split, question) for split in SPLITS[1:] for question in web_questions(web, split, 12, 0)
    ]
    rows = [
        {"id": q.id, "text": q.text, "answers": q.answers, "views": {}, "meta": {"split": split}}
        for split, q in made
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    params = of(
        "tasks=[deep_search]",
        f"world.questions={tmp_path / 'own.jsonl'}",
        f"web.site={tmp_path / 'pages'}",
        "web.sizes={test_questions: 12}",
    )
    lab = Pipeline(params, "deep_search", Store(tmp_path / "runs"))
    assert {q.meta["split"] for q in lab.questions("test", 12, 0)} == {"test"}
    assert lab.evaluate(lab.base_model(), 0).mean() > 0.1


def test_limits_of_the_parameters_reach_the_system(tmp_path):
    system = deep_search_system(
        of("web.calls=3", "web.tokens=50", "web.page_characters=100", "web.max_new_tokens=9"),
        tmp_path,
    )
    assert (
        system.limits.calls,
        system.limits.nesting,
        system.limits.tokens,
        system.page_characters,
        system.max_new_tokens,
    ) == (3, 2, 50, 100, 9)


def test_a_judge_that_answers_nonsense_is_counted_and_exact_match_decides(tmp_path):
    """The judge is a real model that never gives a verdict."""
    changes = ["web.judge=model", "web.judge_model=models/micro", "sizes.test_questions=12"]
    lab = Pipeline(
        of(*changes).model_copy(update={"sizes": load_params("smoke").sizes}),
        "deep_search",
        Store(tmp_path),
    )
    found = lab.judged(lab.base_model(), 0)
    assert (
        found["dialogues"] == 12
        and 0 < found["answers"] <= 12
        and found["judge"] == found["exact match"] > 0
        and found["agreement"] == 1
    )
    assert found["no verdict"] == 1


def test_a_search_engine_behind_a_server():
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            query = parse_qs(urlsplit(self.path).query)
            found = (
                {"results": [{"url": f"https://example.org/{query['q'][0]}"}]}
                if query["format"] == ["json"]
                else {}
            )
            data = b"<html>" if query["q"] == ["broken"] else json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    find = searxng(f"http://127.0.0.1:{served.server_port}/", 5)
    assert find("museum") == ["https://example.org/museum"]
    with pytest.raises(PageError, match="no search"):
        find("broken")
    served.shutdown()
    served.server_close()
    with pytest.raises(PageError, match="no search"):
        find("museum")


def test_a_judge_that_cannot_judge_is_told_before_the_run(tmp_path):
    """Its server answers, but with something else than a chat completion."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"[]")

    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{served.server_port}/v1"
    params = of("web.judge=server", "web.judge_model=m", f"web.judge_url={url}")
    with pytest.raises(JudgeError, match=f"{url}: answers, but not as a chat completion"):
        check_web(params, tmp_path)
    served.shutdown()
    served.server_close()
    with pytest.raises(JudgeError, match="the judge cannot be asked"):
        check_web(params, tmp_path)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("open failed: PageError: refused: moth: outside the site", "refused"),
        ("open failed: PageError: no page: x", "no page"),
        ("search failed: ValueError: odd", "ValueError"),
        ("[site:///ann.html]\nann", None),
        ("nothing found", None),
    ],
)
def test_failures_are_told_apart(text, kind):
    assert failure_of(text) == kind


def test_a_site_that_is_not_there_stops_the_run_at_once(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    rows = [
        {
            "Question": f"Question {n}?",
            "answer": str(n),
            "root_url": "https://example.org/",
            "type": "single_source",
        }
        for n in range(300)
    ]
    (tmp_path / "data" / "webwalkerqa.jsonl").write_text("\n".join(map(json.dumps, rows)))
    raw = {
        "profile": "mine",
        "data": {"deep_search": "webwalkerqa", "data_dir": str(tmp_path / "data")},
        "web": {"site": str(tmp_path / "none"), "sizes": {"test_questions": 20}},
        "notebooks": ["08_deep_search"],
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(raw))
    assert main(["--profile", str(tmp_path / "mine.yaml")]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and "no folder with" in told[0] and str(tmp_path / "none") in told[0]
