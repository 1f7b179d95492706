"""Deep search on a small site: searches, pages, clicks, the judge, and WebWalkerQA's rows."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dits_lib.agents import CallLimits, DeepSearch, Turn
from dits_lib.agents.calls import MAX_RESULT
from dits_lib.pairs import extract_pairs
from dits_lib.rollout import sample_dialogues
from dits_lib.search import SearchSettings, tree_search
from dits_lib.suite.deep_search import judge_replies
from dits_lib.tasks import DataError, Question
from dits_lib.tasks.judge import ExactMatch, JudgeError, ModelJudge, agreement, read_verdict
from dits_lib.tasks.judge_server import THOUGHT_TOKENS, WORD_TOKENS, server
from dits_lib.tasks.public import WebWalkerQA, load_splits
from dits_lib.tools import Cached, LocalSite
from tests.scripted import Scripted, byte_tokenizer

PAGES = {
    "index.html": "<title>Museum</title><p>The museum of Ballymore.</p><a href='people.html'>People</a><a href='gone.html'>Gone</a>",  # noqa: E501
    "people.html": "<title>People</title><p>Builders of the town.</p><a href='byrne.html'>Ada Byrne</a><a href='index.html'>back</a>",  # noqa: E501
    "byrne.html": "<title>Ada Byrne</title><p>Ada Byrne built the bridge; she was born in Cork.</p>",  # noqa: E501
}
QUESTION = Question("q", "Where was Ada Byrne born?", ("Cork",), {}, {"family": "web"})


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture
def source(tmp_path):
    for name, body in PAGES.items():
        (tmp_path / "site").mkdir(exist_ok=True)
        (tmp_path / "site" / name).write_text(f"<html><body>{body}</body></html>")
    return Cached(LocalSite(tmp_path / "site"), tmp_path / "cache")


def walker(prompt):
    """Searches, has the front page read, clicks twice, tells what it found."""
    last = prompt.rsplit("<|im_start|>user\n", 1)[1].split("<|im_end|>")[0]
    if "You answer a question" in prompt:
        if last.startswith("search:"):
            return "<call explorer>site:///index.html Where was Ada Byrne born?</call>"
        return (
            f"<A>{last.split()[-1].strip('.')}</A>"
            if last.startswith("explorer:")
            else "<call search>museum of Ballymore</call>"
        )
    if "born in Cork" in last:
        return "She was born in Cork."
    number = re.search(r"\[(\d)\] (?:Ada Byrne|People)", last)
    return f"<call click>{number[1]}</call>" if number else "<call open>site:///index.html</call>"


def test_the_agents_search_open_and_click(tokenizer, source):
    engine = Scripted(tokenizer, walker)
    dialogue = sample_dialogues(engine, DeepSearch(source), [QUESTION], 0)[0]
    assert [turn.agent for turn in dialogue.turns] == [
        "reasoner",
        "search",
        "reasoner",
        "explorer",
        "open",
        "explorer",
        "click",
        "explorer",
        "click",
        "explorer",
        "reasoner",
    ]
    assert dialogue.answer == "Cork" and dialogue.metric == 1
    pages = [turn.text.split("\n")[0] for turn in dialogue.turns if turn.agent in ("open", "click")]
    assert pages == ["[site:///index.html]", "[site:///people.html]", "[site:///byrne.html]"]
    replayed = sample_dialogues(
        Scripted(tokenizer, walker), DeepSearch(Cached(None, source.folder)), [QUESTION], 0
    )[0]
    assert [turn.text for turn in replayed.turns] == [turn.text for turn in dialogue.turns]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("<call click>1</call>", "expected the number of a link of a page that was opened"),
        ("<call open>site:///gone.html</call>", "no such page"),
        ("<call open>file:///etc/passwd</call>", "refused"),
        ("<call search>zzz</call>", "nothing found"),
    ],
)
def test_what_fails_is_told_and_the_run_goes_on(tokenizer, source, call, text):
    engine = Scripted(
        tokenizer,
        lambda prompt: "<A>Cork</A>" if "<|im_start|>assistant\n<call" in prompt else call,
    )
    dialogue = sample_dialogues(engine, DeepSearch(source), [QUESTION], 0)[0]
    assert text in dialogue.turns[1].text and dialogue.metric == 1


class Broken:
    def open(self, url):
        raise ValueError(url * 2)

    search = open


@pytest.mark.parametrize("broken", [False, True])
def test_what_a_failure_says_is_cut_as_results_are(source, broken):
    system = DeepSearch(Broken() if broken else source)
    url = f"site:///{'x' * 60_000}.html"
    turns = (
        Turn("reasoner", "<call explorer>read it</call>"),
        Turn("explorer", f"<call open>{url}</call>"),
    )
    told = system.act(QUESTION, turns)
    assert told.startswith("open failed: ") and " [cut] " in told
    assert len(told) <= MAX_RESULT
    kept = [file.read_text() for file in source.folder.iterdir()]
    assert all(len(text) < 5000 for text in kept) and len(kept) == (not broken)


def test_a_click_beyond_the_links_is_told(tokenizer, source):
    replies = iter(["<call open>site:///index.html</call>", "<call click>9</call>", "<A>Cork</A>"])
    dialogue = sample_dialogues(
        Scripted(tokenizer, lambda prompt: next(replies)), DeepSearch(source), [QUESTION], 0
    )[0]
    assert "that page has 1 links" in dialogue.turns[3].text


def test_a_prompt_that_outgrows_the_engine_ends_its_dialogue_alone(tokenizer, source):
    """vLLM's limit is the engine's `max_length`; the other dialogue of the batch goes on."""
    short = Question("r", "Say Cork.", ("Cork",), {}, {"family": "web"})
    engine = Scripted(
        tokenizer,
        lambda prompt: (
            "<A>Cork</A>" if "Say Cork" in prompt else "<call open>site:///index.html</call>"
        ),
    )
    engine.max_length = 2600
    long, other = sample_dialogues(
        engine,
        DeepSearch(source, max_new_tokens=64, limits=CallLimits(calls=500, tokens=50_000)),
        [QUESTION, short],
        0,
    )
    assert (
        long.ended == "limit reached"
        and long.turns[-1].text == "stopped: a prompt longer than 2600 tokens"
        and other.metric == 1
    )


def test_a_run_away_explorer_ends(tokenizer, source):
    engine = Scripted(tokenizer, lambda prompt: "<call explorer>again</call>")
    dialogue = sample_dialogues(
        engine, DeepSearch(source, limits=CallLimits(calls=50, nesting=2)), [QUESTION], 0
    )[0]
    assert (
        dialogue.ended == "limit reached"
        and dialogue.turns[-1].text == "stopped: calls nested deeper than 2"
    )


def test_trees_and_pairs_of_deep_search(tokenizer, source):
    """Half of the answers are wrong: their state's pair prefers the right one, and its prompt is
    the reasoner's own."""
    count = iter(range(10_000))

    def policy(prompt):
        reply = walker(prompt)
        return "<A>Dublin</A>" if reply.startswith("<A>") and next(count) % 2 else reply

    system = DeepSearch(source)
    trees = tree_search(
        Scripted(tokenizer, policy),
        system,
        [QUESTION],
        SearchSettings(repetitions=4, rollouts=2),
        0,
    )
    pairs = extract_pairs(tokenizer, system, trees, 0.0, 0.1)
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [("<A>Cork</A>", "<A>Dublin</A>")]
    assert (
        "You answer a question" in tokenizer.decode(pairs[0].prompt_ids)
        and pairs[0].meta["agent"] == "reasoner"
    )


