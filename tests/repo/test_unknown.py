"""The shipped tokenizer knows every word of every task in every language."""
import pytest
from xstilts.mini.rows import MAKERS, SIZES, rows
from xstilts.mini.grammars import LANGS
from xstilts.run.training import load_encoder


@pytest.fixture(scope='module')
def tok(): return load_encoder(None, 'mini')[1]


def strings(value):
    "All text in a row's value"
    if isinstance(value, str): yield value
    elif isinstance(value, dict): yield from strings(list(value.values()))
    elif isinstance(value, list): yield from (x for o in value for x in strings(o))


@pytest.mark.parametrize('lang', LANGS)
def test_no_unknown_token(lang, tok):
    keep = ('text', 'text_a', 'text_b', 'tokens', 'question', 'context', 'choices')
    for task in MAKERS:
        if task=='ccg' and lang!='en': continue
        made = rows(task, list(SIZES[task])[-1], lang, limit=60)
        words = sorted({w for o in made for k in keep if k in o for s in strings(o[k]) for w in s.split()})
        encoded = tok(words, add_special_tokens=False)['input_ids']
        unknown = [w for w, ids in zip(words, encoded) if tok.unk_token_id in ids]
        assert not unknown, (task, lang, unknown[:10])


def test_every_noun_is_said_in_the_text():
    "What an encoder never read it cannot know."
    from xstilts.mini.meanings import concepts
    from xstilts.mini.rows import documents
    said = {o.head for d in documents(8000) for e, *_ in d for o in e[1:5] if o}
    every = (*concepts('nouns').values(), *concepts('names').values())
    concrete = [o.name for o in every if 'abstract' not in o.traits and o.name!='furniture']
    assert not set(concrete)-set(said)
