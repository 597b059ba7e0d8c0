from __future__ import annotations

import gzip
import lzma
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.units import kcal, mol

from surefield.errors import DataError
from surefield.structures import read
from surefield.structures.labels import resolve_labels
from surefield.structures.read import Frames, read_frames, write_frames


def labelled(n_atoms: int = 4, seed: int = 0) -> Atoms:
    rng = np.random.default_rng(seed)
    cell = rng.normal(size=(3, 3)) + 6 * np.eye(3)
    atoms = Atoms("HCNO"[:n_atoms], rng.normal(size=(n_atoms, 3)), cell=cell, pbc=[True, True, False])
    atoms.info |= {"config_type": "two words", "third": 1 / 3, "count": 7, "flag": True}
    atoms.info |= {
        "vector": rng.normal(size=5),
        "matrix": rng.normal(size=(3, 3)),
        "energy_uncertainty": 0.1 / 3,
    }
    atoms.info["forces_ensemble"] = rng.normal(size=(2, n_atoms, 3))
    atoms.arrays["REF_forces"] = rng.normal(size=(n_atoms, 3))
    atoms.arrays["chosen"] = np.arange(n_atoms) % 2 == 0
    results = {"energy": -1e5 / 3, "forces": rng.normal(size=(n_atoms, 3)), "stress": rng.normal(size=6)}
    atoms.calc = SinglePointCalculator(atoms, **results)
    atoms.calc.results["forces_uncertainty"] = rng.random((n_atoms, 3))
    return atoms


def trajectory(path: Path, n: int = 5) -> Path:
    write_frames(path, [labelled(seed=i) for i in range(n)])
    return path


@pytest.mark.parametrize("extension", ["xyz", "extxyz", "xyz.xz", "xyz.gz", "xyz.bz2", "traj", "db"])
def test_all_that_is_written_comes_back_bit_by_bit(tmp_path: Path, extension: str):
    before = labelled()
    write_frames(tmp_path / f"a.{extension}", [before])
    (after,) = read_frames(tmp_path / f"a.{extension}")
    assert np.array_equal(after.cell.array, before.cell.array)
    assert np.array_equal(after.pbc, before.pbc)
    for name, value in before.arrays.items():
        assert np.array_equal(after.arrays[name], value), name
    for name, value in before.info.items():
        assert np.array_equal(after.info[name], value), name
    assert np.array_equal(after.arrays["forces_uncertainty"], before.calc.results["forces_uncertainty"])
    for name in ("energy", "forces", "stress"):
        assert np.array_equal(after.calc.results[name], before.calc.results[name]), name


def test_fixed_atoms_survive(tmp_path: Path):
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 1]], constraint=FixAtoms([1]))
    write_frames(tmp_path / "a.xyz", [atoms])
    assert read_frames(tmp_path / "a.xyz")[0].constraints[0].index.tolist() == [1]


def test_results_of_moved_atoms_are_not_written(tmp_path: Path):
    atoms = labelled()
    atoms.positions[0] += 0.1
    write_frames(tmp_path / "a.xyz", [atoms])
    assert read_frames(tmp_path / "a.xyz")[0].calc is None


def test_contradiction_of_result_and_info_is_refused(tmp_path: Path):
    atoms = labelled()
    atoms.info["energy"] = 1.0
    with pytest.raises(DataError, match="frame 0: the calculator's 'energy' contradicts"):
        write_frames(tmp_path / "a.xyz", [atoms])
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    path = trajectory(tmp_path / "a.xyz")
    old = path.read_bytes()
    bad = labelled()
    bad.info["energy"] = 1.0
    with pytest.raises(DataError, match="'energy' contradicts"):
        write_frames(path, [labelled(), bad])
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["a.xyz"]


def test_a_file_that_does_not_read_back_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = trajectory(tmp_path / "a.xyz")
    old = path.read_bytes()
    monkeypatch.setattr(read, "compress", lambda data, _: data.replace(b"count=7", b"count=8"))
    with pytest.raises(DataError, match=r"'count' of frame 0 is not read back .*; got 8; expected 7"):
        write_frames(path, [labelled()])
    monkeypatch.setattr(read, "compress", lambda data, _: data + data)
    with pytest.raises(DataError, match="not read back as it was written; got 2; expected 1"):
        write_frames(path, [labelled()])
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["a.xyz"]


def test_formats_that_ase_names_by_the_file_name(tmp_path: Path):
    write_frames(tmp_path / "POSCAR", [Atoms("Cu", cell=[2, 2, 2], pbc=True)])
    assert read_frames(tmp_path / "POSCAR")[0].cell.lengths() == pytest.approx([2, 2, 2])
    with pytest.raises(DataError, match="ASE cannot write"):
        write_frames(tmp_path / "POSCAR", [Atoms("Cu")] * 2)


