"""English-like sentences from a small grammar, generated: text without a network."""

import numpy as np

_WORDS = {
    "noun": """dog cat horse child woman man teacher farmer sailor king queen doctor student poet
        painter singer baker hunter soldier judge writer neighbour stranger traveller merchant""",
    "place": """garden river house forest village market bridge castle harbour mountain kitchen
        street field church school""",
    "adjective": """old young small quiet happy angry tired clever brave poor rich strange kind
        famous lonely""",
    "transitive": "see know follow hear help watch trust remember visit admire ask find",
    "intransitive": "sleep laugh walk sing wait speak dream return smile work",
    "preposition": "in near behind beside beyond",
}
_PLURALS = {"child": "children", "woman": "women", "man": "men"}
_THIRD = {"watch": "watches"}


def sentences(num_words, seed=0):
    """Generates sentences whose verbs agree with their subjects, over clauses in between.

    Nouns, verbs and adjectives are drawn by the reciprocal of their rank. A relative clause
    between subject and verb makes the verb depend on a word far back.

    Args:
      num_words: int >= 1, generation stops at the first sentence that ends at or after it.
      seed: int >= 0.

    Returns: list of lists of words, without end marks.
    """
    speaker = _Speaker(np.random.default_rng(seed))
    spoken, count = [], 0
    while count < num_words:
        spoken.append(speaker.sentence())
        count += len(spoken[-1]) + 1
    return spoken


class _Speaker:
    def __init__(self, random):
        self._random = random

    def sentence(self):
        subject, is_plural = self._subject(depth=0)
        return [*subject, *self._predicate(is_plural, depth=0), "."]

    def _subject(self, depth):
        is_plural = self._chance(0.4)
        phrase = self._noun_phrase(is_plural)
        if depth < 2 and self._chance(0.3):
            other, other_is_plural = self._subject(depth + 1)
            if self._chance(0.5):
                phrase += ["that", *self._predicate(is_plural, depth + 1)]
            else:
                verb = self._verb("transitive", other_is_plural)
                phrase += ["that", *other, verb]
        return phrase, is_plural

    def _predicate(self, is_plural, depth):
        if self._chance(0.55):
            words = [self._verb("transitive", is_plural), *self._noun_phrase(self._chance(0.4))]
        else:
            words = [self._verb("intransitive", is_plural)]
        if depth == 0 and self._chance(0.5):
            words += [self._pick("preposition"), "the", self._pick("place")]
        return words

    def _noun_phrase(self, is_plural):
        noun = self._pick("noun")
        adjective = [self._pick("adjective")] if self._chance(0.4) else []
        if not is_plural:
            return ["the" if self._chance(0.5) else "one", *adjective, noun]
        return ["the" if self._chance(0.5) else "many", *adjective, _PLURALS.get(noun, noun + "s")]

    def _verb(self, kind, is_plural):
        verb = self._pick(kind)
        return verb if is_plural else _THIRD.get(verb, verb + "s")

    def _chance(self, probability):
        return self._random.random() < probability

    def _pick(self, kind):
        words = _WORDS[kind].split()
        weights = 1 / np.arange(1, len(words) + 1)
        return words[self._random.choice(len(words), p=weights / weights.sum())]
