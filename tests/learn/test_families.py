"""Every encoder family at toy size, stored as on the hub: trained with every head, saved, loaded; faulty folders."""
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers as t
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from xstilts.learn.batches import token_budget_batches, collate
from xstilts.evaluate.runtimes import EXTRA, run_by
from xstilts.learn.heads import Net, backbone, first_position, fits, longest, tokenizer
from xstilts.share.hub_folders import difference, export_refusal, transformers_model
from xstilts.mini.rows import rows
from xstilts.catalog.encoders import model
from xstilts.catalog.kinds import kinds
from xstilts.evaluate.retrieval import embed
from xstilts.catalog.tasks import tasks
from xstilts.learn.tokenize import encode
from xstilts.catalog.trainings import Recipe
from xstilts.learn.feeds import TaskFeed
from xstilts.learn.train import train

HEADS = dict(pair='mnli', tags='panx', span='squad_v1', score='stsb', choice='csqa')  # kind -> a task of it
SIZE = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
LENGTH = 96
BERT_SPECIALS = ('[PAD]', '[CLS]', '[SEP]', '[UNK]', '[MASK]')
XLMR_SPECIALS = ('<s>', '<pad>', '</s>', '<unk>', '<mask>')
BERT_NAMES = dict(cls_token='[CLS]', sep_token='[SEP]', pad_token='[PAD]', unk_token='[UNK]', mask_token='[MASK]')
TYPED = dict(BERT_NAMES, model_input_names=['input_ids', 'token_type_ids', 'attention_mask'])
XLMR_NAMES = dict(bos_token='<s>', cls_token='<s>', sep_token='</s>', pad_token='<pad>', unk_token='<unk>',
                  mask_token='<mask>')
MMBERT_NAMES = dict(bos_token='<bos>', eos_token='<eos>', pad_token='<pad>', unk_token='<unk>', mask_token='<mask>')
# special tokens; templates of one text and of two; names of the special tokens
LIKE_BERT = (BERT_SPECIALS, '[CLS] $A [SEP]', '[CLS] $A [SEP] $B:1 [SEP]:1', TYPED)
LIKE_REMBERT = (BERT_SPECIALS, '[CLS] $A [SEP]', '[CLS] $A [SEP] $B [SEP]', BERT_NAMES)
LIKE_XLMR = (XLMR_SPECIALS, '<s> $A </s>', '<s> $A </s> </s> $B </s>', XLMR_NAMES)
MMBERT_SPECIALS = ('<pad>', '<eos>', '<bos>', '<unk>', '<mask>')
LIKE_MMBERT = (MMBERT_SPECIALS, '<bos> $A <eos>', '<bos> $A <eos> $B <eos>', MMBERT_NAMES)
LIKE_MT5 = (('<pad>', '</s>', '<unk>'), '$A </s>', '$A </s> $B </s>',
            dict(eos_token='</s>', pad_token='<pad>', unk_token='<unk>'))


def bert(n): return t.BertConfig(vocab_size=n, max_position_embeddings=LENGTH, **SIZE)


def minilm(n): return bert(n+7)


def xlmr(n): return t.XLMRobertaConfig(vocab_size=n, max_position_embeddings=LENGTH+2, type_vocab_size=1, **SIZE)


def xlmr_xl(n): return t.XLMRobertaXLConfig(vocab_size=n+9, max_position_embeddings=LENGTH+2, type_vocab_size=1, **SIZE)


def deberta(n):
    relative = dict(relative_attention=True, position_buckets=8, norm_rel_ebd='layer_norm', share_att_key=True)
    return t.DebertaV2Config(vocab_size=n+5, type_vocab_size=0, pos_att_type='p2c|c2p', position_biased_input=False,
                             **SIZE, **relative)


def rembert(n):
    return t.RemBertConfig(vocab_size=n, max_position_embeddings=LENGTH, input_embedding_size=8,
                           output_embedding_size=24, **SIZE)