# The judge


def test_a_judge_model_that_thinks_is_given_room_to_end_its_thought(tokenizer):
    asked = []

    class Thinker(Scripted):
        def generate(self, requests, adapters=None):
            asked.append([request.max_new_tokens for request in requests])
            cut = requests[0].max_new_tokens == WORD_TOKENS
            self.policy = lambda prompt: said(prompt)[: 20 if cut else None]
            return super().generate(requests)

    def said(prompt):
        return "incorrect" if "at once" in prompt else "<think>is it correct?</think>correct"

    tokenizer = byte_tokenizer()
    tokenizer.chat_template += "{# a template that knows <think></think> #}"
    replies = judge_replies(Thinker(tokenizer, said), ["at once", "after a thought"])
    assert replies == ["incorrect", "correct"]
    assert asked == [[WORD_TOKENS] * 2, [THOUGHT_TOKENS]]


def test_a_judge_sees_a_batch_at_once_and_falls_back_on_exact_match(tokenizer, source):
    asked = []

    def ask(prompts):
        asked.append(len(prompts))
        return [
            "Correct."
            if "the city of Cork" in prompt
            else "perhaps"
            if "judged: Cork" in prompt
            else "incorrect"
            for prompt in prompts
        ]

    judge = ModelJudge(ask)
    pairs = [
        (QUESTION, "the city of Cork"),
        (QUESTION, "Cork"),
        (QUESTION, "Dublin"),
        (QUESTION, None),
        (QUESTION, "Dublin"),
    ]
    found = agreement(judge, pairs)
    assert asked == [3] and judge.nonsense == 1
    assert found == {
        "judge": 2 / 5,
        "exact match": 1 / 5,
        "F1": pytest.approx((0.5 + 1) / 5),
        "agreement": 3 / 4,
        "dialogues": 5,
        "answers": 4,
    }
    engine = Scripted(tokenizer, lambda prompt: "<A>the city of Cork</A>")
    dialogues = sample_dialogues(engine, DeepSearch(source, judge=judge), [QUESTION], 0, samples=3)
    assert [d.metric for d in dialogues] == [1, 1, 1] and asked == [3]


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("correct", True),
        ("Incorrect.", False),
        ("**correct**", True),
        ("correct or incorrect", None),
        ("", None),
        ("I think it is correct", None),
        ("not correct", None),
    ],
)
def test_a_verdict_is_one_word(reply, verdict):
    assert read_verdict(reply) is verdict


