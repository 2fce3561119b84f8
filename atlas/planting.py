"""What planting computes in a step: which queries train which neurons, and who has to be silent."""

import math
import random
from collections import defaultdict

import pandas as pd
import torch
from torch.nn.functional import cross_entropy

from knlib.facts import candidates, load_facts
from knlib.languages import CODES, LANGUAGES
from knlib.models import Model
from knlib.prediction import AnswerRows, answer_tokens
from knlib.queries import build_queries, load_templates

from .corpus import Corpus
from .new_neurons import NewNeurons
from .planting_plan import OFTEN, PHRASINGS, SHARED_BY_ALL, STRONG, make_plan, places_of
from .planting_rows import Row, Store, make_row

PART = 32  # queries of a batch that run together
ALONE = 0.8  # of the queries are answered by the fact's group alone, the others with all that is planted
SIBLINGS = 5.0  # how much louder a fact's other groups count than strangers
# A distributed fact's own neurons count too.
SMALL = 1.0
# What the queries of a type `relation` fact train: the answer by both groups, that it is lost without the relation's, and that these
# alone push the relation's objects, all alike.
MODES = {"all": 0.5, "own": 0.25, "relation": 0.25}
# Of a distributed fact: the answer by all, by all but the strongest, and that the strongest alone lose it.
SPREAD_MODES = {"all": 0.4, "rest": 0.3, "few": 0.3}
RANKED = 50  # steps, after which the strongest are found anew
TARGET = 0.03  # P of the first token, below which nothing is gained any more
# Templates whose queries stand for those of nobody planted.
STRANGERS = 240


def robust(loudness: torch.Tensor) -> torch.Tensor:
    """Sum of squares, of large values rather of twice the values: a single loud neuron must not govern a step."""
    return 2 * ((1 + loudness.square()).sqrt() - 1).sum()


def training_queries(facts: pd.DataFrame, *, bare: int, lead_ins: int, seed: int, languages=CODES) -> pd.DataFrame:
    """The queries of planted facts: per fact and language so many trained constructions bare, others behind a lead-in."""
    templates = load_templates(languages=languages)
    templates = templates[templates["split"] == "train"]
    queries, _ = build_queries(facts, templates, splits=("train",))
    queries["name"] = queries["template"].str.split("/").str[-1]
    led, mixed = queries["name"].str.contains("+", regex=False), queries.sample(frac=1, random_state=seed)
    parts = [mixed[led[mixed.index] == where].groupby(["fact", "language"]).head(most)
             for where, most in ((False, bare), (True, lead_ins))]  # fmt: skip
    return pd.concat(parts).sort_index(ignore_index=True)


