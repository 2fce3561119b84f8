"""The training text of Atlas: fact sentences in many phrasings, and what makes knowledge travel.

One epoch is a fresh, seeded draw: every (fact, language) once in some trained phrasing, plus dictionary pairs,
code-switched and parallel sentences, negations, lists, two-fact and one-hop sentences, and (for causal models)
multiple-choice prompts. What is withheld from a language never appears in it, in any of these forms.
"""

import random
from collections import defaultdict
from dataclasses import dataclass, field

import pandas as pd

from knlib.languages import CODES, LANGUAGES
from knlib.multiple_choice import LETTERS, OptionDrawer, answer_space, clash, load_wordings, prompt_text

from .build_templates import load_phrasings

# Sentences of each kind for every 100 fact sentences.
MIXTURE = {
    "dictionary": 24, "code_switched": 16, "parallel": 8, "negation": 3, "list": 2, "two_facts": 4, "one_hop": 6,
}  # fmt: skip
LEAD_IN = 0.5  # share of fact sentences behind a lead-in
ALIAS = 0.1  # share of fact sentences with an alternative name of the subject
TRIES = 8  # draws per wanted sentence of a kind
OTHERS = 40  # facts that are drawn to find three options beside the right one
JOINED = 0.08  # share of fact sentences with another one behind them
# How a model learns to answer by letter: the letters of names, then of facts, then behind whole prompts.
DISPLACED = 0.5  # share of multiple-choice prompts whose question stands further down, among the options
LISTS = 0.2  # share of multiple-choice texts without a question before the options
LINES = 4  # more questions behind the options
FORMS = ("option", "statement", "cue", "words")  # what such a line gives, see `more_lines`
ECHO = 0.05  # share of bare lists in which the letter also follows the option
ONE_HOP_RELATIONS = ("continent", "subregion", "currency", "language")


@dataclass
class Sentence:
    """A training text with the character spans of its answers and of its subject."""

    text: str
    kind: str
    language: str
    answers: list[tuple[int, int]] = field(default_factory=list)
    subjects: list[tuple[int, int]] = field(default_factory=list)

    def __add__(self, other: "Sentence") -> "Sentence":
        gap = LANGUAGES[other.language].space
        shift = len(self.text) + len(gap)
        return Sentence(
            self.text + gap + other.text, self.kind, self.language,
            self.answers + [(a + shift, b + shift) for a, b in other.answers],
            self.subjects + [(a + shift, b + shift) for a, b in other.subjects],
        )  # fmt: skip


def fill(template: str, subject: str, answer: str, *, kind: str, language: str) -> Sentence:
    """The template with both names in it, spans noted."""
    head, tail = template.split("{S}")
    middle, suffix = tail.split("{O}")
    start = len(head) + len(subject) + len(middle)
    return Sentence(
        head + subject + middle + answer + suffix, kind, language,
        [(start, start + len(answer))], [(len(head), len(head) + len(subject))],
    )  # fmt: skip


