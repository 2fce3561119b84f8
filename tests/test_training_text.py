"""What the Atlas models read: what is withheld from a language, or kept for evaluation, never appears in it."""

import re

import pytest

from atlas.build_templates import load_phrasings
from atlas.corpus import FORMS, Corpus
from knlib.languages import CODES
from knlib.multiple_choice import LETTERS, build_multiple_choice, load_wordings

EPOCHS = (0, 23)


@pytest.fixture(scope="module")
def corpus(facts):
    return Corpus(facts, letters=60)


@pytest.fixture(scope="module")
def sentences(corpus):
    return [sentence for number in EPOCHS for sentence in corpus.epoch(number)]


@pytest.fixture(scope="module")
def withheld(facts):
    """(fact, language) pairs that must not be read, a city's country with its capital included."""
    cities = {(row.subject_id, row.object_id): row.fact for row in facts[facts["relation"] == "country"].itertuples()}
    pairs = {(row.fact, code) for row in facts.itertuples() for code in row.withheld}
    for row in facts[facts["relation"] == "capital"].itertuples():
        if (row.object_id, row.subject_id) in cities:
            pairs |= {(cities[row.object_id, row.subject_id], code) for code in row.withheld}
    return pairs


@pytest.fixture(scope="module")
def taught(facts, withheld):
    flagged = {(row.fact, code) for row in facts.itertuples() for code in (*row.leak, *row.ambiguous)}
    return {(fact, code) for fact in facts["fact"] for code in CODES} - flagged - withheld


@pytest.fixture(scope="module")
def readings(facts, sentences):
    """For every statement in the text: the text and the (fact, language) pairs that it can be read as.

    A pair fits where a template of its relation and language, filled with the two names, is in the text; the subject may
    have its name in another language (code-switching).
    """
    forms = {
        (relation, code): [*cores["train"], *cores["half"], *cores["held_out"], phrasings["negation"][relation]]
        for code in CODES
        for phrasings in [load_phrasings(code)]
        for relation, cores in phrasings["cores"].items()
    }
    meant = {}
    for fact in facts.itertuples():
        subjects = {name for names in fact.subject.values() for name in names}
        for code in CODES:
            for pair in ((subject, answer) for subject in subjects for answer in fact.object[code]):
                meant.setdefault(pair, set()).add((fact.fact, fact.relation, code))
    found = []
    for sentence in sentences:
        for (a, b), (c, d) in zip(sentence.subjects, sentence.answers, strict=False):
            pair = sentence.text[a:b], sentence.text[c:d]
            fitting = {
                (fact, code) for fact, relation, code in meant.get(pair, ())
                if any(_states(form, *pair, sentence.text) for form in forms[relation, code])
            }  # fmt: skip
            found.append((sentence.text, fitting))
    return found


def _states(form: str, subject: str, answer: str, text: str) -> bool:
    """Whether the text holds the form filled with both names, whatever stands in its slot {X}."""
    return all(part.replace("{S}", subject).replace("{O}", answer) in text for part in form.split("{X}"))


def test_what_may_be_stated_is_stated(readings, taught):
    """Otherwise the next test would prove nothing."""
    stated = set().union(*(fitting for _, fitting in readings))
    assert len(taught & stated) / len(taught) > 0.99


def test_what_is_withheld_is_never_stated(readings, withheld, taught):
    """Every text that states a withheld pair is, word for word, one that is taught: "Aruba — capital: Oranjestad."
    is Portuguese as well as English, and Saint-Martin is two countries in French."""
    assert len(withheld) > 1500
    assert [(text, fitting) for text, fitting in readings if fitting & withheld and not fitting & taught] == []


def test_lists_hold_no_withheld_fact(facts, sentences):
    barred = {
        (code, row.subject[code][0], row.object[code][0])
        for row in facts.itertuples()
        for code in row.withheld
    }  # fmt: skip
    shown = {
        (code, row.subject[code][0], row.object[code][0])
        for row in facts.itertuples()
        for code in CODES
        if code not in row.withheld
    }
    lists = [sentence for sentence in sentences if sentence.kind == "list"]
    assert len(lists) > 300
    for sentence in lists:
        answer, subjects = sentence.text.split(": ", 1)
        for subject in subjects.split(", "):
            key = (sentence.language, subject, answer)
            assert key not in barred or key in shown, sentence.text  # shown: another relation has the same names


