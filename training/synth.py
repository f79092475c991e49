"""Questions made from text: clozes, key words, definitions, bridges, comparisons, facts. All take a `random.Random`."""
from __future__ import annotations

import random
import re

from training.bm25 import STOP

NAME = re.compile(r"(?:[A-Z][\w'’-]+|[A-Z]\.)(?: (?:(?:of|the|and|de|van|von) )?(?:[A-Z][\w'’-]+|[A-Z]\.|\d+))*")
YEAR = re.compile(r"\b(?:\d{1,2} )?(?:(?:January|February|March|April|May|June|July|August|September|October|November"
                  r"|December) (?:\d{1,2}, )?)?(?:1[0-9]|20)\d\d\b")
NUMBER = re.compile(r"\b\d[\d,.]*\d\b|\b\d\b")
DEFINITION = re.compile(r"\b(is|was|are|were) (an?|the) (.+?)(?:[.;]|, (?:and|which|who)|$)")


def sentences(text: str) -> list[str]:
    return [s for s in re.split(r"(?<=[.!?]) +(?=[A-Z\"])", text.replace("\n", " ")) if len(s.split()) >= 5]


def bare(title: str) -> str:
    return re.sub(r"\s*\([^)]*\)$", "", title)


def trimmed(rng: random.Random, text: str, answer: str) -> str:
    """A run of the text's sentences around the only one that holds the answer; the text itself where several do."""
    pieces = re.split(r"(?<=[.!?]) +(?=[A-Z\"])", text)
    held = [i for i, p in enumerate(pieces) if answer in p]
    if len(held) != 1:
        return text
    return " ".join(pieces[rng.randint(0, held[0]): rng.randint(held[0], len(pieces) - 1) + 1])


def varied(rng: random.Random, question: str) -> str:
    """Now and then as people type: in small letters, without the question mark."""
    if rng.random() < 0.06:
        question = question.lower()
    return question.rstrip("?").rstrip() if rng.random() < 0.04 else question


def keywords(rng: random.Random, title: str, text: str) -> str:
    """Three to eight telling words of one or two neighbouring sentences, in order or not."""
    ss = sentences(text) or [text]
    start = rng.randrange(len(ss))
    found = re.findall(r"[\w'’-]+", " ".join(ss[start:start + rng.choice((1, 1, 2))]))
    found = [w for w in dict.fromkeys(found) if w.lower() not in STOP and len(w) > 2]
    chosen = sorted(rng.sample(range(len(found)), min(len(found), rng.randint(3, 8))))
    if rng.random() < 0.3:
        rng.shuffle(chosen)
    query = " ".join(found[i] for i in chosen)
    return f"{rng.choice(('What', 'Which', 'How', 'Who', 'When'))} {query}?" if rng.random() < 0.5 else query


def titled(rng: random.Random, title: str, text: str) -> str:
    words = keywords(rng, title, text).rstrip("?")
    short = " ".join(words.split()[: rng.randint(1, 4)])
    return rng.choice((f"{bare(title)} {short}", f"What about {short} of {bare(title)}?", f"{short} in {bare(title)}",
                       f"What is the {short} of {bare(title)}?"))