def mmbert(n):
    ids = dict(pad_token_id=0, bos_token_id=2, eos_token_id=1, cls_token_id=2, sep_token_id=1)
    return t.ModernBertConfig(vocab_size=n, max_position_embeddings=LENGTH, local_attention=8, **ids, **SIZE)


def mt5(n):
    return t.MT5Config(vocab_size=n+12, d_model=16, d_ff=32, num_layers=2, num_decoder_layers=2, num_heads=2, d_kv=8)


FAMILIES = dict(  # tokenizer, config, and the class whose weights are on the hub
    bert=(LIKE_BERT, bert, t.BertForPreTraining), minilm=(LIKE_XLMR, minilm, t.BertModel),
    xlmr=(LIKE_XLMR, xlmr, t.XLMRobertaForMaskedLM), xlmr_xl=(LIKE_XLMR, xlmr_xl, t.XLMRobertaXLForMaskedLM),
    deberta=(LIKE_BERT, deberta, t.DebertaV2ForMaskedLM), rembert=(LIKE_REMBERT, rembert, t.RemBertModel),
    mmbert=(LIKE_MMBERT, mmbert, t.ModernBertForMaskedLM), mt5=(LIKE_MT5, mt5, t.MT5ForConditionalGeneration))
WITH_MLM = [o for o in FAMILIES if o!='mt5']


def toy_tokenizer(specials, one, two, names):
    values = [str(v) for task in HEADS.values() for r in rows(task, 'dev')[:40] for v in r.values()]
    words = sorted({w for v in values for w in v.replace("'", ' ').replace(',', ' ').split()})
    vocab = {o: i for i, o in enumerate(dict.fromkeys((*specials, *words)))}
    tok = Tokenizer(models.WordLevel(vocab, unk_token=names['unk_token']))
    tok.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ids = [(o, i) for i, o in enumerate(specials)]
    tok.post_processor = processors.TemplateProcessing(single=one, pair=two, special_tokens=ids)
    names = dict(model_input_names=['input_ids', 'attention_mask'])|names
    return t.PreTrainedTokenizerFast(tokenizer_object=tok, model_max_length=512, **names)


@pytest.fixture(scope='session')
def folders(tmp_path_factory):
    "One folder per family, with the weights of the class that the hub's repository contains"
    res = {}
    for name, (tokens, config, cls) in FAMILIES.items():
        tok, d = toy_tokenizer(*tokens), tmp_path_factory.mktemp(name)
        torch.manual_seed(0)
        net = cls(config(len(tok)))
        for p in net.parameters(): p.data += .02*torch.randn_like(p)
        net.save_pretrained(d)
        tok.save_pretrained(d)
        res[name] = str(d)
    return res


def parts(folder, names, seed=0, mlm=False):
    row, encoder, tok = model(folder), backbone(folder), tokenizer(folder)
    fits(encoder, tok, folder, LENGTH)
    torch.manual_seed(seed)
    return Net(encoder, [tasks[o] for o in names], mlm=mlm, pooled=row.pooled), tok


class Lines:
    "A feed of two updates of masked language modelling"
    def __init__(self, enc, tok, first): self.enc, self.tok, self.first = enc, tok, first
    def epoch(self, n): return [0, 4]
    def micro(self, at):
        b = collate(self.enc, range(at, at+4), self.tok.pad_token_id, self.first)
        hide = (torch.arange(b['input_ids'].shape[1])%3==1)&(b['attention_mask']==1)
        masked = torch.where(hide, self.tok.mask_token_id, b['input_ids'])
        yield 'mlm', b|dict(labels=torch.where(hide, b['input_ids'], -100), input_ids=masked)


def logits(net, name, enc, pad, budget=8192):
    "The logits of a head for every example, without padding"
    res, whole = [None]*len(enc), kinds[net.heads[name].kind].one_vector
    net.eval()
    with torch.inference_mode():
        for ix in token_budget_batches(enc.lengths, budget):
            out = net.logits(collate(enc, ix, pad, first_position(net.encoder)), name).numpy()
            for i, o, n in zip(ix, out, enc.lengths[ix]): res[i] = o if whole else o[:n]
    return res


