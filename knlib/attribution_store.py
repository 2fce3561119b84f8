"""Attributions on disk: Parquet parts written whole or not at all, a manifest, and refusal of what does not fit."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr
from tqdm.auto import tqdm

from .attribution import Attributions, attribute, describe, query_hash
from .errors import InputError, Literal
from .files import LEFTOVERS, atomically, write_text
from .models import Model

FORMAT = 1
# Where `stored_attributions` keeps what it computes; not part of the repository.
RUNS = Path(__file__).resolve().parents[1] / "runs" / "attributions"
# What a reader of the manifest may differ in without meaning another result.
_FREE = ("device",)


def attribute_to(
    folder: str | Path,
    model: Model,
    queries: pd.DataFrame,
    *,
    top: int | None = None,
    facts_per_part: int = 16,
    force: bool = False,
    progress: bool = False,
    **options,
) -> Path:
    """`attribute` over many queries, part by part (groups of facts) into a folder; what is there is not computed again.

    A run killed at any moment resumes by the same call and ends with the same bytes: parts are written under a
    temporary name and renamed. `top`: keep the scores of largest magnitude of every query and the share that is dropped;
    default all (dense). `options`: as `attribute`; `baseline="dataset_mean"` is refused, because a part does
    not see the other queries: give its array. `force` deletes a folder of another run and starts anew.

    Raises `InputError` naming the first difference (model, option, library version, queries) where the folder holds
    another run's results.

    Example
    -------
    >>> folder = attribute_to("runs/kn", model, queries, top=200, progress=True)
    >>> open_attributions(folder)
    """
    if isinstance(options.get("baseline"), str) and options["baseline"] == "dataset_mean":
        raise InputError("baseline", found="dataset_mean", expected="the mean itself, an array [layers, neurons]")
    for column in ("query", "fact"):
        if column not in queries:
            raise InputError("queries", found=list(queries), expected=f"a column {column}")
    if queries["query"].duplicated().any():
        raise InputError("queries", found=queries.loc[queries["query"].duplicated(), "query"].iloc[0],
                         expected="every query id once")  # fmt: skip
    folder = Path(folder)
    parts = _parts(queries, facts_per_part)
    described = describe(model, queries, options)
    described |= {"format": FORMAT, "top": top, "facts_per_part": facts_per_part, "parts": len(parts)}
    _prepare(folder, described, force)
    todo = [(number, part) for number, part in parts if not _part_path(folder, number).exists()]
    with tqdm(total=len(queries), unit="query", disable=not progress, desc=folder.name) as bar:
        bar.update(len(queries) - sum(len(part) for _, part in todo))
        for number, part in todo:
            _write(_part_path(folder, number), attribute(model, part, **options), top)
            bar.update(len(part))
    return folder


def stored_attributions(
    model: Model, queries: pd.DataFrame, *, folder: str | Path = RUNS, progress: bool = False, **options
) -> Attributions:
    """`attribute`, or what an earlier call with the same model, queries and options left in `folder`.

    Each combination has a folder of its own in it, filled by `attribute_to` four facts at a time: a killed call goes on
    where it stopped. Folders of other weights or options are left alone; delete them when they are of no more use.

    Example
    -------
    >>> found = stored_attributions(model, queries, batch=64)
    """
    described = {k: v for k, v in describe(model, queries, options).items() if k not in _FREE}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
    name = re.sub(r"[^\w.-]+", "-", Path(model.name).name)
    own = attribute_to(
        Path(folder) / f"{name}-{digest}", model, queries, facts_per_part=4, progress=progress, **options
    )
    return open_attributions(own, model=model, queries=queries)


def open_attributions(folder: str | Path, *, model: Model | None = None, queries: pd.DataFrame | None = None):
    """What `attribute_to` stored: `Attributions`, or where only the top scores were kept a table `query`, `layer`,
    `neuron`, `score`, `dropped`, `probability`.

    Raises `InputError` where parts are missing, or where the folder is of another model or other queries than those given.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    if model is not None and model.hash != manifest["model_hash"]:
        raise InputError(
            f"{folder}, model_hash", found=manifest["model_hash"], expected=f"{model.hash} of {model.name}"
        )
    if queries is not None and query_hash(queries) != manifest["queries"]:
        raise InputError(
            f"{folder}, queries", found=manifest["queries"], expected=f"{query_hash(queries)} of the table"
        )
    missing = [n for n in range(manifest["parts"]) if not _part_path(folder, n).exists()]
    if missing:
        raise InputError(str(folder), found=Literal(f"{len(missing)} of {manifest['parts']} parts missing"),
                         expected="a finished run: call attribute_to again")  # fmt: skip
    tables = [pq.read_table(_part_path(folder, n)) for n in range(manifest["parts"])]
    table = pa.concat_tables(tables)
    if manifest["top"] is not None:
        return table.to_pandas()
    return _dense(table, manifest)


