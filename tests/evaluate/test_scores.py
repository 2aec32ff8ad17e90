"""Edge cases of the official scores: test sets without names, and SQuAD 2.0 with empty answers."""
import warnings

import pytest
from xstilts.core.config import settings
from xstilts.evaluate.metrics import score, squad_v2_em_f1
from xstilts.data.origins import read
from xstilts.evaluate.submission import score_file
from xstilts.catalog.tasks import tasks

SQUAD_V2 = settings().mirror/'rajpurkar'/'squad_v2'


def test_a_language_without_names_scores_as_seqeval_says(tmp_path):
    "PAN-X without names in gold and prediction scores 0.0, here, in seqeval and from official files."
    from seqeval.metrics import f1_score
    tags = [['O', 'O', 'O'], ['O']]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        official = 100*f1_score(tags, tags)
    rows = [dict(gold=o, pred=o) for o in tags]
    assert score(tasks['panx'].metric, rows)==dict(f1=official, precision=official, recall=official)
    for name in ('gold', 'pred'):
        (tmp_path/f'{name}.tsv').write_text('O\nO\nO\n\nO\n\n')
    found = score_file('panx', 'de', tmp_path/'pred.tsv', tmp_path/'gold.tsv')
    assert found['f1']==official==0.


@pytest.mark.skipif(not SQUAD_V2.is_dir(), reason='no mirror of SQuAD 2.0 here: set XSTILTS_MIRROR')
def test_silence_on_squad_v2_gets_the_official_score():
    "evaluate-v2.0.py gives all-empty predictions an EM and F1 of 50.0716 on the 11,873 questions of the dev set."
    rows = read('mirror', 'squad_v2', 'dev', 'en')
    golds = [o['answers']['text'] for o in rows]
    found = squad_v2_em_f1(golds, ['']*len(golds))
    assert {k: round(v, 4) for k, v in found.items()}==dict(f1=50.0716, exact_match=50.0716)
    perfect = [o[0] if o else '' for o in golds]
    assert squad_v2_em_f1(golds, perfect)['exact_match']==100.
