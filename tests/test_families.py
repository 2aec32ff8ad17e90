"""Every encoder family at toy size, stored as the hub stores it: through every head, saved, loaded, the same; and folders that are wrong in some way."""
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
from xstilts.learn.train import Recipe, TaskFeed, train

HEADS = dict(pair='mnli', tags='panx', span='squad_v1', score='stsb', choice='csqa')  # kind -> a task of it
SIZE = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
LENGTH = 96
BERT, XLMR = ('[PAD]', '[CLS]', '[SEP]', '[UNK]', '[MASK]'), ('<s>', '<pad>', '</s>', '<unk>', '<mask>')
deberta = dict(type_vocab_size=0, relative_attention=True, position_buckets=8, norm_rel_ebd='layer_norm', share_att_key=True, pos_att_type='p2c|c2p', position_biased_input=False)
FAMILIES = dict(  # special pieces; around one text, around two; names; config; the class whose weights the hub has
    bert=(BERT, '[CLS] $A [SEP]', '[CLS] $A [SEP] $B:1 [SEP]:1', dict(cls_token='[CLS]', sep_token='[SEP]', pad_token='[PAD]', unk_token='[UNK]', mask_token='[MASK]', model_input_names=['input_ids', 'token_type_ids', 'attention_mask']),
          lambda n: t.BertConfig(vocab_size=n, max_position_embeddings=LENGTH, **SIZE), t.BertForPreTraining),
    minilm=(XLMR, '<s> $A </s>', '<s> $A </s> </s> $B </s>', dict(bos_token='<s>', cls_token='<s>', sep_token='</s>', pad_token='<pad>', unk_token='<unk>', mask_token='<mask>'),
            lambda n: t.BertConfig(vocab_size=n+7, max_position_embeddings=LENGTH, **SIZE), t.BertModel),
    xlmr=(XLMR, '<s> $A </s>', '<s> $A </s> </s> $B </s>', dict(bos_token='<s>', cls_token='<s>', sep_token='</s>', pad_token='<pad>', unk_token='<unk>', mask_token='<mask>'),
          lambda n: t.XLMRobertaConfig(vocab_size=n, max_position_embeddings=LENGTH+2, type_vocab_size=1, **SIZE), t.XLMRobertaForMaskedLM),
    xlmr_xl=(XLMR, '<s> $A </s>', '<s> $A </s> </s> $B </s>', dict(bos_token='<s>', cls_token='<s>', sep_token='</s>', pad_token='<pad>', unk_token='<unk>', mask_token='<mask>'),
             lambda n: t.XLMRobertaXLConfig(vocab_size=n+9, max_position_embeddings=LENGTH+2, type_vocab_size=1, **SIZE), t.XLMRobertaXLForMaskedLM),
    deberta=(BERT, '[CLS] $A [SEP]', '[CLS] $A [SEP] $B:1 [SEP]:1', dict(cls_token='[CLS]', sep_token='[SEP]', pad_token='[PAD]', unk_token='[UNK]', mask_token='[MASK]', model_input_names=['input_ids', 'token_type_ids', 'attention_mask']),
             lambda n: t.DebertaV2Config(vocab_size=n+5, **SIZE, **deberta), t.DebertaV2ForMaskedLM),
    rembert=(BERT, '[CLS] $A [SEP]', '[CLS] $A [SEP] $B [SEP]', dict(cls_token='[CLS]', sep_token='[SEP]', pad_token='[PAD]', unk_token='[UNK]', mask_token='[MASK]'),
             lambda n: t.RemBertConfig(vocab_size=n, max_position_embeddings=LENGTH, input_embedding_size=8, output_embedding_size=24, **SIZE), t.RemBertModel),
    mmbert=(('<pad>', '<eos>', '<bos>', '<unk>', '<mask>'), '<bos> $A <eos>', '<bos> $A <eos> $B <eos>', dict(bos_token='<bos>', eos_token='<eos>', pad_token='<pad>', unk_token='<unk>', mask_token='<mask>'),
            lambda n: t.ModernBertConfig(vocab_size=n, max_position_embeddings=LENGTH, pad_token_id=0, bos_token_id=2, eos_token_id=1, cls_token_id=2, sep_token_id=1, local_attention=8, **SIZE), t.ModernBertForMaskedLM),
    mt5=(('<pad>', '</s>', '<unk>'), '$A </s>', '$A </s> $B </s>', dict(eos_token='</s>', pad_token='<pad>', unk_token='<unk>'),
         lambda n: t.MT5Config(vocab_size=n+12, d_model=16, d_ff=32, num_layers=2, num_decoder_layers=2, num_heads=2, d_kv=8), t.MT5ForConditionalGeneration))