def after(net, enc, tok, name):
    "The outputs of a network: logits of a head, or the losses of masked language modelling"
    if name!='mlm': return logits(net, name, enc, tok.pad_token_id)
    net.eval()
    lines = Lines(enc, tok, first_position(net.encoder))
    with torch.inference_mode(): return [net(b, o)[0].numpy() for at in (0, 4) for o, b in lines.micro(at)]


def through(folder, name, work):
    "Two updates of a head, saved and loaded: its outputs before and after, and the movement of the encoder"
    mlm = name=='mlm'
    net, tok = parts(folder, [] if mlm else [name], mlm=mlm)
    before = {k: v.clone() for k, v in net.encoder.state_dict().items()}
    data = rows('mnli' if mlm else name, 'dev')[:8]
    enc = encode(tok, data, tasks['mnli' if mlm else name], LENGTH)
    recipe, first = Recipe(lr=1e-2, max_steps=2, batch_size=4, dropout=0.), first_position(net.encoder)
    groups = {name: len(data[0]['choices'])} if name==HEADS['choice'] else {}
    feed = Lines(enc, tok, first) if mlm else TaskFeed({name: enc}, recipe, 0, tok.pad_token_id, first, groups)
    log = train(net, feed, recipe, 0, work)
    before_saving = after(net, enc, tok, name)
    net.encoder.save_pretrained(work/'backbone')
    tok.save_pretrained(work/'backbone')
    save_file({k: v.contiguous() for k, v in net.heads.state_dict().items()}, work/'heads.safetensors')
    again, tok = parts(str(work/'backbone'), [] if mlm else [name], seed=1, mlm=mlm)
    again.heads.load_state_dict(load_file(work/'heads.safetensors'))
    moved = sum(float((v-before[k]).abs().sum()) for k, v in net.encoder.state_dict().items())
    loaded = after(again, enc, tok, name)
    return SimpleNamespace(before=before_saving, loaded=loaded, moved=moved, loss=log[-1]['loss'])


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('kind', [*HEADS, 'mlm'])
def test_a_head_learns_and_comes_back_the_same(family, kind, folders, tmp_path):
    "Training changes the weights, and a saved network gives the same outputs after loading."
    if kind=='mlm' and family not in WITH_MLM:
        with pytest.raises(ValueError, match='leave mlm_rate at 0'): parts(folders[family], [], mlm=True)
        return
    o = through(folders[family], HEADS.get(kind, kind), tmp_path)
    assert o.moved>0 and np.isfinite(o.loss)
    for a, b in zip(o.before, o.loaded, strict=True): np.testing.assert_allclose(a, b, atol=1e-6, rtol=0)


