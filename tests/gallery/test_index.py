"""The index: what it finds of exact search, and that it forgets."""

import sys

import numpy as np
import pytest
from made_up import fake_model, people

from reidlab.errors import InputError
from reidlab.gallery import Gallery, folder, store
from reidlab.gallery.index import cells, sample_size


@pytest.fixture
def enrolled(tmp_path, monkeypatch):
    """Make a gallery of 400 identities with 10 images each, and a query of each of the first 100."""
    monkeypatch.setattr(folder, "WORTH_AN_INDEX", 1000)
    monkeypatch.setattr(store, "PART_ROWS", 1500)

    def make(distance="cosine"):
        pytest.importorskip("faiss")
        made = Gallery.open(tmp_path, fake_model(distance=distance), precision="int8", template="best")
        values, pids = people(400, 11)
        first = np.arange(len(values)) % 11 == 0
        kept = np.flatnonzero(~first)
        made.enroll_embeddings(values[kept], [pids[i] for i in kept])
        return made, values[first][:100]

    return make


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("kind", ["ivfpq", "hnsw"])
def test_it_finds_what_exact_search_finds(kind, distance, enrolled):
    made, queries = enrolled(distance)
    exact = made.nearest(queries)
    figures = made.build_index(kind)
    assert min(figures.values()) > 0.95 and {*figures} == {"recall@1", "recall@10"}
    found = made.nearest(queries)
    hits = (found.position[:, :, None] == exact.position[:, None]).any(1)
    assert hits.mean() > 0.95 and made.recall(queries)["recall@10"] == pytest.approx(hits.mean())
    same = found.position == exact.position
    assert np.array_equal(found.distance[same], exact.distance[same])  # scored by the same arithmetic
    assert (np.diff(found.distance) >= 0).all()


def test_little_effort_finds_less(enrolled):
    made, queries = enrolled()
    made.build_index("ivfpq", effort=1)
    assert made.recall(queries)["recall@10"] < 0.95


@pytest.mark.parametrize("kind", ["ivfpq", "hnsw"])
def test_images_enrolled_later_are_found_beside_it(kind, enrolled, tmp_path):
    made, queries = enrolled()
    made.build_index(kind)
    made.enroll_embeddings(queries[:5], [f"new {i}" for i in range(5)])
    reader = Gallery.open(tmp_path, fake_model(), template="best")
    answers = reader.identify_embeddings(queries[:5], k=2)
    assert [answer.pid for answer in answers] == [f"new {i}" for i in range(5)]
    assert [answer.candidates[1].pid for answer in answers] == [f"p{i}" for i in range(5)]


def held_by(file):
    """The ids in an IVF-PQ file, and how many codes, in all slots of its cells, aren't zero."""
    import faiss

    index = faiss.read_index(str(file))  # which must outlive its lists
    lists = faiss.downcast_InvertedLists(index.invlists)
    ids, codes = [], 0
    for cell in range(lists.nlist):
        size = lists.list_size(cell)
        if size:
            ids += faiss.rev_swig_ptr(lists.get_ids(cell), size).tolist()
            blocks = -(-size // lists.n_per_block)
            packed = faiss.rev_swig_ptr(lists.get_codes(cell), blocks * lists.block_size).reshape(blocks, -1)
            codes += sum(lists.packer.unpack_1(packed, slot).any() for slot in range(blocks * lists.n_per_block))
    return ids, codes


@pytest.mark.parametrize("kind", ["ivfpq", "hnsw"])
def test_it_forgets(kind, enrolled, tmp_path, capsys):
    made, queries = enrolled()
    made.build_index(kind)
    reader = Gallery.open(tmp_path, fake_model(), template="best")
    assert reader.identify_embeddings(queries[7:8], k=1)[0].pid == "p7"
    own = [row for row, pid in enumerate(made.table()["pid"]) if pid == "p7"]
    ids = made.store.numbers("id")[own]
    assert made.forget("p7") == 10
    assert "p7" not in [each.pid for each in reader.identify_embeddings(queries[7:8], k=400)[0].candidates]
    files = [*tmp_path.glob("index-*")]
    if kind == "hnsw":
        assert files == [] and made.store.about["index"] is None and "dropped" in capsys.readouterr().out
        return
    (file,) = files
    kept, codes = held_by(file)
    assert len(kept) == 3990 and not np.isin(ids, kept).any()
    assert codes == 3990, "the codes of removed rows stay behind the end of a cell"
    assert made.recall(queries)["recall@10"] > 0.95


def test_an_identity_enrolled_after_the_index_leaves_it_alone(enrolled, tmp_path):
    made, queries = enrolled()
    made.build_index("hnsw")
    made.enroll_embeddings(queries[:1], ["late"])
    before = [*tmp_path.glob("index-*")]
    made.forget("late")
    assert [*tmp_path.glob("index-*")] == before and len(before) == 1


def test_what_cannot_be_indexed_is_named(enrolled, tmp_path, monkeypatch):
    made, queries = enrolled()
    with pytest.raises(InputError, match="choose ivfpq or hnsw"):
        made.build_index("tree")
    made.build_index("ivfpq")
    (file,) = tmp_path.glob("index-*")
    file.write_bytes(b"nothing")
    with pytest.raises(InputError, match=f"{file.name}: damaged"):
        Gallery.open(tmp_path, fake_model()).nearest(queries)
    monkeypatch.setattr(folder, "WORTH_AN_INDEX", 10_000)
    with pytest.raises(InputError, match="4,000 images; an index needs 10,000"):
        made.build_index("ivfpq")


def test_without_faiss_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(folder, "WORTH_AN_INDEX", 2)
    made = Gallery.open(tmp_path, fake_model())
    made.enroll_embeddings(np.eye(4), "abcd")
    with pytest.raises(InputError, match=r"pip install 'reidlab\[index\]'"):
        made.build_index()
    assert len(made) == 4 and made.identify_embeddings(np.eye(4)[:1])[0].pid == "a"


def test_cells_grow_with_the_root_of_the_rows_and_have_images_to_learn_from():
    assert [cells(n) for n in (1, 1000, 10**6, 10**7)] == [1, 16, 2048, 8192]
    assert all(sample_size(n) >= 39 * cells(n) for n in (4000, 10**5, 10**6, 10**7))
