"""What CONTRIBUTING.md says about adding a language, done: its rows, its class and its golden sentences run as they stand there."""
import re
from pathlib import Path

import pytest
from xstilts.mini import grammars as realise, meanings
from xstilts.mini.meanings import NP, POS, Event, concepts, sound

root = Path(__file__).parents[1]
section = re.search(r'^## Adding a language\n(.+?)^## ', (root/'CONTRIBUTING.md').read_text(encoding='utf-8'), re.S|re.M)[1]
blocks = re.findall(r'^```(\w+)\n(.+?)^```$', section, re.S|re.M)
(rows,), (code, golden) = ([text for kind, text in blocks if kind==o] for o in ('tsv', 'python'))


@pytest.fixture
def lexicon(tmp_path):
    "file -> (rows, facts), read by the package's own reader from a package of these few rows"
    folder = tmp_path/'assets'/'mini'/'id'
    folder.mkdir(parents=True)
    _, *parts = re.split(r'^# (\w+)\.tsv\n', rows, flags=re.M)
    for name, text in zip(parts[::2], parts[1::2]): (folder/f'{name}.tsv').write_text(text, encoding='utf-8')
    assert sorted(parts[::2])==sorted(realise.FILES)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(meanings, 'files', lambda _: tmp_path)
        return {o: meanings.read_tsv(f'id/{o}.tsv') for o in realise.FILES}


@pytest.fixture
def said(lexicon, monkeypatch):
    "(meaning, sentence wanted, slot asked for, words said) for every golden sentence; until the test ends, `realise` knows the language"
    names = dict(vars(realise))
    exec(compile(code, 'CONTRIBUTING.md', 'exec'), names)
    one = object.__new__(names['Indonesian'])
    one.lex = {k: v for k, (v, _) in lexicon.items()}
    monkeypatch.setattr(realise, 'realiser', lambda lang: {'id': one}[lang])
    monkeypatch.setattr(realise, 'lexicon', lambda lang: {'id': one.lex}[lang])
    res = []
    def is_said(lang, e, sentence, ask=''): res.append((e, sentence, ask, realise.say.__wrapped__(lang, e, ask)))
    exec(compile(golden, 'CONTRIBUTING.md', 'exec'), dict(Event=Event, NP=NP, is_said=is_said))
    return res


def test_rows_are_rows_of_the_world(lexicon):
    for pos in POS: assert not {*lexicon[pos][0]}-{*concepts(pos)}, pos
    assert lexicon['nouns'][1]['reviewed']=='no'


def test_golden_sentences(said):
    for _, sentence, _, words in said: assert realise.text('id', words)==sentence


def test_golden_sentences_show_the_grammar(said):
    "Each part of the grammar is in some sentence, every slot is asked for, and all are meanings of the world."
    events = [e for e, _, ask, _ in said if not ask]
    phrases = [o for e in events for o in e[1:5] if o]
    assert all(sound(e) for e, *_ in said) and len(said)>=8
    assert any(e.neg for e in events if e.verb!='be') and any(e.neg for e in events if e.verb=='be')
    assert {e.tense for e in events}=={'past', 'future'} and {e.front for e in events if e.time}=={True, False}
    assert {o.number for o in phrases}=={'sg', 'pl'} and any(o.adj for o in phrases) and any(e.place for e in events) and any(e.manner for e in events)
    assert {ask for *_, ask, _ in said}=={'', 'agent', 'patient', 'recipient', 'place', 'time'}


def test_words_are_good_for_tags_answers_and_the_dictionary(said):
    "A word has one form and a tag, what fills a slot stands together, and each concept is found in the dictionary."
    for _, sentence, ask, words in said:
        assert all(o.form and ' ' not in o.form and o.tag.isupper() and ' ' not in o.tag for o in words), sentence
        slots = [o.slot for i, o in enumerate(words) if o.slot and (not i or words[i-1].slot!=o.slot)]
        assert len(slots)==len({*slots}) and ask not in slots, sentence
        for o in words: assert not o.concept or realise.entry.__wrapped__('id', o.concept, o.cell), o