def test_a_judge_behind_a_server():
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            content = body["messages"][0]["content"]
            data = (
                b"nonsense"
                if "Cork" in content.split("judged:")[1]
                else json.dumps({"choices": [{"message": {"content": "incorrect"}}]}).encode()
            )
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    judge = ModelJudge(server(f"http://127.0.0.1:{found.server_port}/v1", "m", seconds=5))
    judge.prepare([(QUESTION, "Cork"), (QUESTION, "Dublin")])
    assert (judge.score(QUESTION, "Cork"), judge.score(QUESTION, "Dublin"), judge.nonsense) == (
        1.0,
        0.0,
        1,
    )
    found.shutdown()
    found.server_close()
    with pytest.raises(JudgeError, match="the judge cannot be asked"):
        ModelJudge(server(f"http://127.0.0.1:{found.server_port}/v1", "m", seconds=5)).score(
            QUESTION, "x"
        )


def test_exact_match_is_squads():
    assert ExactMatch().score(QUESTION, "the cork.") == 1 and ExactMatch().score(
        QUESTION, "Cork city"
    ) == 0 == ExactMatch().score(QUESTION, None)


# WebWalkerQA


def rows(count):
    return [
        {
            "Question": f"What is number {n}?",
            "answer": str(n),
            "root_url": "https://example.org/",
            "type": "single_source",
            "difficulty_level": "easy",
            "lang": "en",
        }
        for n in range(count)
    ]


def test_webwalkerqa_rows_become_questions_of_disjoint_splits(tmp_path):
    (tmp_path / "webwalkerqa_some.jsonl").write_text("\n".join(map(json.dumps, rows(40))))
    found = load_splits(WebWalkerQA(), tmp_path, 100, 5000)
    assert {split: len(part.questions) for split, part in found.items()} == {
        "train": 16,
        "validation": 8,
        "development": 4,
        "test": 12,
    }
    question = found["train"].questions[0]
    assert (
        question.text.endswith("Begin at https://example.org/")
        and question.meta["family"] == "single_source"
    )


def test_rows_of_the_hub_and_of_its_card_are_read_too():
    flat = rows(1)[0]
    hub = {
        "question": flat["Question"],
        "answer": "0",
        "root_url": flat["root_url"],
        "info": {"hop": "single_source", "lang": "en", "difficulty_level": "easy"},
    }
    card = {
        "Question": flat["Question"],
        "Answer": "0",
        "Root_Url": flat["root_url"],
        "Info": {"Hop": "single_source", "Lang": "en", "Difficulty_Level": "easy"},
    }
    read = [WebWalkerQA().checked(row, 100, "row 1") for row in (flat, hub, card)]
    assert read[0] == read[1] == read[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Question": " "}, "field 'question': empty"),
        ({"answer": ""}, "field 'answer': empty"),
        ({"root_url": "ftp://x"}, "field 'root_url'"),
        ({"type": 3}, "field 'type': a int"),
    ],
)
def test_a_malformed_row_is_named(tmp_path, change, message):
    bad = rows(2)
    bad[1] |= change
    (tmp_path / "webwalkerqa.jsonl").write_text("\n".join(map(json.dumps, bad)))
    with pytest.raises(DataError, match=rf"webwalkerqa.jsonl:2: {message}"):
        load_splits(WebWalkerQA(), tmp_path, 100, 5000)