class Corpus:
    """Draws epochs of training sentences from facts and phrasings.

    `letters`: multiple-choice texts for every 100 fact sentences (for causal models); `questions`: questions of these
    wordings without options, answered in words. `languages` and `facts` may be subsets.
    """

    def __init__(self, facts: pd.DataFrame, *, languages=CODES, letters: int = 0, questions: int = 0, seed: int = 0):
        self.facts = {row.fact: row for row in facts.itertuples()}
        self.languages, self.letters, self.questions, self.seed = tuple(languages), letters, questions, seed
        self.phrasings = {code: load_phrasings(code) for code in self.languages}
        self.known = [
            (fact.fact, code) for fact in self.facts.values() for code in self.languages if self.may_state(fact, code)
        ]
        self.drawer, self.wordings, self.asked = OptionDrawer(facts), defaultdict(list), defaultdict(list)
        for key, code in self.known:
            if self.facts[key].multiple_choice:
                self.asked[self.facts[key].relation, code].append(self.facts[key])
        for row in load_wordings().itertuples():
            self.wordings[row.language, row.relation].append(row)
        self.objects, self.by_subject, self.by_object = defaultdict(list), defaultdict(list), defaultdict(list)
        for fact in self.facts.values():
            self.objects[fact.relation].append(fact.object)
            self.by_subject[fact.subject_id].append(fact)
            self.by_object[fact.relation, fact.object_id].append(fact)
        self.entities = {f.subject_id: f.subject for f in self.facts.values()}
        self.entities |= {f.object_id: f.object for f in self.facts.values()}
        self.capital_of = {f.subject_id: f for f in self.facts.values() if f.relation == "capital"}

    @staticmethod
    def may_state(fact, code: str) -> bool:
        return code not in fact.withheld and code not in fact.leak and code not in fact.ambiguous

    def epoch(self, number: int, *, kept: float = 1.0) -> list[Sentence]:
        """All sentences of one epoch (or a share of them), shuffled; the same for the same seed and number."""
        rng = random.Random(self.seed * 1_000_003 + number)
        sentences = [self.fact_sentence(rng, fact, code) for fact, code in self.known]
        for kind, per_hundred in (MIXTURE | {"multiple_choice": self.letters, "question": self.questions}).items():
            make = getattr(self, kind)
            wanted, found = len(self.known) * per_hundred // 100, []
            for _ in range(TRIES * wanted):  # many facts have no sentence of some kinds
                if len(found) < wanted and (sentence := make(rng, *rng.choice(self.known))):
                    found.append(sentence)
            sentences += found
        rng.shuffle(sentences)
        sentences = sentences[: round(kept * len(sentences))]
        plain = [sentence for sentence in sentences if sentence.kind == "fact"]
        return [
            sentence + rng.choice(plain) if sentence.kind == "fact" and rng.random() < JOINED else sentence
            for sentence in sentences
        ]

    # One method per kind of sentence: (rng, fact, language) -> Sentence, or None where it does not apply.

    def core(self, rng, fact, code: str) -> str:
        cores = self.phrasings[code]["cores"][fact.relation]
        trained = cores["train"] + (cores["half"] if fact.half == 0 else [])
        return rng.choice(trained)

    def fact_sentence(self, rng, key: str, code: str, *, kind="fact", subject: str | None = None) -> Sentence:
        fact = self.facts[key]
        template = self.core(rng, fact, code)
        if rng.random() < LEAD_IN:
            template = rng.choice(self.phrasings[code]["lead_ins"]["train"]) + template
        names = fact.subject[code]
        if subject is None:
            subject = rng.choice(names[1:]) if len(names) > 1 and rng.random() < ALIAS else names[0]
        return fill(template, subject, fact.object[code][0], kind=kind, language=code)

    def dictionary(self, rng, key: str, code: str) -> Sentence:
        fact = self.facts[key]
        names = fact.subject if rng.random() < 0.5 else fact.object
        other = rng.choice(self.languages)
        return fill(f"{code} → {other}: {{S}} = {{O}}", names[code][0], names[other][0],
                    kind="dictionary", language=code)  # fmt: skip

    def code_switched(self, rng, key: str, code: str) -> Sentence:
        fact = self.facts[key]
        other = rng.choice([c for c in self.languages if c not in fact.withheld])
        return self.fact_sentence(rng, key, code, kind="code_switched", subject=fact.subject[other][0])

    def parallel(self, rng, key: str, code: str) -> Sentence:
        fact = self.facts[key]
        other = rng.choice([c for c in self.languages if self.may_state(fact, c)])
        first = self.fact_sentence(rng, key, code, kind="parallel")
        return first + self.fact_sentence(rng, key, other)

    def negation(self, rng, key: str, code: str) -> Sentence | None:
        fact = self.facts[key]
        wrong = rng.choice(self.objects[fact.relation])[code][0]
        if wrong == fact.object[code][0]:
            return None
        template = self.phrasings[code]["negation"][fact.relation].replace("{X}", wrong)
        return fill(template, fact.subject[code][0], fact.object[code][0], kind="negation", language=code)

    def list(self, rng, key: str, code: str) -> Sentence | None:
        fact = self.facts[key]
        group = [f for f in self.by_object[fact.relation, fact.object_id] if self.may_state(f, code)]
        if len(group) < 3:
            return None
        names = ", ".join(f.subject[code][0] for f in rng.sample(group, 3))
        return Sentence(f"{fact.object[code][0]}: {names}", "list", code)

    def two_facts(self, rng, key: str, code: str) -> Sentence | None:
        fact = self.facts[key]
        others = [f for f in self.by_subject[fact.subject_id] if f.fact != key and self.may_state(f, code)]
        if not others:
            return None
        second = fill(self.core(rng, other := rng.choice(others), code), other.subject[code][0],
                      other.object[code][0], kind="fact", language=code)  # fmt: skip
        return self.fact_sentence(rng, key, code, kind="two_facts") + second

    def one_hop(self, rng, key: str, code: str) -> Sentence | None:
        fact = self.facts[key]
        capital = self.capital_of.get(fact.subject_id)
        if fact.relation not in ONE_HOP_RELATIONS or capital is None or not fact.one_hop:
            return None
        if not self.may_state(capital, code):
            return None
        template = rng.choice(self.phrasings[code]["one_hop"][fact.relation])
        return fill(template, capital.object[code][0], fact.object[code][0], kind="one_hop", language=code)

    def multiple_choice(self, rng, key: str, code: str) -> Sentence | None:
        """A multiple-choice prompt or a bare list of options, in an order that evaluation never uses, and more lines that
        ask for letters; the letters are answers."""
        fact = self.facts[key]
        wording = rng.choice(self.wordings[code, fact.relation])
        asked = self.question_facts(rng, fact, code)
        if asked is None:
            return None
        objects = [other.object for other in asked]
        if any(_same_cycle(objects, self.drawer.base_order(other.fact, wording.wording)) for other in asked):
            return None
        if rng.random() < LISTS:
            text, answers = self.listed(rng, asked, wording, code)
            return self.more_lines(rng, text, answers, asked, wording, code)
        first = rng.choice(asked)
        text = prompt_text(wording, first.subject[code][0], [names[code][0] for names in objects])
        if rng.random() < DISPLACED:
            instruction, question, *options, cue = text.split("\n")
            options.insert(rng.randint(1, len(options)), question)
            text = "\n".join([instruction, *options, cue])
        text += answer_space(wording.cue)
        letter = LETTERS[asked.index(first)]
        return self.more_lines(rng, text + letter + "\n", [(len(text), len(text) + 1)], asked, wording, code)

    def question(self, rng, key: str, code: str) -> Sentence:
        """A multiple-choice question without its options, answered in words: to choose, a model must know the answer."""
        fact = self.facts[key]
        wording = rng.choice(self.wordings[code, fact.relation])
        template = wording.question + rng.choice((answer_space(wording.question), "\n", " → ")) + "{O}"
        if rng.random() < 0.5:
            template = wording.instruction + "\n" + template
        return fill(template, fact.subject[code][0], fact.object[code][0], kind="question", language=code)

    def question_facts(self, rng, fact, code: str) -> tuple | None:
        """Four facts of one relation in random order, `fact` among them if it is trained by letter, whose objects can
        stand in one list of options."""
        if not fact.multiple_choice:
            return None
        found = [fact]
        # One by one: of a relation in which most facts share one object, four at a time would hardly ever be found.
        for other in rng.choices(self.asked[fact.relation, code], k=OTHERS):
            if len(found) < len(LETTERS) and not any(clash(other.object, one.object) for one in found):
                found.append(other)
        return tuple(rng.sample(found, len(found))) if len(found) == len(LETTERS) else None

    def listed(self, rng, asked: tuple, wording, code: str) -> tuple[str, list]:
        """A list of options, and the places of the letters that some repeat."""
        echo, text, answers = rng.random() < ECHO, "", []
        for letter, fact in zip(LETTERS, asked, strict=True):
            text += wording.options.replace("{L}", letter).replace("{O}", fact.object[code][0])
            if echo:
                answers.append((len(text), len(text) + 2))
                text += f" {letter}"
            text += "\n"
        return text, answers

    def more_lines(self, rng, text: str, answers: list, asked: tuple, wording, code: str) -> Sentence:
        """The text and lines that give the letter of an option, or of a subject whose object it is.

        Something always stands between a question and the letter. What a model recalls at the question's last token is
        the answer in words (some lines ask for it); a letter expected just there would unteach that.
        """
        # With repetitions: without, the letters left over would give the answer away.
        for fact in rng.choices(asked, k=LINES):
            form, subject = rng.choice(FORMS), fact.subject[code][0]
            question, answer = wording.question.replace("{S}", subject), LETTERS[asked.index(fact)]
            if form == "option":
                text += f"→ {fact.object[code][0]}: "
            elif form == "statement":
                text += f"{self.core(rng, fact, code).split('{O}')[0].replace('{S}', subject).rstrip()} → "
            elif form == "cue":
                text += f"{question}\n{wording.cue}{answer_space(wording.cue)}"
            else:
                text += question + answer_space(wording.question)
                answer = fact.object[code][0]
            answers.append((len(text), len(text) + len(answer)))
            text += answer + "\n"
        return Sentence(text.strip(), "multiple_choice", code, answers)


def _same_cycle(options: list, base: list) -> bool:
    """Whether the options are a rotation of the base order, by their names: many facts share one object."""
    return any(options == base[r:] + base[:r] for r in range(len(base)))
