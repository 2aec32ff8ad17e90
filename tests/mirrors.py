"""Small mirrors for tests: folders in the layout of local copies of hub repositories."""
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

SUFFIX = dict(csv='.csv', json='.jsonl', parquet='.parquet')


def write(path, rows, form, features=None):
    "Write rows as one data file; `form` is a key of `SUFFIX`, `features` are those of `datasets` for Parquet"
    if form=='parquet':
        table = pa.Table.from_pylist(rows, schema=features and features.arrow_schema)
        return pq.write_table(table, path)
    lines = [json.dumps(o) for o in rows]
    if form=='csv': lines = [','.join(rows[0]), *(','.join(map(str, o.values())) for o in rows)]
    path.write_text(''.join(f'{o}\n' for o in lines), encoding='utf-8')


def repository(
    root:Path, repo:str,   # the mirror, and owner/name of the repository
    splits:dict,           # split names of the hub -> rows
    config:str='default',
    form:str='parquet',
    features=None,         # of `datasets`, for Parquet
)->Path:                   # its folder
    "Write a repository with one configuration"
    folder = root/repo
    folder.mkdir(parents=True, exist_ok=True)
    named = {k: f'{config}-{k}{SUFFIX[form]}' for k in splits}
    for k, rows in splits.items(): write(folder/named[k], rows, form, features)
    files = [dict(split=k, path=name) for k, name in named.items()]
    front = yaml.safe_dump(dict(configs=[dict(config_name=config, data_files=files)]))
    (folder/'README.md').write_text(f'---\n{front}---\n', encoding='utf-8')
    return folder
