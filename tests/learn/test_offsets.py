"""The subwords labelled as an answer decode to that answer, for every normaliser, tokenizer and script."""
import random
import struct
import unicodedata

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from xstilts.evaluate.predict import answers, best_spans
from xstilts.learn.tokenize import encode_span, encode_tags, train_tokenizer
from xstilts.catalog.tasks import tasks

SPECIALS = ['<s>', '<pad>', '</s>', '<unk>']
TRAINED = dict(special_tokens=SPECIALS, show_progress=False)
WORDS = ('café là Ångström naïve Việt Nam ế tiếng ёлка Йод Ελλάδα τό ΐ '
         '서울 한국 시 김치 がぎ パン です '
    'भारत क़िला की हिन्दी İstanbul çok ﬁn ½ ㎞ … '
    "the old bridge is in x, (y) don't 3.5 l'été «mot» 😀 न्‍ می‌خواهم").split()


def double_array(entries):
    "The trie of a `Precompiled` normaliser (darts-clone), a block of 256 cells for each node, and its replacements"
    root, texts = {}, b''
    for key, value in entries.items():
        node = root
        for byte in key.encode(): node = node.setdefault(byte, {})
        node[None] = len(texts)
        texts += value.encode()+b'\0'
    units = [0]*256
    def fill(node, at, label):
        block = len(units)
        units.extend([0]*256)
        units[at] = (block^at)<<10|(None in node)<<8|label
        if None in node: units[block] = 1<<31|node[None]
        for byte in (o for o in node if o is not None): fill(node[byte], block^byte, byte)
    fill(root, 0, 0)
    trie = struct.pack(f'<{len(units)}I', *units)
    return struct.pack('<I', len(trie))+trie+texts


def charsmap():
    "sentencepiece's nmt_nfkc for the characters of this test: compose, fold, drop control characters"
    chars = {c for w in WORDS for c in unicodedata.normalize('NFC', w)}
    folded = {form: unicodedata.normalize('NFKC', c) for c in chars for form in (c, unicodedata.normalize('NFD', c))}
    return double_array({k: v for k, v in folded.items() if k!=v}|{'\x01': '', '\u200b': ' '})


def wrapped(backend, trainer):
    words = [*WORDS, *(unicodedata.normalize('NFD', o) for o in WORDS)]
    backend.train_from_iterator((' '.join(random.Random(i).sample(words, 6)) for i in range(60)), trainer)
    ids = [(o, backend.token_to_id(o)) for o in ('<s>', '</s>')]
    texts = dict(single='<s> $A </s>', pair='<s> $A </s> </s> $B </s>')
    backend.post_processor = processors.TemplateProcessing(**texts, special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token='<pad>', unk_token='<unk>')


def unigram(normalizer):
    "A tokenizer like XLM-R's, with a given normaliser"
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    return wrapped(backend, trainers.UnigramTrainer(vocab_size=120, unk_token='<unk>', **TRAINED))


def byte_level():
    "Like RoBERTa's and ModernBERT's: the space belongs to the token after it, and a character may have several tokens"
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return wrapped(backend, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, **TRAINED))


def spaces_kept():
    "Like mmBERT's: spaces become a mark, and characters without a token become bytes"
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token='<unk>'))
    backend.normalizer = normalizers.Replace(' ', '▁')
    backend.pre_tokenizer = pre_tokenizers.Split(Regex('▁'), 'merged_with_next')
    special = SPECIALS+[f'<0x{i:02X}>' for i in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=420, limit_alphabet=60, special_tokens=special, show_progress=False)
    return wrapped(backend, trainer)


def uncased():
    "A tokenizer like uncased BERT's: accents and control characters are dropped"
    backend = Tokenizer(models.WordPiece(unk_token='<unk>'))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return wrapped(backend, trainers.WordPieceTrainer(vocab_size=300, **TRAINED))


def mini(): return train_tokenizer(WORDS, 200)
def characters(): return train_tokenizer(WORDS, 5)
def precompiled(): return unigram(normalizers.Precompiled(charsmap()))
def nfkc(): return unigram(normalizers.NFKC())


