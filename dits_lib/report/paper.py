"""Numbers and claims of the paper (Shi et al., ACL 2026, arXiv 2502.00955). Another model's:
Llama-3-8B-Instruct, and QwQ-32B for WebWalker. They stand beside ours for orientation; the two are
not comparable in size."""

PAPER_SELECTION = {
    "arm": ["full", "random", "q_value", "gamma_0", "gamma_1"],
    "HotpotQA": [46.6, 51.5, 50.5, 53.1, 52.8],
    "2Wiki": [61.2, 60.6, 61.1, 62.2, 61.5],
    "TriviaQA": [70.9, 70.3, 69.8, 72.2, 71.0],
    "CBT": [57.2, 58.0, 58.6, 59.6, 59.1],
    "ARC-C": [71.5, 74.0, 73.7, 74.2, 74.5],
    "MMLU": [51.6, 51.1, 50.2, 50.8, 52.3],
}
"""Selection, one iteration (paper, ablation table): F1 for the first four data sets, accuracy for
the last two, in %."""

PAPER_MAIN = {
    "data set": [
        "HotpotQA",
        "2WikiMultiHopQA",
        "TriviaQA",
        "CBT",
        "ARC-C",
        "MMLU",
        "WebWalker (one round)",
    ],
    "metric": ["F1", "F1", "F1", "F1", "accuracy", "accuracy", "accuracy"],
    "DITS-iSFT-DPO": [57.2, 76.0, 78.4, 72.0, 77.6, 60.5, 47.2],
    "Optima-iSFT-DPO": [55.6, 74.2, 77.1, 70.1, 77.1, 60.2, 46.6],
}
"""Main result after three iterations (paper, main table), in %."""

PAPER_COST = {
    "method": ["DITS-DPO", "Optima-DPO, scaled up"],
    "F1 on 2Wiki": [0.612, 0.610],
    "tokens": [2.0e7, 3.34e7],
    "samples": [8500, 34000],
    "GPU hours": [106, 195],
}
"""Cost on 2WikiMultiHopQA (paper, figure 2b and text)."""

CLAIM_TEXTS = {
    "1a": "A high Q-value goes weakly with training gain (influence).",
    "1b": "Selecting the half of highest Q is worse than a random half.",
    "2": "Selecting half by influence beats the full set, a random half and the Q half.",
    "2p": "Ours: selecting half by the policy gradient beats a random half and the Q half.",
    "2t": "Ours: selecting half by influence through training beats a random half and the Q half.",
    "3": "For one token budget, spending more on influence than on Q-values gives the better model.",  # noqa: E501
    "4": "Over iterations the mean influence of the made data rises and its variance falls.",
    "5": "gamma = 0 is better where the metric is noisy (F1), gamma = 1 where it is stable (debate).",  # noqa: E501
    "6": "A larger V helps.",
    "7": "Too small an alpha hurts.",
    "8": "DPO loss correlates less than 0.2 with the metric, so classic influence by loss fails.",
    "9": "The gain holds for agents whose topology changes at run time, at 32B.",
}
"""The paper's claims in few words; those that begin with `Ours` say the second of other estimators
than the paper's one step."""