def _dense(table: pa.Table, manifest: dict) -> Attributions:
    """A part's rows are (query, layer), with the neurons' scores as a list."""
    names = table["query"].to_pylist()
    layers = list(dict.fromkeys(table["layer"].to_pylist()))
    order = names[:: len(layers)]
    scores = table["scores"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    scores = scores.reshape(len(order), len(layers), -1)
    coordinates = {"query": order, "layer": layers}

    def column(name):
        return table[name].to_numpy().reshape(len(order), len(layers))

    def two(name):
        return xr.DataArray(column(name), dims=("query", "layer"), coords=coordinates)

    return Attributions(
        scores=xr.DataArray(scores, dims=("query", "layer", "neuron"),
                            coords=coordinates | {"neuron": np.arange(scores.shape[2])}),
        probability=xr.DataArray(column("probability")[:, 0], dims=("query",), coords={"query": order}),
        completeness_gap=two("completeness_gap"), error_estimate=two("error_estimate"), provenance=manifest,
    )  # fmt: skip


def _parts(queries: pd.DataFrame, facts_per_part: int) -> list[tuple[int, pd.DataFrame]]:
    if facts_per_part < 1:
        raise InputError("facts_per_part", found=facts_per_part, expected="at least 1")
    codes = pd.factorize(queries["fact"])[0] // facts_per_part
    return [(int(n), part) for n, part in queries.groupby(codes, sort=True)]


def _part_path(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}.parquet"


def _write(path: Path, found: Attributions, top: int | None) -> None:
    if top is None:
        q, n_layers, neurons = found.scores.shape
        flat = pa.array(found.scores.values.reshape(-1))
        table = pa.table({
            "query": np.repeat(found.scores["query"].values, n_layers).tolist(),
            "layer": np.tile(found.scores["layer"].values, q),
            "scores": pa.FixedSizeListArray.from_arrays(flat, neurons),
            "completeness_gap": found.completeness_gap.values.ravel(),
            "error_estimate": found.error_estimate.values.ravel(),
            "probability": np.repeat(found.probability.values, n_layers),
        })  # fmt: skip
    else:
        kept = found.top(top)
        rows = len(kept) // len(found.probability)
        kept["probability"] = np.repeat(found.probability.values, rows)
        table = pa.Table.from_pandas(kept, preserve_index=False).replace_schema_metadata(None)
    atomically(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def _prepare(folder: Path, described: dict, force: bool) -> None:
    """An empty or matching folder, with a manifest and without leftovers of a killed run."""
    described = json.loads(json.dumps(described))
    if (folder / "manifest.json").exists():
        difference = _difference(_read_manifest(folder), described)
        if difference is None:
            for leftover in folder.glob(LEFTOVERS):
                leftover.unlink()
            return
        if not force:
            name, found, expected = difference
            raise InputError(f"{folder}, {name}", found=found, expected=f"{expected!r} (or force=True to start anew)")
        shutil.rmtree(folder)
    elif folder.exists() and any(p for p in folder.iterdir() if not p.name.endswith(".tmp")):
        raise InputError(str(folder), found=Literal("files but no manifest.json"), expected="an empty or new folder")
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(described, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    write_text(folder / "manifest.json", text)


def _read_manifest(folder: Path) -> dict:
    path = folder / "manifest.json"
    if not path.is_file():
        raise InputError(str(folder), found=Literal("no manifest.json"), expected="a folder of attribute_to")
    return json.loads(path.read_text(encoding="utf-8"))


def _difference(stored: dict, wanted: dict, prefix: str = "") -> tuple[str, object, object] | None:
    """The first entry in which two manifests differ: (name, stored, wanted)."""
    for key in sorted(stored.keys() | wanted.keys()):
        if key in _FREE:
            continue
        a, b = stored.get(key), wanted.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            inner = _difference(a, b, f"{prefix}{key}.")
            if inner:
                return inner
        elif a != b:
            return f"{prefix}{key}", a, b
    return None