TOKENIZERS = {o.__name__: o for o in (mini, characters, byte_level, spaces_kept, uncased, precompiled, nfkc)}


def row_of(rng):
    "A question whose answer is some words of a context, with composed and decomposed characters and odd spaces"
    words = [unicodedata.normalize(rng.choice(('NFC', 'NFD')), o) for o in rng.choices(WORDS, k=rng.randint(2, 14))]
    first = rng.randrange(len(words))
    last = rng.randint(first, min(first+3, len(words)-1))
    spaces = [rng.choice((' ', ' ', ' ', '  ', '\n')) for _ in words]
    before = rng.choice(('', '', '\x01', ' '))+''.join(w+s for w, s in zip(words[:first], spaces))
    answer = ''.join(w+s for w, s in zip(words[first:last], spaces))+words[last]
    after = ''.join(s+w for w, s in zip(words[last+1:], spaces))
    return dict(question='x', context=before+answer+after, answers=dict(text=[answer], start=[len(before)]))


def given_back(row, encoded, i):
    "The text that `answers` decodes for the labelled tokens of an example"
    at = slice(encoded.starts[i], encoded.starts[i+1])
    out = torch.zeros(1, at.stop-at.start, 2)
    out[0, encoded.y['span'][i], [0, 1]] = 9.
    inside = torch.from_numpy(encoded.y['begin'][at]>=0)[None]
    spans = [o.numpy() for o in best_spans(out, inside, longest=10**4)]
    places = {k: encoded.y[k][at] for k in ('begin', 'end')}
    here = dict(ids=encoded.ids[at], pos=encoded.pos[at], starts=encoded.starts[i:i+2]-at.start)
    one = type(encoded)(**here, row=encoded.row[:1]*0, y=places)
    return answers([row], one, spans)[0]['pred']


@pytest.mark.parametrize('name', TOKENIZERS)
def test_labelled_pieces_give_the_answer_back(name):
    "The labelled subwords of random answers decode to these answers, in one window and in several."
    tok, rng = TOKENIZERS[name](), random.Random(0)
    rows = [row_of(rng) for _ in range(300)]
    for length, stride in ((2000, 128), (64, 8)):
        encoded = encode_span(tok, rows, max_length=length, stride=stride)
        labelled = [i for i in range(len(encoded)) if encoded.y['span'][i, 0]]
        for i in labelled:
            row = rows[encoded.row[i]]
            assert given_back(row, encoded, i)==row['answers']['text'][0], (row, i)
        lacking = set(range(len(rows)))-{int(encoded.row[i]) for i in labelled}
        assert not lacking or length<2000, rows[min(lacking)]


def test_any_character_can_be_an_answer():
    "With one token per character, every run of whole characters comes back, composed or not."
    tok, rng = TOKENIZERS['characters'](), random.Random(1)
    for _ in range(200):
        words = unicodedata.normalize('NFC', ''.join(rng.choices(WORDS, k=3)))
        chars = [unicodedata.normalize('NFD', c) for c in words]
        first = rng.randrange(len(chars))
        answer = ''.join(chars[first:first+rng.randint(1, 4)])
        right = dict(text=[answer], start=[len(''.join(chars[:first]))])
        row = dict(question='x', context=''.join(chars), answers=right)
        encoded = encode_span(tok, [row], max_length=400)
        assert given_back(row, encoded, 0)==answer, row


@pytest.mark.parametrize('name', TOKENIZERS)
def test_words_of_a_sentence_are_its_text(name):
    "Words encoded one by one have the tokens of the sentence as a text, the space before each word included."
    tok = TOKENIZERS[name]()
    words = 'the old bridge is in the Nam'.split()
    row = dict(tokens=words, tags=['NOUN']*len(words))
    encoded = encode_tags(tok, [row], tasks['udpos'], 512)
    assert encoded.ids.tolist()==tok(' '.join(words))['input_ids']
    assert (encoded.y['labels']!=-100).sum()==len(words)
