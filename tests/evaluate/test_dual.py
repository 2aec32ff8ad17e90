"""Dual encoders: one encoder for queries and answers on LAReQA and Mewsli-X, its scores, and official folders."""
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from xstilts.core.config import settings
from xstilts.data.load import load, train_rows
from xstilts.share.export import export_experiment
from xstilts.learn.heads import Net, backbone, new_encoder
from xstilts.evaluate.metrics import score
from xstilts.evaluate.predict import read_predictions
from xstilts.evaluate.retrieval import embed_dual, rank_answers, searchable
from xstilts.data.checks import usable
from xstilts.run.identity import data_fingerprint
from xstilts.run.experiment import Experiment
from xstilts.run.stages import stage_key
from xstilts.run.training import load_encoder
from xstilts.run.predictions import predict_experiment
from xstilts.run.scores import data_warnings
from xstilts.run.stages import stages_of
from xstilts.run.launch import run_stage
from xstilts.run.predictions import prediction_key
from xstilts.run.scores import run_experiment, score_key
from xstilts.core.store import artifact_path, read_json
from xstilts.evaluate.submission import score_folder
from xstilts.catalog.tasks import tasks
from xstilts.learn.tokenize import encode_dual, query_answer, sentences
from xstilts.catalog.trainings import Recipe
from xstilts.learn.feeds import TaskFeed
from xstilts.learn.train import train

pytestmark = pytest.mark.usefixtures('module_store')

mirror = pytest.mark.skipif(not settings().mirror.is_dir(), reason='no mirror of real data here: set XSTILTS_MIRROR')
CITIES = dict(Berlin='Spree', Ulm='Danube', Bonn='Rhine', Turin='Po',
    Rome='Tiber', Cairo='Nile', Porto='Douro', Lyon='Rhone')


def map20(net, tok, found):
    v = embed_dual(net, 'lareqa', tok, found, 64, 24)
    return score('mean_average_precision', rank_answers(found, v))['map20']


def test_a_toy_learns_and_is_found_again(tmp_path):
    "The loss falls below chance, questions retrieve their sentences, and saved weights give the same vectors."
    _, tok = load_encoder(None, 'mini')
    rows = train_rows('mini', 'lareqa', 32)
    net = Net(new_encoder(len(tok), layers=1, hidden=64, heads=2, max_length=64), [tasks['lareqa']])
    found = searchable(rows)
    before = map20(net, tok, found)
    r = Recipe(lr=2e-3, epochs=15, batch_size=16, negatives=8, max_length=64, query_length=24,
        dropout=0., warmup=0., weight_decay=0., order='paper')
    feed = TaskFeed(dict(lareqa=encode_dual(tok, rows, 64, 24)), r, 0, tok.pad_token_id, 2, duals=('lareqa',))
    log = train(net, feed, r, 0, tmp_path/'work', log_every=2)
    assert log[-1]['loss']<.5*math.log(8)<log[0]['loss'] and log[-1]['labels']==32
    assert map20(net, tok, found)>before+20
    net.encoder.save_pretrained(tmp_path/'backbone')
    save_file({k: v.contiguous() for k, v in net.heads.state_dict().items()}, tmp_path/'heads.safetensors')
    again = Net(backbone(str(tmp_path/'backbone')), [tasks['lareqa']])
    again.heads.load_state_dict(load_file(tmp_path/'heads.safetensors'))
    assert np.array_equal(*[embed_dual(o, 'lareqa', tok, found, 64, 24) for o in (net, again)])


