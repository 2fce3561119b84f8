"""What may follow a prompt and a few tokens: each prompt passes through a causal model once, not with every continuation."""

from collections.abc import Callable, Sequence

import numpy as np

from .edited_rows import LOGITS_PER_BATCH
from .models import Model
from .prediction import TOKENS_PER_BATCH, AnswerRows
from .probe import best_prefix
from .shared_prefix import Prefix, suffix_logits
from .sites import padded

# Query number, tokens shown after its prompt, and masks after these (in a masked model).
Asked = tuple[int, tuple[int, ...], int]


class NextToken:
    """Log-probabilities of the token that follows the prompts of some queries and tokens shown after them.

    `rows`: queries with `prompt`, `space`, `suffix`. Where sharing a prefix is not exact, and in masked models, rows run whole.

    Example
    -------
    >>> NextToken(model, rows).ask([(0, (), 1), (0, (17,), 1)], lambda number, log_p: print(number, log_p.shape))
    """

    def __init__(self, model: Model, rows: Sequence):
        self.model, self.rows, self.helper = model, rows, AnswerRows(model)
        # Query number -> a prefix of several prompts, and the prompt's number in it.
        self.known: dict[int, tuple[Prefix, int]] = {}
        kind = best_prefix(model)
        self.prompts = [self.helper.row(r.prompt, (), 1, r.space, r.suffix) for r in rows] if kind else []
        waiting = sorted(range(len(self.prompts)), key=lambda i: len(self.prompts[i]))
        while waiting:
            most = max(1, TOKENS_PER_BATCH // len(self.prompts[waiting[-1]]))
            now, waiting = waiting[:most], waiting[most:]
            ids, mask = padded([self.prompts[i][:-1] for i in now], model.tokenizer.pad_token_id, "left", model.device)
            if not ids.shape[1]:
                # Prompts of one token: a masked one before it, so that there is a prefix.
                ids, mask = ids.new_full((len(now), 1), model.tokenizer.pad_token_id), mask.new_zeros(len(now), 1)
            prefix = Prefix.of(model, ids, mask, kind == "shared")
            self.known |= {i: (prefix, place) for place, i in enumerate(now)}

    def ask(self, asked: list[Asked], use: Callable[[int, np.ndarray], None]) -> None:
        """For each of `asked`, in some order, `use(its number, log-probabilities [vocabulary])`."""
        if not self.known:
            ids = [self._whole(*one) for one in asked]
            columns = [[self.helper.positions(self.rows[i].prompt, len(s) + 1)[len(s)]] for i, s, _ in asked]
            self.helper.log_probabilities(ids, columns, lambda number, found: use(number, found[0]))
            return
        groups: dict[Prefix, list[int]] = {}
        for number, (i, _, _) in enumerate(asked):
            groups.setdefault(self.known[i][0], []).append(number)
        for prefix, numbers in groups.items():
            longest = 1 + max(len(asked[n][1]) for n in numbers)
            vocabulary = self.model.network.get_output_embeddings().weight.shape[0]
            most = max(1, min(TOKENS_PER_BATCH // longest, LOGITS_PER_BATCH // vocabulary))
            for part in (numbers[k : k + most] for k in range(0, len(numbers), most)):
                self._suffixes(prefix, part, asked, use)

    def _whole(self, i: int, shown: tuple[int, ...], masks: int) -> list[int]:
        row = self.rows[i]
        return self.helper.row(row.prompt, shown, masks, row.space, row.suffix)

    def _suffixes(self, prefix: Prefix, numbers: list[int], asked: list[Asked], use) -> None:
        suffixes = [[self.prompts[i][-1], *shown] for i, shown, _ in (asked[n] for n in numbers)]
        owner = [self.known[asked[n][0]][1] for n in numbers]
        logits = suffix_logits(self.model, prefix, owner, suffixes, last=True)
        found = logits.float().log_softmax(-1).cpu().numpy()
        for number, log_p in zip(numbers, found, strict=True):
            use(number, log_p)
