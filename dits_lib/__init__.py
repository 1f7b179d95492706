"""DITS: data influence-oriented tree search for multi-agent systems of language models.

The names of the method, in the order in which one round uses them. What needs torch is imported
when it is first used.
"""

import lazy_loader

_NAMES = {
    "agents": ["System", "make_system"],
    "engines": ["TransformersEngine", "VLLMEngine"],
    "influence": [
        "DPOLoss",
        "InfluenceSettings",
        "choose_step_size",
        "score_pairs",
        "step_response",
    ],
    "pairs": ["best_dialogues", "extract_pairs"],
    "rollout": ["evaluate", "sample_dialogues"],
    "search": ["SearchSettings", "tree_search"],
    "selection": ["combined_score", "top_share"],
    "tasks": ["Question", "make_questions"],
    "training": ["DPOSettings", "SFTSettings", "train_dpo", "train_sft"],
}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=_NAMES)