@pytest.mark.parametrize('family', FAMILIES)
def test_padding_and_neighbours_change_nothing(family, folders):
    "An example has the same outputs alone and beside a longer one."
    net, tok = parts(folders[family], HEADS.values())
    for name in HEADS.values():
        enc = encode(tok, rows(name, 'dev')[:6], tasks[name], LENGTH)
        together, alone = (logits(net, name, enc, tok.pad_token_id, budget=o) for o in (10**6, 1))
        for a, b in zip(together, alone): np.testing.assert_allclose(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize('family', FAMILIES)
def test_sentences_become_vectors(family, folders):
    "Embeddings have unit length and do not depend on the batch."
    encoder, tok = backbone(folders[family]), tokenizer(folders[family])
    some = rows('tatoeba', 'dev', 'de')[:6]
    v, alone = embed(encoder, tok, some, (0, 2)), embed(encoder, tok, some, (0, 2), budget=1)
    for o in (0, 2):
        np.testing.assert_allclose((v[o]**2).sum(1), 1., atol=1e-5)
        np.testing.assert_allclose(v[o], alone[o], atol=1e-5)


@pytest.mark.parametrize('family', FAMILIES)
def test_random_is_the_same_architecture_without_weights(family, folders, tmp_path):
    "A random encoder has the same shapes, its own weights for each seed, and needs no weights file."
    shutil.copytree(folders[family], tmp_path/'bare', ignore=shutil.ignore_patterns('*.safetensors'))
    a = backbone(folders[family])
    b, c = (backbone(str(tmp_path/'bare'), random=o) for o in (0, 1))
    shapes = lambda o: {k: v.shape for k, v in o.state_dict().items()}
    first = lambda o: next(iter(o.parameters()))
    assert shapes(a)==shapes(b) and not torch.equal(first(a), first(b)) and not torch.equal(first(b), first(c))
    with pytest.raises(ValueError, match='there are no weights in this folder'): backbone(str(tmp_path/'bare'))


@pytest.mark.parametrize('family', FAMILIES)
def test_dropout_is_set_everywhere(family, folders):
    "The dropout of a recipe applies to every layer of every family."
    rates = {m.p for m in backbone(folders[family], dropout=.25).modules() if isinstance(m, torch.nn.Dropout)}
    others = [getattr(m, 'attention_dropout', None) for m in backbone(folders[family], dropout=.25).modules()]
    rates |= {o for o in others if isinstance(o, float)}
    assert rates<={.25, 0.} and .25 in rates and (rates=={.25} or family=='mmbert'), rates


@pytest.mark.parametrize('family', ['bert', 'deberta', 'mmbert', 'mt5'])
def test_experiments_run(family, folders, tmp_path, monkeypatch):
    "Experiments train, predict and score through the store, from the folder and from random weights."
    monkeypatch.setenv('XSTILTS_ARTIFACTS', str(tmp_path))
    from xstilts.run.experiment import Experiment
    from xstilts.run.scores import run_experiment
    from xstilts.core.store import read_json
    few = dict(target_train_from='dev', target_train_limit=12, target_max_steps=2, target_max_length=LENGTH,
               eval_limit=3, languages='de ja')
    for target, name in dict(xnli=folders[family], xquad=f'random:{folders[family]}').items():
        experiment = Experiment(model=name, intermediate='none', target=target, seed=0, settings=few)
        scores = read_json(run_experiment(experiment))['scores']
        assert set(scores)=={'de', 'ja'} and all(o['n']==3 for o in scores.values())


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('kind', HEADS)
def test_the_class_of_transformers_says_the_same_or_is_refused(family, kind, folders, tmp_path):
    "Logits of an exported model agree to 1e-5 with ours, from memory and from its folder, or the export is refused."
    task = tasks[HEADS[kind]]
    net, tok = parts(folders[family], [task.name])
    for p in net.heads.parameters(): p.data += .3*torch.randn_like(p)
    why = export_refusal(kind, net.encoder.config.model_type, model(folders[family]).pooled)
    if why:
        assert kind=='choice' or family=='mmbert' or (family=='mt5' and kind!='tags'), why
        return
    assert kind!='choice' and family!='mmbert'
    plain = transformers_model(net.encoder, task, net.heads[task.name])
    assert difference(net, plain, task, tok.pad_token_id)<1e-5
    plain.save_pretrained(tmp_path)
    again = getattr(t, kinds[kind].auto_class).from_pretrained(tmp_path)
    assert difference(net, again, task, tok.pad_token_id)<1e-5


@pytest.mark.parametrize('family', ['bert', 'xlmr', 'deberta', 'rembert'])
def test_a_pipeline_says_what_the_head_says(family, folders, tmp_path):
    "A pipeline of transformers predicts from texts what our head predicts."
    net, tok = parts(folders[family], ['mnli'])
    for p in net.heads.parameters(): p.data += .3*torch.randn_like(p)
    some = rows('mnli', 'dev')[:5]
    transformers_model(net.encoder, tasks['mnli'], net.heads['mnli']).save_pretrained(tmp_path)
    tok.save_pretrained(tmp_path)
    found = logits(net, 'mnli', encode(tok, some, tasks['mnli'], LENGTH), tok.pad_token_id)
    ours = [torch.softmax(torch.tensor(o), -1) for o in found]
    theirs = t.pipeline('text-classification', model=str(tmp_path), top_k=None)
    for row, o in zip(some, ours):
        prob = {x['label']: x['score'] for x in theirs(dict(text=row['text_a'], text_pair=row['text_b']))}
        np.testing.assert_allclose([prob[x] for x in tasks['mnli'].labels], o, atol=1e-5)


@pytest.mark.parametrize('target', ['xnli', 'panx', 'xquad'])
def test_a_model_that_generates_runs_as_an_experiment(target, folders, tmp_path, monkeypatch):
    "After an intermediate task it runs through the store, flags unreadable answers, and has keys of its own."
    monkeypatch.setenv('XSTILTS_ARTIFACTS', str(tmp_path))
    from xstilts.run.experiment import Experiment
    from xstilts.run.stages import Stage, stages_of
    from xstilts.run.scores import run_experiment, score_key
    from xstilts.core.store import artifact_path, read_json
    steps = dict(train_from='dev', train_limit=8, max_steps=2)
    few = {f'{phase}_{k}': v for phase in ('target', 'intermediate') for k, v in steps.items()}
    few |= dict(eval_limit=2, languages='de ja')
    phase = 'pawsx' if target=='xnli' else 'none'
    generating = dict(few, head='text2text', target_max_length=64, intermediate_max_length=64)
    experiment = Experiment(model=folders['mt5'], intermediate=phase, target=target, seed=0, settings=generating)
    monkeypatch.setattr('xstilts.learn.text2text.target_length', lambda task: 4 if task.kind=='pair' else 8)
    got = read_json(run_experiment(experiment))
    assert set(got['scores'])=={'de', 'ja'} and any('could not be read' in o for o in got['flags'])
    model_folder = artifact_path('models', got['stages'][-1])
    assert any('decoder' in k for k in load_file(model_folder/'backbone/model.safetensors'))
    assert read_json(model_folder/'stage.json')['head']=='text2text'
    other = Experiment(model=folders['mt5'], intermediate=phase, target=target, seed=0, settings=few)
    assert score_key(other)!=score_key(experiment)
    assert not {o.key for o in stages_of(other)}&{o.key for o in stages_of(experiment)}
    assert Stage.__dataclass_fields__['head'].default==''


def spoilt(folder, to, how):
    "A copy of a folder with one fault"
    shutil.copytree(folder, to)
    weights = to/'model.safetensors'
    if how=='pickled': weights.rename(to/'pytorch_model.bin')
    elif how=='none': weights.unlink()
    elif how=='half': weights.write_bytes(weights.read_bytes()[:1000])
    elif how=='no config': (to/'config.json').unlink()
    elif how=='no tokenizer':
        for o in to.glob('tokenizer*'): o.unlink()
    else:
        w = load_file(weights)
        other = ('pooler', 'decoder', 'embed')
        matrices = [k for k, v in w.items() if v.ndim==2 and not any(o in k.lower() for o in other)]
        body = [k for k in matrices if 'layer' in k or 'block' in k]
        if how=='one missing': del w[body[0]]
        else: w[body[0]] = w[body[0]][:-1].clone()
        save_file(w, weights, metadata=dict(format='pt'))
    return str(to)


BAD = {'pickled': 'pickled weights .pytorch_model.bin. are not read', 'none': 'there are no weights in this folder',
       'half': 'cannot be read as an encoder', 'no config': 'no config.json',
       'one missing': 'the folder lacks weights of the encoder', 'other size': 'do not have the same sizes'}


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('how', [*BAD, 'no tokenizer'])
def test_a_bad_folder_is_refused_by_name(family, how, folders, tmp_path):
    "A faulty model folder is an error that names the fault."
    bad = spoilt(folders[family], tmp_path/'bad', how)
    load = tokenizer if how=='no tokenizer' else backbone
    with pytest.raises(ValueError, match=BAD.get(how, 'no tokenizer can be read')) as e: load(bad)
    assert bad in str(e.value)


@pytest.mark.parametrize('family', FAMILIES)
def test_a_foreign_tokenizer_is_refused(family, folders):
    "A tokenizer of another model is refused."
    encoder = backbone(folders[family])
    longer = tokenizer(folders[family])
    longer.add_tokens([f'more{i}' for i in range(20)])
    with pytest.raises(ValueError, match='the embedding table ends at'): fits(encoder, longer, family)
    other = tokenizer(folders['mmbert' if family in ('xlmr', 'xlmr_xl') else 'xlmr'])
    if family not in ('bert', 'minilm'):
        fault = 'the embedding table ends at|padding is token'
        with pytest.raises(ValueError, match=fault): fits(encoder, other, family)


@pytest.mark.parametrize('family', FAMILIES)
def test_inputs_beyond_the_positions_are_refused(family, folders):
    "Inputs longer than the encoder's positions are refused."
    encoder, tok = backbone(folders[family]), tokenizer(folders[family])
    assert longest(encoder)==(None if family in ('mt5', 'deberta') else LENGTH)
    fits(encoder, tok, family, LENGTH)
    if longest(encoder):
        fault = f'max_length {LENGTH+1} is longer than the {LENGTH} positions'
        with pytest.raises(ValueError, match=fault): fits(encoder, tok, family, LENGTH+1)


def test_an_encoder_of_mt5_stays_one(folders, tmp_path):
    "A saved encoder of mT5 has no decoder, and loading it creates none."
    encoder = backbone(folders['mt5'])
    encoder.save_pretrained(tmp_path)
    assert not any('decoder' in k for k in load_file(tmp_path/'model.safetensors'))
    again = backbone(str(tmp_path))
    assert type(again) is t.MT5EncoderModel
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), again.parameters()))


