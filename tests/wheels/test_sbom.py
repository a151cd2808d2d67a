import hashlib
import zipfile
from pathlib import Path

import pytest

from tests.wheels.files import wheel
from wheels.sbom import Package, has_viewer, sbom

OURS = (
    "License-Expression: Apache-2.0",
    "Requires-Dist: numpy>=2",
    'Requires-Dist: onnx.Runtime>=1; extra == "cpu"',
    'Requires-Dist: torch; extra == "train"',
)


def stored(folder: Path, name: str, version: str, *metadata: str, tag: str = "any") -> Path:
    path = folder / f"{name.replace('-', '_')}-{version}-py3-none-{tag}.whl"
    path.write_bytes(wheel(name, version, *metadata))
    return path


@pytest.fixture
def wheels(tmp_path: Path) -> list[Path]:
    return [
        stored(tmp_path, "cnnres-infer", "1.0", *OURS),
        stored(tmp_path, "numpy", "2.0", "License: BSD 3-Clause License", tag="win_amd64"),
        stored(tmp_path, "numpy", "2.0", "License: BSD 3-Clause License", tag="linux_x86_64"),
        stored(
            tmp_path,
            "Onnx_Runtime",
            "1.2",
            "Classifier: License :: OSI Approved :: MIT License",
            "Requires-Dist: numpy (>=1.2)",
            'Requires-Dist: cnnres-infer; extra == "demo"',
        ),
    ]


def test_every_wheel_is_listed_with_its_hash_and_licence(wheels: list[Path]) -> None:
    bom = sbom(wheels)
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    root, components = bom["metadata"]["component"], bom["components"]
    assert root["name"] == "cnnres-infer"
    listed = {each["bom-ref"]: each for each in [root, *components]}
    for path in wheels:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert listed[path.name]["hashes"] == [{"alg": "SHA-256", "content": digest}]
    assert listed["Onnx_Runtime-1.2-py3-none-any.whl"]["purl"] == "pkg:pypi/onnx-runtime@1.2"
    assert all(each["licenses"] for each in listed.values())
    assert len(listed) == len(wheels) + 2


def test_the_weights_are_listed_with_their_own_licence_and_data(wheels: list[Path]) -> None:
    (model,) = (
        each for each in sbom(wheels)["components"] if each["type"] == "machine-learning-model"
    )
    assert model["licenses"] == [{"license": {"id": "CC-BY-SA-4.0"}}]
    assert model["hashes"][0]["content"] == "ab" * 32
    assert [each["name"] for each in model["modelCard"]["modelParameters"]["datasets"]] == ["Heads"]


def test_the_viewer_is_listed_where_it_was_fetched(wheels: list[Path], tmp_path: Path) -> None:
    (viewer,) = (each for each in sbom(wheels)["components"] if "npm" in each.get("purl", ""))
    assert viewer["purl"] == "pkg:npm/%40niivue/niivue@0.1"
    assert viewer["licenses"] == [{"expression": "BSD-2-Clause AND MIT"}]
    assert viewer["hashes"][0]["content"] == "cd" * 32
    assert has_viewer(wheels[0])
    without = tmp_path / "without" / wheels[0].name
    without.parent.mkdir()
    with zipfile.ZipFile(wheels[0]) as full, zipfile.ZipFile(without, "w") as archive:
        for name in full.namelist():
            if not name.endswith(".js"):
                archive.writestr(name, full.read(name))
    assert not has_viewer(without)
    assert not [each for each in sbom([without])["components"] if "npm" in each.get("purl", "")]


def test_dependencies_are_those_that_are_there(wheels: list[Path]) -> None:
    edges = {each["ref"]: each["dependsOn"] for each in sbom(wheels)["dependencies"]}
    numpys = [f"numpy-2.0-py3-none-{tag}.whl" for tag in ("linux_x86_64", "win_amd64")]
    runtime = "Onnx_Runtime-1.2-py3-none-any.whl"
    assert sorted(edges["cnnres_infer-1.0-py3-none-any.whl"]) == sorted(
        [*numpys, runtime, "tiny-3", "pkg:npm/%40niivue/niivue@0.1"]
    )
    assert edges[runtime] == numpys
    assert edges["tiny-3"] == []


def test_the_same_wheels_give_the_same_bill(wheels: list[Path]) -> None:
    bom = sbom(wheels)
    assert bom == sbom(wheels[::-1])
    assert bom["serialNumber"].startswith("urn:uuid:")
    assert bom["serialNumber"] != sbom(wheels[:2])["serialNumber"]


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (["License-Expression: MIT OR 0BSD", "License: x"], {"expression": "MIT OR 0BSD"}),
        (["License: MIT License"], {"license": {"id": "MIT"}}),
        (["License: LGPL-3.0-or-later"], {"license": {"id": "LGPL-3.0-or-later"}}),
        (
            ["License: see COPYING", "Classifier: License :: OSI Approved :: BSD License"],
            {"license": {"name": "BSD License"}},
        ),
        (["License: see COPYING"], {"license": {"name": "see COPYING"}}),
        (["Classifier: Topic :: Software"], None),
    ],
)
def test_licences_are_told_as_precisely_as_packages_do(
    tmp_path: Path, metadata: list[str], expected: dict[str, object] | None
) -> None:
    package = Package.read(stored(tmp_path, "a", "1", *metadata))
    assert package.licences == ([] if expected is None else [expected])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_wheel_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a-1-py3-none-any.whl").write_bytes(content)
    with pytest.raises(ValueError, match=r"a-1-py3-none-any\.whl: not a wheel"):
        Package.read(tmp_path / "a-1-py3-none-any.whl")