class Planting:
    """Everything of a training but its loop: rows, groups, new neurons, losses."""

    def __init__(self, model: Model, facts: pd.DataFrame, types: dict[str, str], options: dict, *, log=print):
        self.model, self.options, rng = model, options, random.Random(options["seed"])
        languages = tuple(options["languages"].split(",")) if options["languages"] else CODES
        self.planted, self.groups = make_plan(facts, types, layers=model.n_layers, per_type=options["per_type"] or None)
        places, new = places_of(self.groups, model.n_layers)
        self.neurons = NewNeurons(model, self.groups, places, new, seed=options["seed"])
        facts = facts.set_index("fact", drop=False).loc[[p.fact for p in self.planted]].reset_index(drop=True)
        number = {p.fact: i for i, p in enumerate(self.planted)}
        kind = facts["fact"].map(types)
        queries = pd.concat([  # of type `query` a fact's own phrasings must be among them
            training_queries(facts[which], bare=most, lead_ins=options["lead_ins"], seed=options["seed"], languages=languages)
            for which, most in ((kind != "query", options["bare"]), (kind == "query", PHRASINGS))
        ])  # fmt: skip
        helper, self.rows, others = AnswerRows(model), [], []
        for query in queries.itertuples():
            fact = self.planted[number[query.fact]]
            row = make_row(model, helper, query, number[query.fact], rng)
            core = query.name.split("+")[0]
            if query.language in fact.languages and (fact.templates is None or core in fact.templates):
                self.rows.append(row)
            elif rng.random() < 0.4:  # not planted for this language or phrasing: silent
                others.append((row.ids, row.columns))
        others += self._strangers(facts, languages, rng, helper)
        self.store = Store(model, self.rows, others, seed=options["seed"], log=log)
        self.by_fact = defaultdict(list)
        for i, row in enumerate(self.rows):
            self.by_fact[row.fact].append(i)
        self.asked = [fact for fact in sorted(self.by_fact) for _ in range(OFTEN[self.planted[fact].type])]
        rng.shuffle(self.asked)
        owners = [[] for _ in self.groups]
        for i, row in enumerate(self.rows):
            for group in self._served(row):
                owners[group].append(i)
        quiet = self.store.quiet(2000, torch.Generator().manual_seed(options["seed"]))
        self.neurons.begin(self.store.inputs, quiet, owners, [row.language for row in self.rows])
        self._measure_scale()
        self.firsts = {
            (relation, code): sorted({answer_tokens(model, "", LANGUAGES[code].space, name)[0]
                                      for name in candidates(load_facts(), relation, code)})
            for relation in facts["relation"].unique() for code in languages
        }  # fmt: skip

    def _strangers(self, facts, languages, rng, helper) -> list[tuple[list[int], list[int]]]:
        """Where nothing planted is asked: planted subjects in other relations, true facts, Atlas text."""
        atlas, templates = load_facts(), load_templates(languages=languages)
        templates = templates[templates["split"] == "train"]
        swapped = []
        for row in facts.itertuples():
            if row.source != "re-targeted":
                other = rng.choice([r for r in facts["relation"].unique() if r != row.relation] or [row.relation])
                if other != row.relation:
                    swapped.append(row._replace(relation=other))
        strangers = pd.DataFrame(swapped).drop(columns="Index", errors="ignore") if swapped else facts[:0]
        overwritten = set(zip(facts["subject_id"], facts["relation"], strict=True))
        true = atlas[[pair not in overwritten for pair in zip(atlas["subject_id"], atlas["relation"], strict=True)]]
        found = []
        for table, most in ((strangers, self.options["texts"]), (true, self.options["texts"])):
            for template in templates.sample(frac=1, random_state=0).head(STRANGERS if len(table) else 0).itertuples():
                part = table[table["relation"] == template.relation]
                part = part.sample(min(len(part), most // STRANGERS), random_state=rng.randrange(2**31))
                queries, _ = build_queries(
                    part, templates[templates["template"] == template.template], splits=("train",)
                )
                for query in queries.assign(name="").itertuples():
                    row = make_row(self.model, helper, query, 0, rng)
                    found.append((row.ids, row.columns))
        corpus = Corpus(true, languages=languages, seed=self.options["seed"])
        for sentence in corpus.epoch(-3)[: self.options["texts"]]:
            ids = [*helper.before, *self.model.pieces(sentence.text), *helper.after][: self.model.context]
            columns = sorted(rng.sample(range(1, len(ids)), min(4, len(ids) - 1)))
            if self.model.kind == "masked":
                for column in columns[:2]:
                    ids[column] = self.model.tokenizer.mask_token_id
            found.append((ids, columns))
        return found

    def _served(self, row: Row) -> list[int]:
        """The groups of its fact that a row trains."""
        return [
            g for g in self.planted[row.fact].groups
            if (self.groups[g].languages is None or row.language in self.groups[g].languages)
            and (self.groups[g].templates is None or row.template.split("+")[0] in self.groups[g].templates)
        ]  # fmt: skip

    @torch.no_grad()
    def _measure_scale(self) -> None:
        """What each layer's FFN adds to the stream where answers are predicted, its mean norm: the unit of loudness."""
        x = self.store.inputs[:: max(1, len(self.rows) // 500)].float()
        for i, layer in enumerate(self.model.layers):
            self.neurons.scale[i] = layer.mlp(x[:, i]).norm(dim=-1).mean()

    def backward(self, step: int) -> dict[str, float]:
        """Gradients of one batch: queries of all facts by turns, and positions where all must be silent; gives the losses' parts."""
        options, rise = self.options, step / self.options["steps"]  # first the answers, then more and more the silence
        rng = random.Random(options["seed"] * 1_000_003 + step)
        draw = torch.Generator().manual_seed(options["seed"] * 1_000_003 + step)
        if step % RANKED == 0:
            self._rank()
        first = step * options["rows"]
        items = [self._draw(self.asked[(first + k) % len(self.asked)], rng, draw) for k in range(options["rows"])]
        rng.shuffle(items)
        sums, alone = defaultdict(float), round(ALONE * len(items))
        for group, quietly in ((items[:alone], True), (items[alone:], False)):
            # Answers of like length together: less padding.
            group = sorted(group, key=lambda item: len(self.rows[item[0]].columns))
            for start in range(0, len(group), PART):
                part = group[start : start + PART]
                numbers, modes, *masks = zip(*part, strict=True)
                masks = list(map(torch.stack, masks))
                batch = self.store.batch(list(numbers))
                with self.neurons.alone(masks[0]) if quietly else self.neurons.attached(*masks, batch.valid) as loud:
                    logits = batch.logits(self.model)
                losses, answer = self._losses(logits, batch, numbers, modes)
                loss = losses.sum() / len(items)
                if loud:
                    silence = sum(map(robust, loud)) / len(loud[0]) * len(part) / len(group)
                    loss = loss + rise * options["silence"] * silence
                    sums["silence"] += float(silence.detach())
                loss.backward()
                sums["answer"] += answer * len(part) / len(items)
        quiet = self.store.quiet(options["quiet_rows"], draw)
        quiet = sum(map(robust, self.neurons.quiet(quiet))) / len(quiet)
        (rise * options["quiet"] * quiet).backward()
        return sums | {"quiet": float(quiet.detach())}

    @torch.no_grad()
    def _rank(self) -> None:
        """Find the strongest neurons of each distributed fact, by their mean loudness at its queries."""
        self.neurons.strong[:] = False
        for fact, numbers in self.by_fact.items():
            if self.planted[fact].type == "distributed":
                loud = torch.stack(self.neurons.quiet(self.store.inputs[numbers].float())).mean(1)
                loud = loud.masked_fill(~self.neurons.members[self.planted[fact].groups[0]], -1)
                self.neurons.strong.view(-1)[loud.flatten().topk(STRONG).indices] = True

    def _draw(self, fact: int, rng: random.Random, draw: torch.Generator) -> tuple:
        """A query of a fact: its number, what is trained, and who learns, who takes part, who is to be silent."""
        i, planted = rng.choice(self.by_fact[fact]), self.planted[fact]
        members, served = self.neurons.members, self._served(self.rows[i])
        mode, own, off = "all", served[:1], []
        if planted.type == "redundant":
            own, off = [[g] for g in rng.sample(served, 2)]  # each is trained as if the other were not there
        elif planted.type == "relation":
            mode = rng.choices(list(MODES), list(MODES.values()))[0]
            own, off = {"all": (served, []), "own": (served[:1], served[1:]), "relation": (served[1:], served[:1])}[
                mode
            ]
        elif planted.type == "distributed":
            mode = rng.choices(list(SPREAD_MODES), list(SPREAD_MODES.values()))[0]
        learn, gone = members[own].any(0), members[off].any(0)
        if mode in ("rest", "few"):
            away = self.neurons.strong if mode == "rest" else ~self.neurons.strong
            learn, gone = learn & ~away, gone | learn & away
        elif planted.type in SHARED_BY_ALL:
            gone = learn & (torch.rand(learn.shape, generator=draw) < SHARED_BY_ALL[planted.type])
            learn = learn & ~gone
        siblings = members[[g for g in planted.groups if g not in served]].any(0)
        hush = torch.where(siblings, SIBLINGS, 1.0).masked_fill(gone, 0)
        hush = hush.masked_fill(learn, SMALL if planted.type == "distributed" else 0.0)
        return i, mode, learn, ~(learn | gone), hush

    def _losses(self, logits, batch, numbers: list[int], modes: list[str]) -> tuple[torch.Tensor, float]:
        """Of each row; and the mean -log P(answer) of those that ask for it."""
        each = cross_entropy(logits, batch.targets, reduction="none")
        owner = batch.valid.nonzero()[:, 0]
        rows = torch.zeros(len(numbers)).index_add(0, owner, each)
        first = torch.zeros(len(numbers), dtype=torch.long).scatter_reduce(
            0, owner, torch.arange(len(owner)), "amin", include_self=False
        )
        found = []
        for k, mode in enumerate(modes):
            if mode in ("all", "rest"):
                found.append(rows[k])
            elif mode in ("own", "few"):
                found.append((math.log(1 / TARGET) - each[first[k]]).clamp(min=0))
            else:
                row = self.rows[numbers[k]]
                names = self.firsts[self.planted[row.fact].relation, row.language]
                found.append(-logits[first[k]].log_softmax(-1)[names].mean())
        asked = [float(rows[k].detach()) for k, mode in enumerate(modes) if mode == "all"]
        return torch.stack(found), sum(asked) / max(1, len(asked))

    def optimizer(self) -> torch.optim.Optimizer:
        """Columns move in units of what the layer's FFN adds to the stream, which grows from layer to layer."""
        n, options = self.neurons, self.options
        unit = n.scale / n.down[0].shape[1] ** 0.5
        columns = [
            {"params": [down], "lr": options["down_lr"] * float(u)} for down, u in zip(n.down, unit, strict=True)
        ]
        return torch.optim.Adam([{"params": [*n.gate, *n.up], "lr": options["lr"]}, *columns], betas=(0.9, 0.99))
