"""The bill of materials of a folder of wheels, as CycloneDX (https://cyclonedx.org)."""

import hashlib
import json
import re
import uuid
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from pathlib import Path, PurePosixPath
from typing import Any

OURS = "cnnres-infer"
_MODEL = "cnnres_infer/models/cnnres/model.json"
_VIEWER = "cnnres_infer/outputs/assets/niivue/"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CLASSIFIER = "License :: OSI Approved :: "
# What older packages call a licence that has an identifier in SPDX's list.
_SPDX = {
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD 3-Clause License": "BSD-3-Clause",
    "CC BY-SA 4.0": "CC-BY-SA-4.0",
    "ISC License": "ISC",
    "MIT License": "MIT",
}
_IDENTIFIERS = {
    *_SPDX.values(),
    *("BSD-2-Clause", "LGPL-3.0-only", "LGPL-3.0-or-later", "MIT-CMU", "PSF-2.0"),
}


@dataclass(frozen=True)
class Package:
    """A wheel.

    Attributes
    ----------
    file
        Name of its file.
    name, version
        Of the package.
    sha256
        Of the file.
    licences
        Entries of a CycloneDX component.
    requires
        Normalised names of the packages that it may need.
    """

    file: str
    name: str
    version: str
    sha256: str
    licences: list[dict[str, Any]]
    requires: frozenset[str]

    @classmethod
    def read(cls, path: Path) -> "Package":
        """Read a wheel's metadata.

        Raises
        ------
        ValueError
            If it is not a wheel.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                (entry,) = (name for name in archive.namelist() if _is_metadata(name))
                text = archive.read(entry).decode("utf-8")
        except (zipfile.BadZipFile, ValueError) as error:
            raise ValueError(f"{path}: not a wheel ({error})") from error
        metadata = Parser().parsestr(text, headersonly=True)
        return cls(
            path.name,
            metadata["Name"],
            metadata["Version"],
            hashlib.sha256(path.read_bytes()).hexdigest(),
            _licences(metadata),
            _requirements(metadata),
        )

    @property
    def normalised(self) -> str:
        """Its name as package indexes spell it."""
        return re.sub(r"[-_.]+", "-", self.name).lower()


def sbom(wheels: Iterable[Path]) -> dict[str, Any]:
    """Bill of materials of wheels, one of them ours; the same for the same files.

    Parameters
    ----------
    wheels
        Their files, possibly for several platforms.

    Returns
    -------
    dict
        A CycloneDX 1.6 document: every wheel with its hash, licence and
        dependencies, and what our own wheel holds of others: weights, which have
        another licence than the code, and the viewer of the HTML report.
    """
    packages = [Package.read(path) for path in sorted(wheels)]
    (ours,) = (each for each in packages if each.normalised == OURS)
    (path,) = (path for path in wheels if path.name == ours.file)
    with zipfile.ZipFile(path) as archive:
        held = [_model(archive), *_viewer(archive)]
    others = [each for each in packages if each is not ours]
    root = _dependencies(ours, packages)
    root["dependsOn"] += [each["bom-ref"] for each in held]
    content = {
        "metadata": {"component": {**_component(ours), "type": "application"}},
        "components": [*map(_component, others), *held],
        "dependencies": [
            root,
            *(_dependencies(each, packages) for each in others),
            *({"ref": each["bom-ref"], "dependsOn": []} for each in held),
        ],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(content, sort_keys=True))
    head = {"bomFormat": "CycloneDX", "specVersion": "1.6", "serialNumber": serial.urn}
    return {"$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json", **head, **content}


def _component(package: Package) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": package.file,
        "name": package.name,
        "version": package.version,
        "purl": f"pkg:pypi/{package.normalised}@{package.version}",
        "hashes": [{"alg": "SHA-256", "content": package.sha256}],
        "licenses": package.licences,
    }


def _dependencies(package: Package, packages: list[Package]) -> dict[str, Any]:
    found = [each.file for each in packages if each.normalised in package.requires]
    return {"ref": package.file, "dependsOn": found}


def has_viewer(wheel: Path) -> bool:
    """Whether a wheel of ours was built with the viewer of the HTML report."""
    with zipfile.ZipFile(wheel) as archive:
        return bool(_viewer(archive))


def _viewer(archive: zipfile.ZipFile) -> list[dict[str, Any]]:
    """The viewer; none in a wheel that was built where it could not be fetched."""
    names = archive.namelist()
    if f"{_VIEWER}source.json" not in names:
        return []
    source = json.loads(archive.read(f"{_VIEWER}source.json"))
    if _VIEWER + PurePosixPath(source["member"]).name not in names:
        return []
    name, version = source["package"], source["version"]
    purl = f"pkg:npm/{name.replace('@', '%40')}@{version}"
    return [
        {
            "type": "library",
            "bom-ref": purl,
            "name": name,
            "version": version,
            "purl": purl,
            "hashes": [{"alg": "SHA-256", "content": source["sha256"]}],
            "licenses": [{"expression": source["licence"]}],
        }
    ]


def _model(archive: zipfile.ZipFile) -> dict[str, Any]:
    manifest = json.loads(archive.read(_MODEL))
    return {
        "type": "machine-learning-model",
        "bom-ref": f"{manifest['name']}-{manifest['version']}",
        "name": manifest["name"],
        "version": manifest["version"],
        "hashes": [{"alg": "SHA-256", "content": manifest["sha256"][manifest["variants"]["fp32"]]}],
        "licenses": [_licence(manifest["weights_licence"])],
        "modelCard": {
            "modelParameters": {
                "task": "segmentation",
                "datasets": [
                    {"type": "dataset", "name": each["name"], "description": each["licence"]}
                    for each in manifest["training"]["data"]
                ],
            }
        },
    }


def _licences(metadata: Message) -> list[dict[str, Any]]:
    """What a package says of its licence, most precise first; it may say nothing."""
    if expression := metadata["License-Expression"]:
        return [{"expression": expression}]
    classifiers = [
        text.removeprefix(_CLASSIFIER)
        for text in metadata.get_all("Classifier", [])
        if text.startswith(_CLASSIFIER)
    ]
    stated = (metadata["License"] or "").strip().splitlines()[:1]
    named = [text for text in stated if text in _SPDX or text in _IDENTIFIERS]
    return [_licence(text) for text in named or classifiers or stated]


def _licence(text: str) -> dict[str, Any]:
    identifier = _SPDX.get(text, text)
    return {"license": {"id" if identifier in _IDENTIFIERS else "name": identifier}}


def _requirements(metadata: Message) -> frozenset[str]:
    """Names in ``Requires-Dist``; of other packages, without those of their extras."""
    ours = metadata["Name"] == OURS
    found = set()
    for text in metadata.get_all("Requires-Dist", []):
        requirement, _, marker = text.partition(";")
        name = _NAME.match(requirement.strip())
        if name and (ours or "extra" not in marker):
            found.add(re.sub(r"[-_.]+", "-", name[0]).lower())
    return frozenset(found)


def _is_metadata(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return len(parts) == 2 and parts[0].endswith(".dist-info") and parts[1] == "METADATA"