def test_negatives_are_those_of_the_group():
    "The loss of an update is the sum over its groups, computed by hand; pairs of other groups are no negatives."
    _, tok = load_encoder(None, 'mini')
    rows = train_rows('mini', 'lareqa', 6)
    net = Net(new_encoder(len(tok), layers=1, hidden=16, heads=2, max_length=64), [tasks['lareqa']]).eval()
    enc = encode_dual(tok, rows, 64)
    def loss(negatives):
        recipe = Recipe(batch_size=6, negatives=negatives, order='paper')
        feed = TaskFeed(dict(lareqa=enc), recipe, 0, tok.pad_token_id, 2, duals=('lareqa',))
        (_, ix), = feed.epoch(0)
        with torch.no_grad(): total = sum(net(b, t)[0].item() for t, b in feed.micro(('lareqa', ix)))
        return [int(i)//2 for i in ix[::2]], total
    found = []
    for i, r in enumerate(rows):
        for side, text in zip(('query', 'candidate'), query_answer(r)):
            found.append(dict(side=side, text=text, id=str(i), gold_id=str(i)))
    v = torch.from_numpy(embed_dual(net, 'lareqa', tok, found, 64))
    for n in (2, 3, 6):
        at, got = loss(n)
        parts = [torch.tensor(at[i:i+n]) for i in range(0, 6, n)]
        logits = [100*v[0::2][p]@v[1::2][p].T for p in parts]
        want = sum(torch.nn.functional.cross_entropy(o, torch.arange(n), reduction='sum') for o in logits)
        assert got==pytest.approx(float(want), rel=1e-4)


def test_a_budget_of_pieces_keeps_pairs_and_groups(tmp_path):
    "Under `token_budget` an update contains complete pairs in groups, each once; a pair that is too long is an error."
    _, tok = load_encoder(None, 'mini')
    rows = train_rows('mini', 'lareqa', 24)
    enc = encode_dual(tok, rows, 64, 24)
    longest = int(enc.lengths.max())
    def feed(budget):
        recipe = Recipe(token_budget=budget, negatives=2)
        return TaskFeed(dict(lareqa=enc), recipe, 0, tok.pad_token_id, 2, duals=('lareqa',))
    made = feed(2*longest*5)
    updates = [ix for _, ix in made.epoch(0)]
    assert sorted(np.concatenate(updates).tolist())==list(range(2*len(rows))) and len({len(o) for o in updates})>1
    for ix in updates:
        assert (ix[1::2]==ix[0::2]+1).all() and enc.lengths[ix].max()*len(ix)<=2*longest*5
        groups = [b for _, b in made.micro(('lareqa', ix))]
        assert sum(len(b['input_ids']) for b in groups)==len(ix)
        assert all(b['whole'] and len(b['input_ids'])<=4 for b in groups)
    r = Recipe(token_budget=2*longest*5, negatives=2, epochs=1, max_length=64, query_length=24)
    net = Net(new_encoder(len(tok), layers=1, hidden=16, heads=2, max_length=64), [tasks['lareqa']])
    assert sum(o['labels'] for o in train(net, made, r, 0, tmp_path/'work', log_every=1))==len(rows)
    with pytest.raises(ValueError, match=f'hold no example of {longest}'): feed(2*longest-2).epoch(0)


def test_lareqa_of_the_miniature(tmp_path):
    "A trained stage is scored, its folder gives equal scores, and the plain encoder is a separate experiment."
    few = dict(eval_limit=10, languages='de en', target_train_limit=32, target_epochs=1)
    experiment = Experiment(model='random:mini', intermediate='none', target='lareqa', seed=0, settings=few)
    res = read_json(run_experiment(experiment))
    made = read_json(artifact_path('models', stages_of(experiment)[-1].key)/'stage.json')
    assert (made['kind'], made['tasks'])==('target', ['lareqa'])
    assert (made['log'][-1]['total'], made['recipe']['negatives'])==(2, 4)
    assert all('stuck at chance' in o for o in res['flags']) and not res['same_data']
    stored = read_predictions(artifact_path('predictions', prediction_key(experiment)), 'lareqa')
    again = predict_experiment(experiment)
    assert [o['pred'] for l in ('de', 'en') for o in stored[l]]==[o['pred'] for o in again]
    assert all(len(o['gold'])==2 and len(o['pred'])==20 for o in again)
    out = export_experiment(experiment, tmp_path/'out', part=True)
    got = score_folder(out/'predictions', out/'labels', 'mini', langs='de en')['tasks']['lareqa']['languages']
    for l in ('de', 'en'): assert got[l]['map20']==pytest.approx(res['scores'][l]['map20'], abs=1e-6)
    plain = Experiment(**{**vars(experiment), 'settings': dict(eval_limit=10, languages='de en', dual=False)})
    assert not stages_of(plain) and prediction_key(plain)!=prediction_key(experiment)
    assert 'scored without training a dual encoder' in read_json(run_experiment(plain))['flags'][0]
    export_experiment(plain, tmp_path/'plain', part=True)
    assert 'dual: false' in (tmp_path/'plain'/'README.txt').read_text()


def forget():
    "Clear what the process has cached of rows"
    for o in (load, data_fingerprint, stage_key): o.cache_clear()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    "Mewsli-X with eight cities in its published layout"
    at = tmp_path/'folders'/'mewslix'
    at.mkdir(parents=True)
    def text(city): return f'She went home. Then {city} was far. It rained.'
    def context(city, lang):
        spans = [dict(start=0, end=14), dict(start=15, end=15+len(f'Then {city} was far.'))]
        return dict(document_id=f'd {city}', language=lang, text=text(city), sentence_spans=spans)
    def mention(city, name):
        span = dict(start=20, end=20+len(city), text=city)
        return dict(example_id=f'{name} {city}', entity_id=f'Q {city}', mention_span=span)
    def entity(city):
        about = f'{city} is a city on the {CITIES[city]}.'
        return dict(entity_id=f'Q {city}', title=city, description=about, description_language='en',
            description_url='', sentence_spans=[dict(start=0, end=len(about))])
    def pair(city):
        source = dict(context=context(city, 'en'), mention=mention(city, 'train'))
        return dict(contextual_mention=source, entity=entity(city))
    def write(name, rows): (at/f'{name}.jsonl').write_text(''.join(json.dumps(o)+'\n' for o in rows))
    write('candidate_set_entities', map(entity, CITIES))
    write('wikipedia_pairs-train', map(pair, CITIES))
    for split in ('dev', 'test'):
        at_hand = [(o, l) for l in ('en', 'de') for o in CITIES]
        rows = [dict(context=context(o, l), mentions=[mention(o, f'{split} {l}')]) for o, l in at_hand]
        write(f'wikinews_mentions-{split}', rows)
    monkeypatch.setenv('XSTILTS_FOLDERS', str(tmp_path/'folders'))
    forget()
    yield at
    forget()


def mewslix(**more):
    settings = dict(languages='de en', target_epochs=1, **more)
    return Experiment(model='random:mini', intermediate='none', target='mewslix', seed=0, data='hub', settings=settings)


def test_mewslix_from_a_folder(folder, tmp_path):
    "Mentions in Wikipedia train, those in WikiNews are ranked among all entities, and official files score the same."
    res = read_json(run_experiment(mewslix(target_negatives=2, target_eval_steps=1)))
    assert {l: o['n'] for l, o in res['scores'].items()}==dict(de=8, en=8) and 0<res['scores']['de']['map20']<=100
    made = read_json(artifact_path('models', res['stages'][-1])/'stage.json')
    assert (made['recipe']['batch_size'], made['recipe']['max_length'])==(32, 64)
    assert made['log'][-1]['labels']==8 and 'dev' in made['log'][-1]
    for o in predict_experiment(mewslix(target_negatives=2, target_eval_steps=1)):
        assert sorted(o['pred'])==sorted(f'Q {c}' for c in CITIES)  # each is embedded once, not once per language
    out = export_experiment(mewslix(target_negatives=2, target_eval_steps=1), tmp_path/'out', part=True)
    assert json.loads((out/'labels'/'mewslix'/'test-de.json').read_text())['test de Ulm']==['Q Ulm']
    got = score_folder(out/'predictions', out/'labels', 'xtreme-r', langs='de en')['tasks']['mewslix']['languages']
    for l in ('de', 'en'): assert got[l]['map20']==pytest.approx(res['scores'][l]['map20'], abs=1e-6)


def test_mewslix_without_training_rows(folder):
    "The error names the missing file and the alternative; the alternative measures something else and warns of it."
    (folder/'wikipedia_pairs-train.jsonl').unlink()
    words = ('mewslix: wikipedia_pairs-train.jsonl is missing; '
        '.*`dual: false` scores the encoder without this training')
    with pytest.raises(ValueError, match=words): score_key(mewslix())
    res = read_json(run_experiment(mewslix(dual=False)))
    assert res['stages']==[] and 'not comparable with XTREME-R' in res['flags'][0]


def test_rows_that_are_no_pairs(folder):
    "Development rows without answers and empty descriptions are refused before training."
    words = 'a dual encoder trains on questions with their context and answers, or on rows with `text` and `answer`'
    with pytest.raises(ValueError, match=words):
        run_stage(stages_of(mewslix(target_train_from='dev'))[-1])
    empty = dict(id='1', text='x', side='query', gold_id='y', cluster='z', answer=' ')
    with pytest.raises(ValueError, match='answer is empty'): usable('mewslix', 'train', [empty], 'here')


@mirror
def test_sentences_are_those_of_lareqa():
    "Around the answers of English XQuAD, the rule splits sentences almost always as LAReQA's annotation does."
    rows = load('mirror', 'lareqa', 'test', 'en')
    gold = {o['id']: o['text'] for o in rows if o['side']=='candidate'}
    contexts = {o['cluster']: o['context'] for o in rows if o['side']=='candidate'}
    asked = [o for o in rows if o['side']=='query']
    ours = {k: {v[a:b] for a, b in sentences(v)} for k, v in contexts.items()}
    right = sum(gold[o['gold_id']].strip() in ours[o['cluster']] for o in asked)
    assert len(asked)==1190 and right/len(asked)>.98


@mirror
def test_lareqa_of_the_mirror():
    "No training paragraph of SQuAD is in the test set; paragraphs of its development set are, and a warning says so."
    def experiment(**more):
        few = dict(eval_limit=4, languages='en zh', target_train_limit=16, target_epochs=1, **more)
        what = dict(model='random:mini', intermediate='none', target='lareqa', seed=0)
        return Experiment(**what, data='mirror', settings=few)
    res = read_json(run_experiment(experiment()))
    assert set(res['scores'])=={'en', 'zh'} and all('stuck at chance' in o for o in res['flags'])
    candidates = [o for o in experiment().rows('en') if o['side']=='candidate']
    assert all(o['context'].startswith(o['text'][:5]) or o['text'] in o['context'] for o in candidates)
    on_dev = dict(eval_limit=4, languages='en', target_train_from='dev')
    found = data_warnings(Experiment(**{**vars(experiment()), 'settings': on_dev}))
    assert found[0]=='squad_v1 is trained on its dev split (dev)'
    assert found[1].startswith('test items among the training rows of squad_v1: en ')