EVERY_FAMILY = dict(bert='pair', minilm='span', xlmr_xl='choice', deberta='pair', rembert='score', mmbert='tags',
                    mt5='tags')


@pytest.mark.parametrize('family,kind', [*(('xlmr', o) for o in HEADS), *EVERY_FAMILY.items()])
def test_onnx_says_the_same(family, kind, folders):
    "For every kind and family, ONNX gives logits within 1e-4 and the same argmax at all batch sizes."
    for o in EXTRA: pytest.importorskip(o)
    name = HEADS[kind]
    net, tok = parts(folders[family], [name])
    for p in net.parameters(): p.data += .1*torch.randn_like(p)
    enc = encode(tok, rows(name, 'dev')[:12], tasks[name], LENGTH)
    made = run_by(net, name, 'onnx', typed='second' in enc.y)
    for budget in (4096, 300, LENGTH):
        both = [logits(o, name, enc, tok.pad_token_id, budget) for o in (net, made)]
        for ours, theirs in zip(*both, strict=True):
            np.testing.assert_allclose(theirs, ours, atol=1e-4)
            if kind not in ('score', 'choice'): assert (ours.argmax(-1)==theirs.argmax(-1)).all()


@pytest.mark.parametrize('family', WITH_MLM)
def test_modelling_goes_on_with_any_tokenizer(family, folders, tmp_path, monkeypatch):
    "Masked language modelling works beside a task for every tokenizer, whatever its special tokens."
    monkeypatch.setenv('XSTILTS_ARTIFACTS', str(tmp_path))
    monkeypatch.setattr('xstilts.run.training.MLM_DOCUMENTS', 20)
    from xstilts.run.experiment import Experiment
    from xstilts.run.stages import stages_of
    from xstilts.run.launch import run_stage
    from xstilts.core.store import read_json
    few = dict(target_train_from='dev', target_train_limit=8, target_max_steps=4, target_max_length=64,
               target_mlm_rate=.5, target_mlm_languages='en')
    experiment = Experiment(model=folders[family], intermediate='none', target='xnli', seed=0, settings=few)
    log = read_json(run_stage(stages_of(experiment)[-1])/'stage.json')['log']
    assert np.isfinite([o['loss'] for o in log]).all()