WITH_MLM = [o for o in FAMILIES if o!='mt5']


def toy_tokenizer(specials, one, two, names):
    words = sorted({w for task in HEADS.values() for r in rows(task, 'dev')[:40] for v in r.values() for w in str(v).replace("'", ' ').replace(',', ' ').split()})
    tok = Tokenizer(models.WordLevel({o: i for i, o in enumerate(dict.fromkeys((*specials, *words)))}, unk_token=names['unk_token']))
    tok.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tok.post_processor = processors.TemplateProcessing(single=one, pair=two, special_tokens=[(o, i) for i, o in enumerate(specials)])
    return t.PreTrainedTokenizerFast(tokenizer_object=tok, model_max_length=512, **dict(dict(model_input_names=['input_ids', 'attention_mask']), **names))


@pytest.fixture(scope='session')
def folders(tmp_path_factory):
    "One folder per family, with the weights of the class that the hub's repository holds"
    res = {}
    for name, (*special, names, config, cls) in FAMILIES.items():
        tok, d = toy_tokenizer(*special, names), tmp_path_factory.mktemp(name)
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
    "Two updates of masked language modelling"
    def __init__(self, enc, tok, first): self.enc, self.tok, self.first = enc, tok, first
    def epoch(self, n): return [0, 4]
    def micro(self, at):
        b = collate(self.enc, range(at, at+4), self.tok.pad_token_id, self.first)
        hide = (torch.arange(b['input_ids'].shape[1])%3==1)&(b['attention_mask']==1)
        yield 'mlm', b|dict(labels=torch.where(hide, b['input_ids'], -100), input_ids=torch.where(hide, self.tok.mask_token_id, b['input_ids']))


def logits(net, name, enc, pad, budget=8192):
    "What a head says of every example, without its padding"
    res, whole = [None]*len(enc), kinds[net.heads[name].kind].one_vector
    net.eval()
    with torch.inference_mode():
        for ix in token_budget_batches(enc.lengths, budget):
            out = net.logits(collate(enc, ix, pad, first_position(net.encoder)), name).numpy()
            for i, o, n in zip(ix, out, enc.lengths[ix]): res[i] = o if whole else o[:n]
    return res


def after(net, enc, tok, name):
    "What a network says: logits of a head, or the losses of modelling"
    if name!='mlm': return logits(net, name, enc, tok.pad_token_id)
    net.eval()
    with torch.inference_mode(): return [net(b, o)[0].numpy() for at in (0, 4) for o, b in Lines(enc, tok, first_position(net.encoder)).micro(at)]


def through(folder, name, work):
    "Two updates of a head, saved and loaded: what it said before and after, and by how much the encoder moved"
    mlm = name=='mlm'
    net, tok = parts(folder, [] if mlm else [name], mlm=mlm)
    before = {k: v.clone() for k, v in net.encoder.state_dict().items()}
    data = rows('mnli' if mlm else name, 'dev')[:8]
    enc = encode(tok, data, tasks['mnli' if mlm else name], LENGTH)
    recipe, first = Recipe(lr=1e-2, max_steps=2, batch_size=4, dropout=0.), first_position(net.encoder)
    groups = {name: len(data[0]['choices'])} if name==HEADS['choice'] else {}
    log = train(net, Lines(enc, tok, first) if mlm else TaskFeed({name: enc}, recipe, 0, tok.pad_token_id, first, groups), recipe, 0, work)
    said = after(net, enc, tok, name)
    net.encoder.save_pretrained(work/'backbone')
    tok.save_pretrained(work/'backbone')
    save_file({k: v.contiguous() for k, v in net.heads.state_dict().items()}, work/'heads.safetensors')
    again, tok = parts(str(work/'backbone'), [] if mlm else [name], seed=1, mlm=mlm)
    again.heads.load_state_dict(load_file(work/'heads.safetensors'))
    moved = sum(float((v-before[k]).abs().sum()) for k, v in net.encoder.state_dict().items())
    return SimpleNamespace(said=said, again=after(again, enc, tok, name), moved=moved, loss=log[-1]['loss'])


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('kind', [*HEADS, 'mlm'])
def test_a_head_learns_and_comes_back_the_same(family, kind, folders, tmp_path):
    if kind=='mlm' and family not in WITH_MLM:
        with pytest.raises(ValueError, match='leave mlm_rate at 0'): parts(folders[family], [], mlm=True)
        return
    o = through(folders[family], HEADS.get(kind, kind), tmp_path)
    assert o.moved>0 and np.isfinite(o.loss)
    assert len(o.said)==len(o.again)
    for a, b in zip(o.said, o.again): np.testing.assert_allclose(a, b, atol=1e-6, rtol=0)