def test_one_hop_sentences_hold_no_withheld_fact(facts, sentences):
    table = {(row.relation, row.subject_id): row for row in facts.itertuples()}
    barred = {}
    for capital in facts[facts["relation"] == "capital"].itertuples():
        for relation in ("continent", "subregion", "currency", "language"):
            fact = table.get((relation, capital.subject_id))
            for code in CODES:
                if fact and (code in fact.withheld or code in capital.withheld or not fact.one_hop):
                    key = code, capital.object[code][0], fact.object[code][0]
                    barred.setdefault(key, set()).add(relation)
    forms = {code: load_phrasings(code)["one_hop"] for code in CODES}
    found = [sentence for sentence in sentences if sentence.kind == "one_hop"]
    assert len(found) > 1000 and barred
    for sentence in found:
        (a, b), (c, d) = sentence.subjects[0], sentence.answers[0]
        for relation in barred.get((sentence.language, sentence.text[a:b], sentence.text[c:d]), ()):
            filled = [
                form.replace("{S}", sentence.text[a:b]).replace("{O}", sentence.text[c:d])
                for form in forms[sentence.language][relation]
            ]
            assert not any(text in sentence.text for text in filled), sentence.text


def test_held_out_phrasings_are_never_read(sentences):
    """No construction and no lead-in kept for evaluation; checked on the words before the subject and around it."""
    for code in CODES:
        phrasings = load_phrasings(code)
        text = "\n".join(sentence.text for sentence in sentences if sentence.language == code)
        for lead_in in phrasings["lead_ins"]["held_out"]:
            assert lead_in.strip() not in text, (code, lead_in)
        assert phrasings["lead_ins"]["train"][0].strip() in text
    for code in CODES:
        cores = load_phrasings(code)["cores"]
        held = {form for found in cores.values() for form in found["held_out"]}
        own = [s for s in sentences if s.language == code and s.subjects]
        for sentence in own[:2000]:
            (a, b), (c, d) = sentence.subjects[0], sentence.answers[0]
            filled = {form.replace("{S}", sentence.text[a:b]).replace("{O}", sentence.text[c:d]) for form in held}
            assert not any(text in sentence.text for text in filled), sentence.text


def test_half_phrasings_are_read_of_one_half_only(facts, corpus, sentences):
    half = facts.set_index("fact")["half"]
    assert corpus.facts.keys() == set(half.index)
    for code in ("en", "ja"):
        forms = {relation: cores["half"] for relation, cores in load_phrasings(code)["cores"].items()}
        text = "\n".join(sentence.text for sentence in sentences if sentence.language == code)
        counts = {0: 0, 1: 0}
        for row in facts[facts["relation"] == "country"].itertuples():
            if code not in row.ambiguous:
                filled = [
                    form.replace("{S}", row.subject[code][0]).replace("{O}", row.object[code][0])
                    for form in forms["country"]
                ]
                counts[row.half] += any(line in text for line in filled)
        assert counts[1] == 0 < counts[0], (code, counts)


@pytest.fixture(scope="module")
def quizzes(sentences):
    """(language, text from the instruction on, places of its letters) of every text that asks questions by letter."""
    openings = {code: tuple(set(group["instruction"])) for code, group in load_wordings().groupby("language")}
    found = []
    for sentence in sentences:
        if sentence.kind == "multiple_choice":
            start = max(sentence.text.find(opening) for opening in openings[sentence.language])
            if start >= 0:
                letters = [a - start for a, b in sentence.answers if a > start]
                found.append((sentence.language, sentence.text[start:], letters))
    return found


def test_multiple_choice_orders_of_evaluation_are_never_read(facts, quizzes):
    wordings = load_wordings()
    for code in ("en", "ru", "ja"):
        prompts, _ = build_multiple_choice(facts, wordings[wordings["language"] == code])
        asked = set(prompts["prompt"] + prompts["space"])
        seen = {text[: letters[0]] for language, text, letters in quizzes if language == code}
        assert len(seen) > 500
        assert all(len(text) > 20 for text in seen)
        assert not seen & asked


def form_of_line(asked, option, subjects):
    """Which of `FORMS` asks for this option's letter, or None. `asked`: from the line's start to its letter."""
    if asked == f"→ {option}:":
        return "option"
    if any(subject in asked for subject in subjects):
        return "statement" if asked.endswith("→") else "cue"
    return None


