"""The rows, the class and the golden sentences that CONTRIBUTING.md gives for adding a language work."""
import re
from pathlib import Path

import pytest
from xstilts.mini import grammars, meanings
from xstilts.mini.meanings import NP, POS, Event, concepts, sound

root = Path(__file__).parents[2]
contributing = (root/'CONTRIBUTING.md').read_text(encoding='utf-8')
section = re.search(r'^## 7. Add a language of the synthetic world\n(.+?)^## ', contributing, re.S|re.M)[1]
blocks = re.findall(r'^```(\w+)\n(.+?)^```$', section, re.S|re.M)
(rows,), (code, golden) = ([text for kind, text in blocks if kind==o] for o in ('tsv', 'python'))


@pytest.fixture
def lexicon(tmp_path):
    "file -> (rows, facts), read by the package's own reader from a package of these few rows"
    folder = tmp_path/'assets'/'mini'/'id'
    folder.mkdir(parents=True)
    _, *parts = re.split(r'^# (\w+)\.tsv\n', rows, flags=re.M)
    for name, text in zip(parts[::2], parts[1::2]): (folder/f'{name}.tsv').write_text(text, encoding='utf-8')
    assert sorted(parts[::2])==sorted(grammars.FILES)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(meanings, 'files', lambda _: tmp_path)
        return {o: meanings.read_tsv(f'id/{o}.tsv') for o in grammars.FILES}


@pytest.fixture
def golden_sentences(lexicon, monkeypatch):
    "(meaning, expected sentence, slot asked for, generated words) of each; `grammars` knows the language in a test"
    names = dict(vars(grammars))
    exec(compile(code, 'CONTRIBUTING.md', 'exec'), names)
    one = object.__new__(names['Indonesian'])
    one.lex = {k: v for k, (v, _) in lexicon.items()}
    monkeypatch.setattr(grammars, 'grammar', lambda lang: {'id': one}[lang])
    monkeypatch.setattr(grammars, 'lexicon', lambda lang: {'id': one.lex}[lang])
    res = []
    def collect(lang, e, sentence, ask=''): res.append((e, sentence, ask, grammars.say.__wrapped__(lang, e, ask)))
    exec(compile(golden, 'CONTRIBUTING.md', 'exec'), dict(Event=Event, NP=NP, golden=collect))
    return res


def test_rows_are_rows_of_the_world(lexicon):
    for pos in POS: assert not {*lexicon[pos][0]}-{*concepts(pos)}, pos
    assert lexicon['nouns'][1]['reviewed']=='no'


def test_golden_sentences(golden_sentences):
    for _, sentence, _, words in golden_sentences: assert grammars.text('id', words)==sentence


def test_golden_sentences_cover_the_grammar(golden_sentences):
    "Each part of the grammar is in some sentence, every slot is asked for, and all are meanings of the world."
    events = [e for e, _, ask, _ in golden_sentences if not ask]
    phrases = [o for e in events for o in meanings.phrases(e) if o]
    assert all(sound(e) for e, *_ in golden_sentences)
    assert len(golden_sentences)>=8
    assert any(e.neg for e in events if e.verb!='be')
    assert any(e.neg for e in events if e.verb=='be')
    assert {e.tense for e in events}=={'past', 'future'}
    assert {e.front for e in events if e.time}=={True, False}
    assert {o.number for o in phrases}=={'sg', 'pl'}
    assert any(o.adj for o in phrases)
    assert any(e.place for e in events)
    assert any(e.manner for e in events)
    assert {ask for *_, ask, _ in golden_sentences}=={'', 'agent', 'patient', 'recipient', 'place', 'time'}


def test_words_serve_as_tags_answers_and_dictionary(golden_sentences):
    "A word has one form and a tag, the words of a slot are adjacent, and each concept is found in the dictionary."
    for _, sentence, ask, words in golden_sentences:
        for o in words: assert o.form and ' ' not in o.form and o.tag.isupper() and ' ' not in o.tag, sentence
        slots = [o.slot for i, o in enumerate(words) if o.slot and (not i or words[i-1].slot!=o.slot)]
        assert len(slots)==len({*slots}) and ask not in slots, sentence
        for o in words: assert not o.concept or grammars.entry.__wrapped__('id', o.concept, o.form_name), o
