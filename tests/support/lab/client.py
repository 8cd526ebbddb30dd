"""A registry client of raw requests, for what docker and skopeo do not let a test say."""

from __future__ import annotations

import hashlib
import http.client
import json
from dataclasses import dataclass
from typing import Any

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"


def sha256(data: bytes) -> str:
    """The digest of `data`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response; the names of its headers are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def error(self) -> dict[str, Any]:
        """The first error of an error body."""
        first: dict[str, Any] = json.loads(self.body)["errors"][0]
        return first


class Client:
    """Requests to one registry on loopback, a connection each."""

    def __init__(self, port: int) -> None:
        self._port = port

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """One request; `Content_Type="..."` is sent as the header Content-Type."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            response = connection.getresponse()
            received = {key.lower(): value for key, value in response.getheaders()}
            return Answer(response.status, received, response.read())
        finally:
            connection.close()

    def start_upload(self, repository: str) -> str:
        """POST an upload session and return where it goes on."""
        answer = self.request("POST", f"/v2/{repository}/blobs/uploads/")
        assert answer.status == 202, answer
        return answer.headers["location"]

    def push_blob(self, repository: str, data: bytes) -> str:
        """POST and PUT; the digest, once it is acknowledged."""
        digest = sha256(data)
        location = self.start_upload(repository)
        separator = "&" if "?" in location else "?"
        answer = self.request("PUT", f"{location}{separator}digest={digest}", data)
        assert answer.status == 201, answer
        return digest

    def push_image(self, repository: str, tag: str, layer: bytes) -> str:
        """An image of one layer; the digest of its manifest, once it is acknowledged."""
        config = b"{}"
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": self._descriptor(CONFIG_TYPE, repository, config),
                "layers": [self._descriptor(LAYER_TYPE, repository, layer)],
            }
        ).encode()
        answer = self.request(
            "PUT", f"/v2/{repository}/manifests/{tag}", manifest, Content_Type=MANIFEST_TYPE
        )
        assert answer.status == 201, answer
        return sha256(manifest)

    def _descriptor(self, media_type: str, repository: str, data: bytes) -> dict[str, object]:
        digest = self.push_blob(repository, data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}
