"""Rows of the tables of kinds and families name functions, kinds and models that exist."""
import pytest
from xstilts.catalog.families import families
from xstilts.catalog.kinds import kinds, resolve

ENTRIES = [e for o in kinds.values() for e in (o.check, o.encode, o.head, o.loss, o.chance_loss, o.read, o.decode) if e]
ENTRIES += [o.encoder for o in families.values()]


@pytest.mark.parametrize('entry', dict.fromkeys(ENTRIES))
def test_every_entry_point_exists(entry): assert callable(resolve(entry))


def test_rows_name_kinds_and_models_that_exist():
    from xstilts.catalog.encoders import models
    assert {k for o in families.values() for k in (*o.exports, *o.in_decoder)}<={*kinds}
    assert {o.like for o in families.values()}<={'', *models}
    assert all(o.architecture.name in families for o in models.values())