def test_frames_know_their_origin(tmp_path: Path):
    frames = read_frames(trajectory(tmp_path / "train.xyz"))
    assert frames.origin(3) == f"frame 3 of {tmp_path / 'train.xyz'}"
    assert frames[1::2].origin(1) == frames.origin(3)
    assert frames[[4, 0]].origins == (frames.origin(4), frames.origin(0))
    assert frames[np.array([False, True, False, False, True])].origins == (frames.origin(1), frames.origin(4))
    assert frames[-1] is frames.atoms[4]
    assert isinstance(frames[[]], Frames)
    assert len(frames[:2] + frames[3:]) == 4
    with pytest.raises(IndexError):
        frames[5]
    with pytest.raises(AttributeError):
        frames.atoms = ()  # type: ignore[misc]


@pytest.mark.parametrize(("index", "numbers"), [(":", range(5)), ("-1", [4]), ("1:4:2", [1, 3]), (2, [2])])
def test_index_of_frames(tmp_path: Path, index: str | int, numbers: list[int]):
    path = trajectory(tmp_path / "train.xyz")
    expected = tuple(f"frame {i} of {path}" for i in numbers)
    assert read_frames(path, index).origins == expected
    assert read_frames(f"{path}@{index}").origins == expected


def test_structures_in_memory_and_lists_of_files(tmp_path: Path):
    atoms = [Atoms("H"), Atoms("He")]
    frames = read_frames(atoms)
    assert frames[1] is atoms[1]
    assert frames.origin(1) == "frame 1"
    assert read_frames(frames).atoms == frames.atoms
    assert len(read_frames(Atoms("H"))) == 1
    paths = [trajectory(tmp_path / "a.xyz", 2), trajectory(tmp_path / "b.xyz", 3)]
    assert read_frames(paths).origin(2) == f"frame 0 of {paths[1]}"
    with pytest.raises(DataError, match="got a list of int"):
        read_frames([1, 2])  # type: ignore[list-item]


def test_frames_pass_as_they_are():
    frames = read_frames([bulk("Cu"), bulk("Al")])

    assert read_frames(frames) is frames
    assert read_frames(frames, ":1").origins == ("frame 0",)


def test_missing_file_names_the_nearest(tmp_path: Path):
    trajectory(tmp_path / "train.xyz")
    with pytest.raises(DataError, match=r"no file .*trian.xyz; did you mean 'train.xyz'"):
        read_frames(tmp_path / "trian.xyz")


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_empty_file(tmp_path: Path, content: str):
    (tmp_path / "a.xyz").write_text(content)
    with pytest.raises(DataError, match=r"a.xyz is empty"):
        read_frames(tmp_path / "a.xyz")


def test_cut_between_lines(tmp_path: Path):
    path = trajectory(tmp_path / "a.xyz", 3)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))
    with pytest.raises(
        DataError, match=r"truncated extxyz in frame 2 of .*a.xyz; got 2 atom lines.*expected 4"
    ):
        read_frames(path)


def test_cut_within_a_line(tmp_path: Path):
    path = trajectory(tmp_path / "a.xyz", 3)
    path.write_text(path.read_text()[:-60])
    with pytest.raises(DataError, match=r"truncated extxyz.* in frame 2 of .*a.xyz"):
        read_frames(path)


def test_a_frame_with_too_few_atoms_is_not_read_into_the_next(tmp_path: Path):
    path = trajectory(tmp_path / "a.xyz", 3)
    lines = path.read_text().splitlines(keepends=True)
    del lines[8]
    path.write_text("".join(lines))
    with pytest.raises(DataError, match=r"wrong number of atoms in frame 1 of .*a.xyz \(line 12\)"):
        read_frames(path)


@pytest.mark.parametrize("count", ["many", "-3"])
def test_head_without_a_number_of_atoms(tmp_path: Path, count: str):
    (tmp_path / "a.xyz").write_text(f"{count}\n\nH 0 0 0\n")
    with pytest.raises(DataError, match=r"no number of atoms in frame 0 of .*a.xyz \(line 1\)"):
        read_frames(tmp_path / "a.xyz")


@pytest.mark.parametrize("extension", [".xz", ".gz", ".bz2"])
def test_cut_stream_names_file_and_frame(tmp_path: Path, extension: str):
    path = trajectory(tmp_path / f"a.xyz{extension}", 40)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(DataError, match=rf"unreadable compressed file .*a.xyz{extension}") as caught:
        read_frames(path)
    number = int(str(caught.value).rpartition("readable up to frame ")[2])
    # A stream of bzip2 gives nothing before its first block of 900 kB is whole.
    assert number == 0 if extension == ".bz2" else 30 <= number < 40