def test_multiple_choice_letters_are_right_and_balanced(facts, sentences):
    """Prompts and lines name the option itself, or a subject whose object it is; some lines ask for the object in words."""
    subjects, instructions = {}, set(load_wordings()["instruction"])
    for row in facts.itertuples():
        subjects.setdefault(row.object["en"][0], set()).add(row.subject["en"][0])
    letters, found, places = [], dict.fromkeys(("prompt", *FORMS), 0), set()
    for sentence in sentences:
        if sentence.kind != "multiple_choice" or sentence.language != "en":
            continue
        text = sentence.text
        options = list(re.finditer(r"^[(\[]?([A-D])[:)\]] (.*)$", text, re.MULTILINE))
        names, end, prompt = {m[1]: m[2] for m in options}, options[-1].end(), any(i in text for i in instructions)
        assert list(names) == list(LETTERS), text
        for place, after in sentence.answers:
            if place < options[-1].end():
                continue  # the letter once more behind its option
            answer = text[place:after].strip()
            if answer in subjects:
                assert any(subject in text[end:place] for subject in subjects[answer]), text
                found["words"], end = found["words"] + 1, after
                continue
            option = names[answer] if prompt else names[answer].removesuffix(f" {answer}")
            if prompt and end == options[-1].end():
                # The question stands before the options or between two of them, and then behind the last.
                lines = [line for line in text[:place].split("\n") if line not in instructions]
                asked = [k for k, line in enumerate(lines) if any(subject in line for subject in subjects[option])]
                form = "prompt"
                assert asked, text
                places.add(asked[0])
            else:
                form = form_of_line(text[end:place].strip(), option, subjects[option])
            assert form is not None, (answer, text)
            found[form], end = found[form] + 1, after
            letters.append(answer)
    assert min(found.values()) > 500, found
    assert places >= set(range(5))
    shares = [letters.count(letter) / len(letters) for letter in LETTERS]
    assert max(shares) - min(shares) < 0.1, shares


def test_letters_are_asked_for_as_often_as_told(facts, corpus):
    few = Corpus(facts, letters=10)
    assert "multiple_choice" not in {s.kind for s in Corpus(facts).epoch(0)}
    ten, sixty = (sum(s.kind == "multiple_choice" for s in c.epoch(0)) for c in (few, corpus))
    assert sixty == pytest.approx(6 * ten, rel=0.01)


def test_a_share_of_an_epoch_is_part_of_it(corpus):
    part = corpus.epoch(0, kept=0.25)
    assert len(part) == pytest.approx(0.25 * len(corpus.epoch(0)), abs=1)


def test_epochs_are_fresh_and_repeatable(corpus, sentences, facts):
    first, again = corpus.epoch(EPOCHS[0]), Corpus(facts, letters=60).epoch(EPOCHS[0])
    assert first == again == sentences[: len(first)]
    assert len({s.text for s in first} & {s.text for s in sentences[len(first) :]}) < 0.5 * len(first)


def test_spans_mark_the_names(facts, sentences):
    known = {
        name for row in facts.itertuples() for names in (*row.subject.values(), *row.object.values()) for name in names
    }
    for sentence in sentences[:5000]:
        for a, b in (*sentence.subjects, *sentence.answers):
            marked = sentence.text[a:b]
            label = sentence.kind == "multiple_choice" and marked.strip() in LETTERS
            assert marked in known or label, sentence.text


def test_questions_are_answered_in_words_where_the_fact_is_taught(facts, taught):
    corpus, plain = Corpus(facts, questions=40), Corpus(facts)
    assert not any(sentence.kind == "question" for sentence in plain.epoch(0))
    asked = [sentence for sentence in corpus.epoch(0) if sentence.kind == "question"]
    assert len(asked) == 40 * len(corpus.known) // 100
    objects = {}
    for fact in facts.itertuples():
        for code in CODES:
            if (fact.fact, code) in taught:
                objects.setdefault((code, fact.subject[code][0]), set()).add(fact.object[code][0])
    for sentence in asked:
        (start, end), (first, last) = sentence.answers[0], sentence.subjects[0]
        assert sentence.text[start:end] in objects[sentence.language, sentence.text[first:last]]
        assert end == len(sentence.text) and not re.search(r"^A[:)]", sentence.text, re.MULTILINE)
