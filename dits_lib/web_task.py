"""Deep search from parameters: where its pages come from, the cache that replays them, who judges an answer."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from .agents import DeepSearch, web_system
from .engines import Request, TransformersEngine
from .params import ROOT, Params, local_path
from .store import checksum
from .tasks import MicroWeb, make_web, write_site
from .tasks.judge import ExactMatch, Judge, ModelJudge, server
from .tools import Cached, LocalSite, Source, searxng
from .tools import Web as LiveWeb


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


def web_limits(params: Params) -> DeepSearch:
    """The system of the task without pages: for its limits alone."""
    return _system(params, None, ExactMatch())


def _system(params: Params, source: Source | None, judge: Judge) -> DeepSearch:
    def given(*names: str) -> dict:
        return {name: getattr(params.web, name) for name in names if getattr(params.web, name) is not None}

    changes = given("max_new_tokens", "page_characters", "snippet_words")
    return web_system(params.agents.prompts, source, given("calls", "depth", "tokens"), judge=judge, **changes)


def page_source(params: Params, folder: Path) -> Cached:
    """Pages through the cache; with `web.replay` from the cache alone."""
    web = params.web
    cache = ROOT / web.cache if web.cache else folder / "pages" / site_digest(params)
    return Cached(None if web.replay else _source(params, folder), cache)


def _source(params: Params, folder: Path) -> Source:
    web = params.web
    if web.site == "live":
        return LiveWeb(seconds=web.seconds, top=web.results, finder=searxng(web.finder, web.seconds) if web.finder else None)
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
    """Hash of where the pages come from: for a folder, of its pages; for the live web, of the search engine's address."""
    web = params.web
    if web.site == "live":
        body: object = ["live", web.finder]
    elif web.site == "micro":
        body = micro_web(params).facts
    else:
        folder = ROOT / web.site
        body = {path.relative_to(folder).as_posix(): checksum(path) for path in sorted(folder.rglob("*.html"))}
    return hashlib.sha256(json.dumps([body, web.results]).encode()).hexdigest()[:16]


def task_key(params: Params) -> list:
    """What decides the replies of the system's tools and its rewards, as JSON."""
    web = params.web.model_dump(exclude={"model", "seeds", "sizes", "cache", "replay", "seconds"})
    return ["deep_search", params.agents.prompts, web, site_digest(params)]


def _judge(params: Params) -> Judge:
    web = params.web
    if web.judge == "exact_match":
        return ExactMatch()
    if web.judge == "server":
        return ModelJudge(server(web.judge_url, web.judge_model, os.environ.get("JUDGE_API_KEY", "none")))
    return ModelJudge(_local(local_path(web.judge_model), params.model.device, params.model.dtype))


def _local(model: str, device: str, dtype: str):
    """A judge model in this process, greedy; loaded when it is first asked."""
    loaded: list[TransformersEngine] = []

    def ask(prompts: list[str]) -> list[str]:
        if not loaded:
            loaded.append(TransformersEngine.load(model, device, dtype))
        engine = loaded[0]
        chats = [engine.tokenizer.apply_chat_template([{"role": "user", "content": p}], add_generation_prompt=True, return_dict=True)["input_ids"] for p in prompts]
        return [reply.text for reply in engine.generate([Request(tuple(ids), 0, 8, temperature=0.0) for ids in chats])]

    return ask