@pytest.mark.parametrize('family', FAMILIES)
def test_padding_and_neighbours_change_nothing(family, folders):
    "An example alone, and beside a longer one."
    net, tok = parts(folders[family], HEADS.values())
    for name in HEADS.values():
        enc = encode(tok, rows(name, 'dev')[:6], tasks[name], LENGTH)
        together, alone = (logits(net, name, enc, tok.pad_token_id, budget=o) for o in (10**6, 1))
        for a, b in zip(together, alone): np.testing.assert_allclose(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize('family', FAMILIES)
def test_sentences_become_vectors(family, folders):
    encoder, tok = backbone(folders[family]), tokenizer(folders[family])
    some = rows('tatoeba', 'dev', 'de')[:6]
    v, alone = embed(encoder, tok, some, (0, 2)), embed(encoder, tok, some, (0, 2), budget=1)
    for o in (0, 2):
        np.testing.assert_allclose((v[o]**2).sum(1), 1., atol=1e-5)
        np.testing.assert_allclose(v[o], alone[o], atol=1e-5)


@pytest.mark.parametrize('family', FAMILIES)
def test_random_is_the_same_architecture_without_weights(family, folders, tmp_path):
    shutil.copytree(folders[family], tmp_path/'bare', ignore=shutil.ignore_patterns('*.safetensors'))
    a, b, c = backbone(folders[family]), backbone(str(tmp_path/'bare'), random=0), backbone(str(tmp_path/'bare'), random=1)
    shapes = lambda o: {k: v.shape for k, v in o.state_dict().items()}
    first = lambda o: next(iter(o.parameters()))
    assert shapes(a)==shapes(b) and not torch.equal(first(a), first(b)) and not torch.equal(first(b), first(c))
    with pytest.raises(ValueError, match='there are no weights in this folder'): backbone(str(tmp_path/'bare'))


@pytest.mark.parametrize('family', FAMILIES)
def test_dropout_is_set_everywhere(family, folders):
    rates = {m.p for m in backbone(folders[family], dropout=.25).modules() if isinstance(m, torch.nn.Dropout)}
    rates |= {m.attention_dropout for m in backbone(folders[family], dropout=.25).modules() if isinstance(getattr(m, 'attention_dropout', None), float)}
    assert rates<={.25, 0.} and .25 in rates and (rates=={.25} or family=='mmbert'), rates


@pytest.mark.parametrize('family', ['bert', 'deberta', 'mmbert', 'mt5'])
def test_whole_cells_run(family, folders, tmp_path, monkeypatch):
    "Trained, predicted and scored through the store, from the folder and from random weights."
    monkeypatch.setenv('XSTILTS_ARTIFACTS', str(tmp_path))
    from xstilts.run.experiment import Experiment
    from xstilts.run.scores import run_experiment
    from xstilts.core.store import read_json
    few = dict(target_train_from='dev', target_train_limit=12, target_max_steps=2, target_max_length=LENGTH, eval_limit=3, languages='de ja')
    for name in (folders[family], f'random:{folders[family]}'):
        scores = read_json(run_experiment(Experiment(model=name, intermediate='none', target='xquad' if name.startswith('random') else 'xnli', seed=0, settings=few)))['scores']
        assert set(scores)=={'de', 'ja'} and all(o['n']==3 for o in scores.values())


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('kind', HEADS)
def test_the_class_of_transformers_says_the_same_or_is_refused(family, kind, folders, tmp_path):
    "Logits to 1e-5, from memory and from the folder that is written; a wrong laying-in would show, because the head is not at its start."
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
    "From texts on, so with the tokenizer's own separators and types of pieces."
    net, tok = parts(folders[family], ['mnli'])
    for p in net.heads.parameters(): p.data += .3*torch.randn_like(p)
    some = rows('mnli', 'dev')[:5]
    transformers_model(net.encoder, tasks['mnli'], net.heads['mnli']).save_pretrained(tmp_path)
    tok.save_pretrained(tmp_path)
    ours = [torch.softmax(torch.tensor(o), -1) for o in logits(net, 'mnli', encode(tok, some, tasks['mnli'], LENGTH), tok.pad_token_id)]
    theirs = t.pipeline('text-classification', model=str(tmp_path), top_k=None)
    for row, o in zip(some, ours):
        said = {x['label']: x['score'] for x in theirs(dict(text=row['text_a'], text_pair=row['text_b']))}
        np.testing.assert_allclose([said[x] for x in tasks['mnli'].labels], o, atol=1e-5)


@pytest.mark.parametrize('target', ['xnli', 'panx', 'xquad'])
def test_a_model_that_writes_runs_as_a_cell(target, folders, tmp_path, monkeypatch):
    "After an intermediate task, through the store; what cannot be read is told, and nothing is shared with the encoder's experiments."
    monkeypatch.setenv('XSTILTS_ARTIFACTS', str(tmp_path))
    from xstilts.run.experiment import Experiment
    from xstilts.run.stages import Stage, stages_of
    from xstilts.run.scores import run_experiment, score_key
    from xstilts.core.store import artifact_path, read_json
    few = dict(target_train_from='dev', target_train_limit=8, target_max_steps=2, intermediate_train_from='dev', intermediate_train_limit=8, intermediate_max_steps=2, eval_limit=2, languages='de ja')
    phase = 'pawsx' if target=='xnli' else 'none'
    experiment = Experiment(model=folders['mt5'], intermediate=phase, target=target, seed=0, settings=dict(few, head='text2text', target_max_length=64, intermediate_max_length=64))
    monkeypatch.setattr('xstilts.learn.text2text.target_length', lambda task: 4 if task.kind=='pair' else 8)
    got = read_json(run_experiment(experiment))
    assert set(got['scores'])=={'de', 'ja'} and any('could not be read' in o for o in got['flags'])
    model_folder = artifact_path('models', got['stages'][-1])
    assert any('decoder' in k for k in load_file(model_folder/'backbone/model.safetensors')) and read_json(model_folder/'stage.json')['head']=='text2text'
    other = Experiment(model=folders['mt5'], intermediate=phase, target=target, seed=0, settings=few)
    assert score_key(other)!=score_key(experiment) and not {o.key for o in stages_of(other)}&{o.key for o in stages_of(experiment)} and Stage.__dataclass_fields__['head'].default==''


def spoilt(folder, to, how):
    "A copy of a folder in which one thing is wrong"
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
        body = [k for k, v in w.items() if v.ndim==2 and 'pooler' not in k and 'decoder' not in k and 'embed' not in k.lower() and ('layer' in k or 'block' in k)]
        if how=='one missing': del w[body[0]]
        else: w[body[0]] = w[body[0]][:-1].clone()
        save_file(w, weights, metadata=dict(format='pt'))
    return str(to)


BAD = {'pickled': 'pickled weights .pytorch_model.bin. are not read', 'none': 'there are no weights in this folder', 'half': 'cannot be read as an encoder', 'no config': 'no config.json',
       'one missing': 'the folder lacks weights of the encoder', 'other size': 'do not have the same sizes'}


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('how', [*BAD, 'no tokenizer'])
def test_a_bad_folder_is_refused_by_name(family, how, folders, tmp_path):
    bad = spoilt(folders[family], tmp_path/'bad', how)
    with pytest.raises(ValueError, match=BAD.get(how, 'no tokenizer can be read')) as e: (tokenizer if how=='no tokenizer' else backbone)(bad)
    assert bad in str(e.value)


@pytest.mark.parametrize('family', FAMILIES)
def test_a_foreign_tokenizer_is_refused(family, folders):
    encoder = backbone(folders[family])
    longer = tokenizer(folders[family])
    longer.add_tokens([f'more{i}' for i in range(20)])
    with pytest.raises(ValueError, match='the embedding table ends at'): fits(encoder, longer, family)
    other = tokenizer(folders['mmbert' if family in ('xlmr', 'xlmr_xl') else 'xlmr'])
    if family not in ('bert', 'minilm'):
        with pytest.raises(ValueError, match='the embedding table ends at|padding is piece'): fits(encoder, other, family)


@pytest.mark.parametrize('family', FAMILIES)
def test_inputs_beyond_the_positions_are_refused(family, folders):
    encoder, tok = backbone(folders[family]), tokenizer(folders[family])
    assert longest(encoder)==(None if family in ('mt5', 'deberta') else LENGTH)
    fits(encoder, tok, family, LENGTH)
    if longest(encoder):
        with pytest.raises(ValueError, match=f'max_length {LENGTH+1} is longer than the {LENGTH} positions'): fits(encoder, tok, family, LENGTH+1)


def test_an_encoder_of_mt5_stays_one(folders, tmp_path):
    "Saved by us it has no decoder, and loading it makes none."
    encoder = backbone(folders['mt5'])
    encoder.save_pretrained(tmp_path)
    assert not any('decoder' in k for k in load_file(tmp_path/'model.safetensors'))
    again = backbone(str(tmp_path))
    assert type(again) is t.MT5EncoderModel and all(torch.equal(a, b) for a, b in zip(encoder.parameters(), again.parameters()))


@pytest.mark.parametrize('family,kind', [*(('xlmr', o) for o in HEADS), ('bert', 'pair'), ('minilm', 'span'), ('xlmr_xl', 'choice'), ('deberta', 'pair'), ('rembert', 'score'), ('mmbert', 'tags'), ('mt5', 'tags')])
def test_onnx_says_the_same(family, kind, folders):
    "Every kind of head and every family: logits to 1e-4 and the same argmax, at every size of a batch, padded or not; from weights far from their start."
    for o in EXTRA: pytest.importorskip(o)
    name = HEADS[kind]
    net, tok = parts(folders[family], [name])
    for p in net.parameters(): p.data += .1*torch.randn_like(p)
    enc = encode(tok, rows(name, 'dev')[:12], tasks[name], LENGTH)
    made = run_by(net, name, 'onnx', typed='second' in enc.y)
    for budget in (4096, 300, LENGTH):
        for ours, theirs in zip(logits(net, name, enc, tok.pad_token_id, budget), logits(made, name, enc, tok.pad_token_id, budget), strict=True):
            np.testing.assert_allclose(theirs, ours, atol=1e-4)
            if kind not in ('score', 'choice'): assert (ours.argmax(-1)==theirs.argmax(-1)).all()


@pytest.mark.parametrize('family', WITH_MLM)
def test_modelling_goes_on_with_any_tokenizer(family, folders, tmp_path, monkeypatch):
    "Masked language modelling among the updates of a stage, whatever the tokenizer puts around a text and calls it."
    monkeypatch.setenv('XSTILTS_ARTIFACTS', str(tmp_path))
    monkeypatch.setattr('xstilts.run.training.MLM_DOCUMENTS', 20)
    from xstilts.run.experiment import Experiment
    from xstilts.run.stages import stages_of
    from xstilts.run.launch import run_stage
    from xstilts.core.store import read_json
    few = dict(target_train_from='dev', target_train_limit=8, target_max_steps=4, target_max_length=64, target_mlm_rate=.5, target_mlm_languages='en')
    log = read_json(run_stage(stages_of(Experiment(model=folders[family], intermediate='none', target='xnli', seed=0, settings=few))[-1])/'stage.json')['log']
    assert np.isfinite([o['loss'] for o in log]).all()