def sentence(rng: random.Random, title: str, text: str) -> str:
    """Inverse cloze: a sentence (or its half) as the question."""
    words = rng.choice(sentences(text) or [text]).split()
    longest = min(max(5, len(words)), 28)
    keep = rng.randint(min(longest, max(5, len(words) // 3)), longest)
    start = rng.randrange(max(1, len(words) - keep + 1))
    return " ".join(words[start:start + keep])


def blank(rng: random.Random, title: str, text: str) -> tuple[str, str] | None:
    """A sentence with one name, date or number asked for; (question, answer)."""
    ss = sentences(text)
    rng.shuffle(ss)
    for s in ss[:3]:
        spans = [(m, "when" if p is YEAR else "how many" if p is NUMBER else rng.choice(("who", "what", "which")))
                 for p in (NAME, YEAR, NUMBER) for m in p.finditer(s) if m.start() > 0 and len(m.group()) > 1]
        if not spans:
            continue
        match, asked = rng.choice(spans)
        words_before, words_after = s[: match.start()].split(), s[match.end():].split()
        before, after = words_before[-rng.randint(6, 16):], words_after[: rng.randint(3, 12)]
        question = " ".join(before + [asked] + after).rstrip(".,;")
        if rng.random() < 0.4:
            question = " ".join([asked.capitalize()] + after + before).rstrip(".,;")
        return question + "?", match.group().strip(" .,")
    return None


def recurring(rng: random.Random, text: str, others: list[str]) -> tuple[str, str, str] | None:
    """A sentence asked for a name, date or number that the passage has too, but not in that sentence: (question, answer, passage).

    The sentence is taken out of the passage, or is another one's (`others`), so that what is asked for has to be understood, not matched."""
    pieces = re.split(r"(?<=[.!?]) +(?=[A-Z\"])", text)
    own = [(p, " ".join(pieces[:i] + pieces[i + 1:])) for i, p in enumerate(pieces) if len(p.split()) >= 6]
    found = own + [(p, text) for other in others for p in sentences(other)]
    rng.shuffle(found)
    for piece, rest in found[:12]:
        spans = [(m, "when" if YEAR.fullmatch(m.group()) else "how many" if p is NUMBER else rng.choice(("who", "what", "which")))
                 for p in (NAME, YEAR, NUMBER) for m in p.finditer(piece) if m.start() > 0 and len(m.group()) > 2]
        spans = [(m, asked) for m, asked in spans if m.group().lower() not in STOP
                 and len(re.findall(rf"(?<!\w){re.escape(m.group())}(?!\w)", rest)) in (1, 2) and piece.count(m.group()) == 1]
        if spans and len(rest.split()) >= 20:
            match, asked = rng.choice(spans)
            before, after = piece[: match.start()].split()[-18:], piece[match.end():].split()[:14]
            return " ".join(before + [asked] + after).rstrip(" .,;").replace(" ,", ",") + "?", match.group().strip(" .,"), rest
    return None


def edited(rng: random.Random, question: str, text: str, other: str) -> tuple[str, str] | None:
    """The question with a name, date or number of `text` changed for one of `other`; and what was put in."""
    for pattern in rng.sample((NAME, YEAR, NUMBER), 3):
        spans = [m for m in pattern.finditer(question) if m.start() > 0 and len(m.group()) > 2 and m.group() in text]
        given = [m.group() for m in pattern.finditer(other) if len(m.group()) > 2 and m.group() not in text
                 and m.group() not in question]
        given = [g for g in given if g.split()[0].lower() not in STOP]
        if spans and given:
            span, new = rng.choice(spans), rng.choice(given)
            return question[: span.start()] + new + question[span.end():], new
    return None


OPPOSITES = (("first", "last"), ("before", "after"), ("largest", "smallest"), ("highest", "lowest"), ("oldest", "youngest"),
             ("northern", "southern"), ("eastern", "western"), ("north", "south"), ("east", "west"), ("most", "least"),
             ("more", "fewer"), ("won", "lost"), ("win", "lose"), ("maximum", "minimum"), ("early", "late"), ("increased", "decreased"),
             ("increase", "decrease"), ("father", "mother"), ("son", "daughter"), ("husband", "wife"), ("brother", "sister"),
             ("male", "female"), ("born", "buried"), ("began", "ended"), ("begin", "end"), ("founded", "dissolved"), ("joined", "left"),
             ("opened", "closed"), ("bought", "sold"), ("upper", "lower"), ("longest", "shortest"), ("best", "worst"), ("major", "minor"),
             ("public", "private"), ("arrived", "departed"), ("married", "divorced"), ("allowed", "forbidden"), ("start", "stop"),
             ("above", "below"), ("earliest", "latest"), ("main", "least important"), ("popular", "unpopular"), ("known", "unknown"))
OPPOSITE = {a: b for pair in OPPOSITES for a, b in (pair, pair[::-1])}
NEGATED = {"was": "wasn't", "were": "weren't", "is": "isn't", "are": "aren't", "did": "didn't", "does": "doesn't", "do": "don't",
           "can": "can't", "has": "hasn't", "had": "hadn't", "would": "wouldn't", "could": "couldn't"}


def twisted(rng: random.Random, question: str, text: str) -> tuple[str, str] | None:
    """The question with a word turned into its opposite, or negated; and what was put in."""
    words = question.split(" ")
    places = [i for i, w in enumerate(words) if w in OPPOSITE and not re.search(rf"\b{OPPOSITE[w]}\b", text, re.I)]
    if places:
        place = rng.choice(places)
        new = OPPOSITE[words[place]]
    else:
        places = [i for i, w in enumerate(words) if w in NEGATED]
        if not places or rng.random() < 0.5:    # there are more of these than people ask
            return None
        place = places[0]
        new = rng.choice((NEGATED[words[place]], words[place] + " not"))
    return " ".join(words[:place] + [new] + words[place + 1:]), new


def without(text: str, answers: list[str]) -> str | None:
    """The text less the only sentence that holds an answer, where something is left."""
    pieces = re.split(r"(?<=[.!?]) +(?=[A-Z\"])", text)
    held = [i for i, p in enumerate(pieces) if any(a.lower() in p.lower() for a in answers)]
    rest = " ".join(p for i, p in enumerate(pieces) if i not in held)
    return rest if len(held) == 1 and len(rest.split()) >= 25 else None


def describe(text: str) -> tuple[str, str, str] | None:
    """(verb, article, what the first sentence says the title is), at most 18 words."""
    ss = sentences(text[:400])
    match = DEFINITION.search(ss[0]) if ss else None
    if not match or match.start() > 160:
        return None
    what = " ".join(match.group(3).split()[:18])
    return (match.group(1), match.group(2), what) if len(what) > 8 else None


def defined(rng: random.Random, title: str, text: str) -> tuple[str, str] | None:
    """"Which 1993 film was directed by ...?", answered by the title."""
    d = describe(text)
    if not d or bare(title).lower() in d[2].lower():
        return None
    verb, _, what = d
    rest = [s for s in sentences(text)[1:] if bare(title) not in s]
    more = ""
    if rest and rng.random() < 0.4:
        more = " and " + " ".join(rng.choice(rest).split()[: rng.randint(5, 12)]).rstrip(".,;")
    form = rng.choice((f"Which {what}{more}?", f"What {verb} the name of the {what}{more}?", f"Who or what {verb} a {what}?"))
    return form, bare(title)


def bridge(rng: random.Random, passage: dict, link: dict, target: dict) -> str:
    """The linking sentence with the link replaced by what its target is: needs both documents."""
    begin, end = link["b"]
    low, high = link["m"]
    before, after = passage["x"][begin:low].split(), passage["x"][high:end].split()
    d = describe(target["x"])
    mention = f"the {d[2]}" if d and rng.random() < 0.6 else target["t"]
    title = bare(passage["t"])
    asked = " ".join(before[-rng.randint(6, 14):] + [mention] + after[: rng.randint(4, 12)]).rstrip(".,;")
    kind = rng.random()
    if kind < 0.35 and title in asked:
        asked = asked.replace(title, rng.choice(("who", "what", "which")))
    elif kind < 0.65 and title not in asked:
        asked = f"{title} {asked}"
    return rng.choice((f"{asked}?", f"In {asked}?", f"What {asked}?", asked))


PERSON = ("Who is older, {a} or {b}?", "Who was born first, {a} or {b}?", "Were {a} and {b} of the same nationality?",
          "Who died first, {a} or {b}?", "Which person was born later, {a} or {b}?", "What do {a} and {b} have in common?",
          "Are {a} and {b} both from the same country?", "What profession do {a} and {b} share?")
THING = ("Are {a} and {b} both {kind}?", "Which was founded first, {a} or {b}?", "Are {a} and {b} in the same country?",
         "Which came first, {a} or {b}?", "Which {kind} is older, {a} or {b}?", "Are both {a} and {b} {kind}?",
         "Do {a} and {b} come from the same place?", "What do {a} and {b} have in common?")


def comparison(rng: random.Random, a: dict, b: dict) -> str:
    person = "born" in a["x"][:150]
    d = describe(a["x"])
    kind = " ".join(d[2].split()[:3]) if d else "known"
    return rng.choice(PERSON if person else THING).format(a=bare(a["t"]), b=bare(b["t"]), kind=kind)


LIFE = re.compile(r"\([^()]{0,60}?\b(1\d{3}|20\d\d)\s*[–—-][^()]{0,60}?\b(1\d{3}|20\d\d)\)")


def lifespan(text: str) -> tuple[int, int] | None:
    match = LIFE.search(text[:200])
    years = match and (int(match.group(1)), int(match.group(2)))
    return years if years and 15 < years[1] - years[0] < 105 else None


def life_question(rng: random.Random, a: dict, b: dict) -> tuple[str, str, bool] | None:
    """Of two people's years, or one's: (question, yes or no, whether b is needed)."""
    first, second, one, two = lifespan(a["x"]), lifespan(b["x"]), bare(a["t"]), bare(b["t"])
    if not first:
        return None
    said = lambda true: "yes" if true else "no"
    if not second or rng.random() < 0.3:
        year = rng.randint(first[0] - 60, first[1] + 60)
        form = rng.choice(("Was {} alive in {}?", "Could {} have voted in an election in {}?", "Did {} live to see the year {}?",
                           "Would {} have remembered the events of {}?", "Could someone have met {} in {}?"))
        low = first[0] + (18 if "voted" in form else 5 if "remembered" in form else 0)
        true = year <= first[1] if "see" in form else low <= year <= first[1]
        return (form.format(one, year), said(true), False) if abs(year - first[0]) > 1 and year != first[1] else None
    if first[0] == second[0] or first[1] == second[1]:
        return None
    form, true = rng.choice((("Was {} born before {}?", first[0] < second[0]), ("Did {} die before {}?", first[1] < second[1]),
                             ("Did {} outlive {}?", first[1] > second[1]), ("Was {} older than {}?", first[0] < second[0]),
                             ("Did {} live longer than {}?", first[1] - first[0] > second[1] - second[0]),
                             ("Could {} have met {}?", max(first[0], second[0]) < min(first[1], second[1])),
                             ("Would {} and {} have been alive at the same time?",
                              max(first[0], second[0]) < min(first[1], second[1]))))
    return form.format(one, two), said(true), True


def yes_no(rng: random.Random, a: dict, b: dict) -> tuple[str, str, bool] | None:
    """A question about passage `a` (and sometimes `b`) that yes or no answers; and whether b is needed."""
    if lifespan(a["x"]) and rng.random() < 0.7:
        return life_question(rng, a, b)
    mine, other = describe(a["x"]), describe(b["x"])
    if not mine:
        return None
    verb, _, what = mine
    name = bare(a["t"])
    if rng.random() < 0.4:      # both of two
        if not other or other[2] == what:
            return None
        kind = rng.choice((what, other[2])).split(" ")
        kind = " ".join(kind[: rng.randint(2, 6)])
        return f"Are both {name} and {bare(b['t'])} a {kind}?", "yes" if kind in what and kind in other[2] else "no", True
    true = rng.random() < 0.5 or not other or other[2] == what
    told = what if true else other[2]
    start = rng.choice((f"{verb.capitalize()} {name} a", f"Could {name} be called a", f"Is it true that {name} {verb} a",
                        f"Would one say that {name} {verb} a", f"Does the name {name} stand for a"))
    return f"{start} {' '.join(told.split()[: rng.randint(3, 14)])}?", "yes" if true else "no", False


def fact(rng: random.Random, title: str, text: str) -> tuple[str, str] | None:
    """A `key: value` line of a country's section as a question."""
    lines = [l for l in text.split("\n") if re.match(r"[A-Z][^:]{3,60}: .{1,300}$", l)]
    if not lines:
        return None
    key, value = rng.choice(lines).split(": ", 1)
    country = title.split(" — ")[0]
    key = key.replace(" - ", ", ").lower()
    form = rng.choice((f"What is the {key} of {country}?", f"{country}: {key}?", f"What is {country}'s {key}?",
                       f"Tell me the {key} in {country}."))
    return form, " ".join(value.split(";")[0].split()[:12])


RELATION = {
    "director": ("is a {y} {n} film directed by {o}", "The film was directed by {o}"),
    "performer": ("is a {y} song by {n} artist {o}", "It was recorded by {o}"),
    "composer": ("is a {y} work composed by {o}", "The music was composed by {o}"),
    "producer": ("is a {y} {n} film produced by {o}",), "date of birth": ("(born {o})", "was born on {o}"),
    "date of death": ("died on {o}", "(died {o})"), "place of birth": ("was born in {o}",),
    "place of death": ("died in {o}",), "father": ("was the child of {o}", "was a son of {o}", "was a daughter of {o}"),
    "mother": ("was born to {o}", "was the child of {o}"), "spouse": ("was married to {o}", "was the spouse of {o}"),
    "child": ("was the parent of {o}",), "sibling": ("was a sibling of {o}",), "publication date": ("was released in {o}",),
    "country": ("is located in {o}",), "country of origin": ("is a film from {o}",),
    "country of citizenship": ("is a person from {o}", "was a citizen of {o}"), "educated at": ("studied at {o}",),
    "place of burial": ("was buried at {o}",), "employer": ("worked for {o}",), "award received": ("received the {o}",),
    "inception": ("was founded in {o}",), "founded by": ("was founded by {o}",), "cause of death": ("died of {o}",),
}
NATIONS = ("American", "British", "Indian", "French", "Italian", "German", "Japanese", "Mexican", "Hong Kong", "Swedish")


def entity_passage(rng: random.Random, title: str, facts: list[tuple[str, str]], filler: list[str]) -> str:
    """An encyclopedia-like opening that states the facts about `title`, among sentences that do not matter."""
    parts = []
    for order, (relation, value) in enumerate(facts):
        forms = RELATION.get(relation, ("has the " + relation + " {o}",))
        form = forms[0] if order == 0 else rng.choice(forms)
        clause = form.format(o=value, y=rng.randint(1915, 2015), n=rng.choice(NATIONS))
        subject = bare(title) if order == 0 or rng.random() < 0.3 else rng.choice(("It", "He", "She")) \
            if not clause.startswith(("The", "It")) else ""
        parts.append(f"{subject} {clause}".strip())
    extra = rng.sample(filler, min(len(filler), rng.randint(1, 3)))
    body = [parts[0]] + rng.sample(parts[1:], len(parts) - 1)
    return ". ".join(body) + ". " + " ".join(extra)
