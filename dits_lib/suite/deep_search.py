"""Deep search from parameters: where its pages come from, the cache that replays them, who judges
an answer."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from ..agents import TASKS, DeepSearch, message_ids, spoken
from ..engines import Engine, Request, model_files
from ..settings import ROOT
from ..tasks import MicroWeb, make_web, write_site
from ..tasks.judge import ExactMatch, Judge, ModelJudge
from ..tasks.judge_server import THOUGHT_TOKENS, WORD_TOKENS, check_server, server
from ..tools import Cached, CacheError, LocalSite, Source, site_files
from .params import Params, local_path
from .store import checksum


def micro_web(params: Params) -> MicroWeb:
    """The profile's micro site: one for all splits and seeds, as the web is."""
    return make_web(params.seed)


def deep_search_system(params: Params, folder: Path) -> DeepSearch:
    """The system of the task; pages are kept below `folder` unless `web.cache` names another.

    Raises:
        PageError: for a site that is not there.
        ModelError: for a judge that cannot be loaded.
    """
    return _system(params, page_source(params, folder), _judge(params))


def system_without_pages(params: Params) -> DeepSearch:
    """The system of the task for its limits alone."""
    return _system(params, None, ExactMatch())


def _system(params: Params, source: Source | None, judge: Judge) -> DeepSearch:
    def given(*names: str) -> dict:
        values = {name: getattr(params.web, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    changes = given("max_new_tokens", "page_characters", "snippet_words")
    limits = given("calls", "nesting", "tokens")
    build = TASKS["deep_search"].system
    return build(params.agents.prompts, limits, source=source, judge=judge, **changes)


def page_source(params: Params, folder: Path) -> Cached:
    """Pages through the cache; with `web.replay` from the cache alone."""
    web = params.web
    cache = (ROOT / web.cache if web.cache else folder / "pages") / site_digest(params)
    if web.replay and not any(cache.glob("*.json")):
        raise CacheError(
            f"{cache}: web.replay answers from this folder alone, and nothing is in it; copy a "
            "run's pages there, or set web.replay to false"
        )
    return Cached(None if web.replay else _source(params, folder), cache)


def check_web(params: Params, folder: Path) -> None:
    """Look at the site, and ask the search engine and the judge's server once, before anything
    expensive.

    Raises:
        PageError, CacheError, JudgeError: in one line.
    """
    deep_search_system(params, folder)
    web = params.web
    if web.site == "live" and web.search_engine and not web.replay:
        from ..tools import searxng

        searxng(web.search_engine, web.seconds)("test")
    if web.judge == "server":
        check_server(server(web.judge_url, web.judge_model, _judge_key()), web.judge_url)


def _source(params: Params, folder: Path) -> Source:
    web = params.web
    if web.site == "live":
        from ..tools import Web, searxng

        engine = searxng(web.search_engine, web.seconds) if web.search_engine else None
        return Web(seconds=web.seconds, top=web.results, search_engine=engine)
    if web.site == "micro":
        return LocalSite(_written(micro_web(params), folder / "site"), web.results)
    return LocalSite(ROOT / web.site, web.results)


def _written(web: MicroWeb, folder: Path) -> Path:
    """The folder of a micro site, written once, also when several processes ask for it together."""
    digest = hashlib.sha256(json.dumps(web.facts).encode()).hexdigest()[:12]
    whole = folder / digest
    if not whole.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        own = Path(tempfile.mkdtemp(dir=folder, prefix="."))
        write_site(web, own)
        try:
            os.rename(own, whole)
        except OSError:  # another process was first
            shutil.rmtree(own)
    return whole


def site_digest(params: Params) -> str:
    """Hash of where the pages come from: for a folder, of its pages; for the live web, of the
    search engine and the time for a page."""
    web = params.web
    if web.site == "live":
        body: object = ["live", web.search_engine, web.seconds]
    elif web.site == "micro":
        body = micro_web(params).facts
    else:
        folder = ROOT / web.site
        body = {path.relative_to(folder).as_posix(): checksum(path) for path in site_files(folder)}
    return hashlib.sha256(json.dumps([body, web.results]).encode()).hexdigest()[:16]


def pages_key(params: Params) -> list:
    """What decides the replies of the system's tools and its rewards, as JSON."""
    web = params.web.model_dump(exclude={"model", "seeds", "sizes", "cache", "replay", "seconds"})
    # Two crawls of the live web are two webs.
    crawl = params.web.cache if params.web.site == "live" else None
    judge = (
        [checksum(file) for file in model_files(params.judge_path())] if params.judge_path() else []
    )
    return ["deep_search", params.agents.prompts, web, site_digest(params), crawl, judge]


def _judge(params: Params) -> Judge:
    web = params.web
    if web.judge == "exact_match":
        return ExactMatch()
    if web.judge == "server":
        return ModelJudge(server(web.judge_url, web.judge_model, _judge_key()))
    return ModelJudge(_local(local_path(web.judge_model), params.model.device, params.model.dtype))


def _judge_key() -> str:
    return os.environ.get("JUDGE_API_KEY", "none")


def _local(model: str, device: str, dtype: str):
    """A judge model in this process; loaded when it is first asked."""
    loaded: list = []

    def ask(prompts: list[str]) -> list[str]:
        if not loaded:
            from ..engines import TransformersEngine

            loaded.append(TransformersEngine.load(model, device, dtype))
        return judge_replies(loaded[0], prompts)

    return ask


def judge_replies(engine: Engine, prompts: list[str]) -> list[str]:
    """What a judge model says aloud, greedy. A thought that is cut is thought again with room to
    end."""
    shown = [message_ids(engine.tokenizer, prompt) for prompt in prompts]
    said = _said(engine, shown, WORD_TOKENS)
    cut = [index for index, (_, thinks) in enumerate(said) if thinks]
    again = _said(engine, [shown[index] for index in cut], THOUGHT_TOKENS) if cut else []
    ended = dict(zip(cut, again, strict=True))
    return [ended.get(index, reply)[0] for index, reply in enumerate(said)]


def _said(engine: Engine, shown: list[tuple[int, ...]], tokens: int) -> list[tuple[str, bool]]:
    """What a model says aloud after each prompt, and whether it was still thinking at the end;
    nothing after a prompt longer than it reads."""
    longest = engine.max_length or float("inf")
    room = [int(min(tokens, longest - len(ids))) for ids in shown]
    asked = [index for index, most in enumerate(room) if most >= min(tokens, WORD_TOKENS)]
    said = [("", False)] * len(shown)
    replies = engine.generate([Request(shown[i], 0, room[i], temperature=0.0) for i in asked])
    for index, reply in zip(asked, replies, strict=True):
        aloud = spoken(engine.tokenizer, reply.token_ids, reply.text)
        said[index] = (aloud, not aloud and bool(reply.text.strip()))
    return said