def test_a_number_that_is_none_names_the_frame(tmp_path: Path):
    path = trajectory(tmp_path / "a.xyz", 3)
    lines = path.read_text().splitlines(keepends=True)
    lines[-1] = lines[-1].replace("0.", "x.")
    path.write_text("".join(lines))
    with pytest.raises(DataError, match=r"unreadable extxyz in frame 2 of .*a.xyz; got ValueError"):
        read_frames(path)


def test_unknown_format_and_binary_content(tmp_path: Path):
    (tmp_path / "a.nothing").write_text("content")
    with pytest.raises(DataError, match=r"ASE cannot read .*a.nothing"):
        read_frames(tmp_path / "a.nothing")
    (tmp_path / "a.xyz").write_bytes(lzma.compress(b"2\n"))
    with pytest.raises(DataError, match="not a text file"):
        read_frames(tmp_path / "a.xyz")


def dump(units: str = "") -> str:
    text = f"ITEM: UNITS\n{units}\n" if units else ""
    text += "ITEM: TIMESTEP\n7\nITEM: NUMBER OF ATOMS\n2\nITEM: BOX BOUNDS pp pp pp\n" + "0 4\n" * 3
    return text + "ITEM: ATOMS id type element x y z fx fy fz\n1 1 Cu 0 0 0 1 0 0\n2 1 Cu 0 0 2 -1 0 0\n"


def test_energies_that_a_reader_invents_are_none(tmp_path: Path):
    (tmp_path / "a.lammpstrj").write_text(dump())
    with gzip.open(tmp_path / "b.lammpstrj.gz", "wb") as file:
        file.write(dump().encode())
    for name in ("a.lammpstrj", "b.lammpstrj.gz"):
        (atoms,) = read_frames(tmp_path / name)
        assert {*atoms.calc.results} == {"forces"}
        assert atoms.get_forces()[:, 0].tolist() == [1, -1]
        with pytest.raises(DataError, match=rf"no energy in frame 0 of .*{name}"):
            resolve_labels(read_frames(tmp_path / name))


def test_units_that_a_dump_states_are_converted(tmp_path: Path):
    (tmp_path / "a.lammpstrj").write_text(dump("real"))
    forces = read_frames(tmp_path / "a.lammpstrj")[0].get_forces()
    assert forces[:, 0] == pytest.approx([kcal / mol, -kcal / mol], rel=1e-6)
    (tmp_path / "a.lammpstrj").write_text(dump("lj"))
    with pytest.raises(DataError, match=r"reduced units has no energies in eV in .*a.lammpstrj"):
        read_frames(tmp_path / "a.lammpstrj")


def test_a_dump_of_types_alone_makes_no_hydrogen(tmp_path: Path):
    without = dump().replace("type element", "type").replace(" Cu", "")
    (tmp_path / "a.lammpstrj").write_text(without)
    with pytest.raises(
        DataError, match=r"types alone .*got id type x.*expected a column 'element'.*specorder"
    ):
        read_frames(tmp_path / "a.lammpstrj")
    (tmp_path / "a.lammpstrj").write_text(
        without.replace("id type", "id mass").replace("\n1 1", "\n1 63.546").replace("\n2 1", "\n2 63.546")
    )
    assert {*read_frames(tmp_path / "a.lammpstrj")[0].symbols} == {"Cu"}


def test_files_of_other_programs_name_their_reader(tmp_path: Path):
    (tmp_path / "a.xyzf").write_text("1\n5 5 5\nCu 0 0 0 0 0 0\n")
    group = tmp_path / "JSON" / "bulk"
    group.mkdir(parents=True)
    (group / "1.json").write_text('# of FitSNAP\n{"Dataset": {}}')
    (group / "2.json").write_text('{"1": ')
    for name, reader in (
        ("a.xyzf", "read_xyzf"),
        ("JSON", "read_fitsnap_json"),
        ("JSON/bulk/1.json", "read_fitsnap_json"),
    ):
        with pytest.raises(DataError, match=rf"ASE cannot read .*{name}.*; read it by surefield.*\.{reader}"):
            read_frames(tmp_path / name)
    with pytest.raises(DataError, match=r"ASE cannot read .*2.json; got \S+: [^;]*$"):
        read_frames(group / "2.json")


def test_real_set_is_read_in_time_linear_in_its_length(shared: Path):
    # ASE's own reader needs 4.3 s here, ours 0.1 s on an idle machine.
    start = time.process_time()
    frames = read_frames(shared / "data/mlearn/Si_train.xyz.xz")
    assert time.process_time() - start < 2.0
    assert len(frames) == 214
    assert sum(map(len, frames)) == 13233
