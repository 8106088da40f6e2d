"""The loopback server with the real client. Other tests rely on what these tests show."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import timedelta
from hashlib import md5
from http.client import HTTPException, IncompleteRead
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.sdk.artifacts.artifact_manifest_entry import ArtifactManifestEntry

from wandb_server import API_KEY, ENTITY, RemoteServer, Server
from wandb_server.executor import GraphQLError, Node, execute, read_request

pytestmark = pytest.mark.wandb

PROJECT = "lamina-tests"


def b64_md5(content: bytes) -> str:
    return base64.b64encode(md5(content).digest()).decode()


def log(run: Any, name: str, files: dict[str, bytes], folder: Path, **given: Any) -> Any:
    """Log a version the stock way and wait until the server has it."""
    aliases = given.pop("aliases", None)
    artifact = wandb.Artifact(name, "model", **given)
    for path, content in files.items():
        source = folder / md5(content).hexdigest()
        source.write_bytes(content)
        artifact.add_file(str(source), path)
    run.log_artifact(artifact, aliases=aliases)
    return artifact.wait(timeout=30)


def hand_made(name: str, entries: list[ArtifactManifestEntry]) -> Any:
    artifact = wandb.Artifact(name, "model")
    for entry in entries:
        artifact.manifest.add_entry(entry)
    return artifact


def known_entry(path: str, content: bytes, folder: Path, digest: str | None = None) -> ArtifactManifestEntry:
    source = folder / f"source-{md5(content).hexdigest()}"
    source.write_bytes(content)
    return ArtifactManifestEntry(
        path=path,
        digest=digest or b64_md5(content),
        size=len(content),
        local_path=str(source),
        skip_cache=True,
    )


def carried_entry(path: str, content: bytes, birth: str) -> ArtifactManifestEntry:
    return ArtifactManifestEntry(path=path, digest=b64_md5(content), size=len(content), birth_artifact_id=birth)


def fetch(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        return response.status, dict(response.headers), response.read()


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    token = base64.b64encode(f"api:{API_KEY}".encode()).decode()
    headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        return dict(json.load(response))


def graphql(server: Server, query: str, **variables: Any) -> dict[str, Any]:
    """Send a request like the client, and return the whole answer."""
    return post(f"{server.url}/graphql", {"query": query, "variables": variables})


def put(url: str, content: bytes) -> str:
    request = urllib.request.Request(url, content, method="PUT")
    with urllib.request.urlopen(request, timeout=30) as response:
        return str(response.headers["ETag"])


# --- runs ------------------------------------------------------------------------------------------


def test_online_run_leaves_history_summary_and_files(wandb_online: Server) -> None:
    run = wandb.init(config={"lr": 0.5}, tags=["a"], group="g")
    for step in range(5):
        run.log({"loss": step / 2, "epoch": step})
    run.summary["best"] = 7
    run.finish()
    store = wandb_online.store
    assert [row["loss"] for row in store.history(run.id)] == [0, 0.5, 1, 1.5, 2]
    assert store.summary(run.id)["best"] == 7
    view = store.run(run.id)
    assert (view.state, view.exit_code, view.config, view.tags, view.group) == (
        "finished",
        0,
        {"lr": 0.5},
        ["a"],
        "g",
    )
    assert b"loss" in store.run_file(run.id, "wandb-summary.json")
    assert wandb_online.errors == []


def test_api_reads_a_run(wandb_online: Server) -> None:
    run = wandb.init(config={"lr": 0.5})
    run.log({"loss": 1.0})
    run.log({"loss": 0.5})
    run.finish()
    api = wandb.Api()
    found = api.run(f"{ENTITY}/{PROJECT}/{run.id}")
    assert found.state == "finished"
    assert found.config == {"lr": 0.5}
    assert found.summary["loss"] == 0.5
    assert [row["loss"] for row in found.history(pandas=False)] == [1.0, 0.5]
    assert [row["loss"] for row in found.scan_history()] == [1.0, 0.5]
    assert "config.yaml" in {file.name for file in found.files()}
    assert [item.id for item in api.runs(f"{ENTITY}/{PROJECT}")] == [run.id]
    assert wandb_online.errors == []


def test_resumed_run_goes_on_where_it_stopped(wandb_online: Server) -> None:
    with wandb.init(id="again") as run:
        run.log({"x": 1})
    with wandb.init(id="again", resume="must") as run:
        assert run.resumed
        run.log({"x": 2})
    assert [(row["_step"], row["x"]) for row in wandb_online.store.history("again")] == [(0, 1), (1, 2)]


def test_exit_code_makes_a_failed_run(wandb_online: Server) -> None:
    run = wandb.init()
    run.finish(exit_code=3)
    assert wandb_online.store.run(run.id).state == "failed"


# --- artifacts: writing ------------------------------------------------------------------------------


def test_second_version_uploads_only_what_is_new(wandb_online: Server, tmp_path: Path) -> None:
    with wandb.init() as run:
        first = log(run, "m", {"a": b"a" * 100, "b": b"b" * 200}, tmp_path)
        wandb_online.reset_counters()
        second = log(run, "m", {"a": b"a" * 100, "b": b"b" * 200, "c": b"c" * 300}, tmp_path, metadata={"n": 2})
    assert (first.version, second.version) == ("v0", "v1")
    uploads = wandb_online.counters.total("artifacts/*")
    assert (uploads.puts, uploads.put_bytes) == (1, 300)
    view = wandb_online.store.artifact("m:latest")
    births = {path: entry.birth_artifact_id for path, entry in view.entries.items()}
    assert births == {"a": first.id, "b": first.id, "c": second.id}
    assert (view.version, view.metadata, view.created_by) == ("v1", {"n": 2}, run.id)
    assert wandb_online.store.file_bytes("m:v1", "a") == b"a" * 100


def test_same_content_is_the_same_version_and_takes_the_aliases(wandb_online: Server, tmp_path: Path) -> None:
    with wandb.init() as run:
        first = log(run, "m", {"a": b"1"}, tmp_path)
        log(run, "m", {"a": b"2"}, tmp_path)
        again = log(run, "m", {"a": b"1"}, tmp_path, aliases=["back"])
    assert again.id == first.id
    assert wandb_online.store.artifact("m:v0").aliases == ["back", "latest"]
    assert len(wandb_online.store.artifacts("m")) == 2


def test_dedup_policies(wandb_online: Server, tmp_path: Path) -> None:
    expected = {"sequence": 0, "latest": 1, "entity": 0, "none": 1}
    with wandb.init() as run:
        for policy, puts in expected.items():
            wandb_online.store.policy.dedup = policy
            log(run, policy, {"a": policy.encode()}, tmp_path)
            log(run, policy, {"b": policy.encode() * 2}, tmp_path)
            wandb_online.reset_counters()
            log(run, policy, {"c": policy.encode()}, tmp_path)
            assert wandb_online.counters.total().puts == puts, policy


def test_known_md5_is_not_read_staged_or_cached(wandb_online: Server, tmp_path: Path) -> None:
    content = os.urandom(1000)
    with wandb.init() as run:
        run.log_artifact(hand_made("m", [known_entry("packs/p", content, tmp_path)])).wait()
    assert wandb_online.store.file_bytes("m:latest", "packs/p") == content
    assert wandb_online.counters.named("packs/p").put_bytes == 1000
    kept = [path for path in (tmp_path / "wandb-client").rglob("*") if path.is_file()]
    assert kept, "the client keeps its files elsewhere"
    assert [path for path in kept if path.stat().st_size == 1000] == []


def test_wrong_md5_is_refused_by_the_bucket(wandb_online: Server, tmp_path: Path) -> None:
    entry = known_entry("p", b"real", tmp_path, digest=b64_md5(b"claimed"))
    with wandb.init() as run, pytest.raises(ValueError, match="upload"):
        run.log_artifact(hand_made("m", [entry])).wait()
    assert wandb_online.counters.named("p").puts == 0
    assert wandb_online.store.artifacts("m") == []


def test_carried_entry_costs_no_request(wandb_online: Server, tmp_path: Path) -> None:
    old, new = b"old" * 50, b"new" * 60
    with wandb.init() as run:
        first = run.log_artifact(hand_made("m", [known_entry("old", old, tmp_path)])).wait()
        wandb_online.reset_counters()
        entries = [carried_entry("old", old, first.id), known_entry("new", new, tmp_path)]
        run.log_artifact(hand_made("m", entries)).wait()
    (asked,) = [item for item in wandb_online.operations if item.name == "CreateArtifactFiles"]
    assert [file["name"] for file in asked.variables["input"]["artifactFiles"]] == ["new"]
    assert wandb_online.counters.total().put_bytes == len(new)
    assert wandb_online.store.artifact("m:v1").entries["old"].birth_artifact_id == first.id
    assert wandb_online.store.file_bytes("m:v1", "old") == old


def test_carried_entry_without_a_stored_file_is_refused(wandb_online: Server, tmp_path: Path) -> None:
    with wandb.init() as run:
        first = run.log_artifact(hand_made("m", [known_entry("a", b"a", tmp_path)])).wait()
        draft = hand_made("m", [carried_entry("b", b"never stored", first.id)])
        with pytest.raises(ValueError, match="never stored"):
            run.log_artifact(draft).wait()
    assert len(wandb_online.store.pending("m")) == 1


def test_new_draft_keeps_what_it_does_not_touch(wandb_online: Server, tmp_path: Path) -> None:
    (tmp_path / "extra").write_bytes(b"extra")
    with wandb.init() as run:
        first = log(run, "m", {"a": b"a", "b": b"b"}, tmp_path)
        draft = first.new_draft()
        draft.remove("a")
        draft.add_file(str(tmp_path / "extra"), "extra")
        wandb_online.reset_counters()
        run.log_artifact(draft).wait()
    assert set(wandb_online.store.artifact("m:v1").entries) == {"b", "extra"}
    assert wandb_online.counters.total().puts == 1


def test_incremental_version_stands_on_its_base(wandb_online: Server, tmp_path: Path) -> None:
    with wandb.init() as run:
        log(run, "m", {"a": b"a", "b": b"b"}, tmp_path)
        log(run, "m", {"b": b"changed", "c": b"c"}, tmp_path, incremental=True)
        found = wandb.Api().artifact(f"{ENTITY}/{PROJECT}/m:v1")
        assert set(found.manifest.entries) == {"a", "b", "c"}
    assert wandb_online.store.file_bytes("m:v1", "b") == b"changed"


def test_upserts_are_merged_when_finished(wandb_online: Server, tmp_path: Path) -> None:
    def part(name: str, content: bytes) -> Any:
        artifact = wandb.Artifact("m", "model")
        (tmp_path / name).write_bytes(content)
        artifact.add_file(str(tmp_path / name), name)
        return artifact

    with wandb.init(group="g") as run:
        run.upsert_artifact(part("rank0", b"0"), distributed_id="d").wait()
        assert [item.state for item in wandb_online.store.pending("m")] == ["PENDING"]
        run.upsert_artifact(part("rank1", b"1"), distributed_id="d").wait()
        run.finish_artifact(part("last", b"2"), distributed_id="d").wait()
        run.upsert_artifact(part("rank0", b"9"), distributed_id="d").wait()
    (view,) = wandb_online.store.artifacts("m")
    assert set(view.entries) == {"rank0", "rank1", "last"}
    assert len(wandb_online.store.pending("m")) == 1, "an upsert after the end begins a new version"


def test_multipart_upload_by_hand(wandb_server: Server) -> None:
    """The client splits files from 2 GiB on, without a setting for it, so this test sends the requests itself."""
    graphql(wandb_server, 'mutation { upsertBucket(input: {name: "r", modelName: "p"}) { bucket { id } } }')
    parts = [b"x" * 1000, b"y" * 500]
    whole = b"".join(parts)
    created = graphql(
        wandb_server,
        "mutation Create($input: Input!) { createArtifact(input: $input) { artifact { id } } }",
        input={
            "entityName": ENTITY,
            "projectName": "p",
            "artifactTypeName": "model",
            "artifactCollectionName": "m",
            "digest": "d",
        },
    )
    artifact_id = created["data"]["createArtifact"]["artifact"]["id"]
    wanted = [{"partNumber": n, "hexMD5": md5(part).hexdigest()} for n, part in enumerate(parts, 1)]
    answer = graphql(
        wandb_server,
        """mutation Files($files: [F!]!) { createArtifactFiles(input: {artifactFiles: $files}) {
        files { edges { node { storagePath uploadUrl
        uploadMultipartUrls { uploadID uploadUrlParts { partNumber uploadUrl } } } } } } }""",
        files=[{"artifactID": artifact_id, "name": "big", "md5": b64_md5(whole), "uploadPartsInput": wanted}],
    )
    node = answer["data"]["createArtifactFiles"]["files"]["edges"][0]["node"]
    urls = node["uploadMultipartUrls"]["uploadUrlParts"]
    with pytest.raises(urllib.error.HTTPError, match="400"):
        put(urls[0]["uploadUrl"], b"something else")
    tags = [put(url["uploadUrl"], part) for url, part in zip(urls, parts, strict=True)]
    done = graphql(
        wandb_server,
        """mutation Done($id: ID!, $parts: [P!]!, $path: String!, $upload: String!) {
        completeMultipartUploadArtifact(input: {completeMultipartAction: Complete, completedParts: $parts,
        artifactID: $id, storagePath: $path, uploadID: $upload}) { digest } }""",
        id=artifact_id,
        parts=[{"partNumber": n, "hexMD5": tag} for n, tag in enumerate(tags, 1)],
        path=node["storagePath"],
        upload=node["uploadMultipartUrls"]["uploadID"],
    )
    assert done["data"]["completeMultipartUploadArtifact"]["digest"] == b64_md5(whole)
    assert wandb_server.store.stored_files() == [node["storagePath"]]


# --- artifacts: reading and editing ------------------------------------------------------------------


def test_edits_are_kept_and_read_back(wandb_online: Server, tmp_path: Path) -> None:
    with wandb.init() as run:
        log(run, "m", {"a": b"1"}, tmp_path, aliases=["best"], metadata={"k": 1})
        log(run, "m", {"a": b"2"}, tmp_path, aliases=["best"])
    api = wandb.Api()
    artifact = api.artifact(f"{ENTITY}/{PROJECT}/m:v0")
    assert artifact.aliases == []
    artifact.aliases.append("best")
    artifact.tags = ["good one"]
    artifact.description = "words"
    artifact.metadata["k"] = 2
    artifact.ttl = timedelta(days=2)
    artifact.save()
    view = wandb_online.store.artifact("m:best")
    assert (view.version, view.tags, view.description, view.metadata) == (
        "v0",
        ["good one"],
        "words",
        {"k": 2},
    )
    assert view.ttl == timedelta(days=2)
    assert wandb_online.store.artifact("m:v1").aliases == ["latest"]
    again = wandb.Api().artifact(f"{ENTITY}/{PROJECT}/m:best")
    assert (again.tags, again.ttl, again.metadata) == (["good one"], timedelta(days=2), {"k": 2})
    again.aliases.remove("best")
    again.tags = []
    again.ttl = None
    again.save()
    view = wandb_online.store.artifact("m:v0")
    assert (view.aliases, view.tags) == ([], [])
    assert (view.ttl, view.ttl_inherited) == (None, False)
    again.ttl = wandb.ArtifactTTL.INHERIT
    again.save()
    assert wandb_online.store.artifact("m:v0").ttl_inherited
    assert wandb_online.errors == []


def test_download_and_verify(wandb_online: Server, tmp_path: Path) -> None:
    content = os.urandom(5000)
    with wandb.init() as run:
        log(run, "m", {"packs/a b+%.bin": content, "empty": b""}, tmp_path)
    artifact = wandb.Api().artifact(f"{ENTITY}/{PROJECT}/m:latest")
    root = Path(artifact.download(root=str(tmp_path / "out")))
    artifact.verify(str(root))
    assert (root / "packs" / "a b+%.bin").read_bytes() == content
    alone = artifact.get_entry("empty").download(root=str(tmp_path / "alone"))
    assert Path(alone).read_bytes() == b""
    assert wandb_online.errors == []


def test_corrupted_download_is_only_seen_by_verify(wandb_online: Server, tmp_path: Path) -> None:
    with wandb.init() as run:
        log(run, "m", {"a": b"content"}, tmp_path)
    (tmp_path / "wandb-client" / "cache").rename(tmp_path / "old-cache")
    wandb_online.inject(method="GET", path="*/a", corrupt=True)
    artifact = wandb.Api().artifact(f"{ENTITY}/{PROJECT}/m:latest")
    root = artifact.download(root=str(tmp_path / "out"))
    assert (Path(root) / "a").stat().st_size == len(b"content")
    with pytest.raises(ValueError, match="Digest mismatch"):
        artifact.verify(root)


def test_ranges_of_direct_urls(wandb_online: Server, tmp_path: Path) -> None:
    content = os.urandom(1000)
    with wandb.init() as run:
        log(run, "m", {"a": content, "b": b"b"}, tmp_path)
    artifact = wandb.Api().artifact(f"{ENTITY}/{PROJECT}/m:latest")
    (file,) = artifact.files(names=["a"])
    wandb_online.reset_counters()
    status, headers, body = fetch(file.direct_url, Range="bytes=100-299")
    assert (status, body) == (206, content[100:300])
    assert (headers["Content-Length"], headers["Content-Range"]) == ("200", "bytes 100-299/1000")
    assert fetch(file.direct_url, Range="bytes=900-")[2] == content[900:]
    assert fetch(file.direct_url, Range="bytes=-10")[2] == content[-10:]
    assert fetch(file.direct_url)[0] == 200
    with pytest.raises(urllib.error.HTTPError, match="416"):
        fetch(file.direct_url, Range="bytes=1000-")
    counter = wandb_online.counters.named("a")
    assert (counter.gets, counter.get_bytes) == (4, 200 + 100 + 10 + 1000)
    assert counter.ranges == [(100, 300), (900, 1000), (990, 1000), (0, 1000)]


def test_broken_download_gives_exactly_so_many_bytes(wandb_online: Server, tmp_path: Path) -> None:
    content = os.urandom(1 << 20)
    with wandb.init() as run:
        log(run, "m", {"a": content}, tmp_path)
    (file,) = wandb.Api().artifact(f"{ENTITY}/{PROJECT}/m:latest").files()
    fault = wandb_online.inject(method="GET", path="*/a", reset_after=700_000)
    with pytest.raises(IncompleteRead) as broken:
        fetch(file.direct_url)
    assert (fault.hits, broken.value.partial) == (1, content[:700_000])
    rest = fetch(file.direct_url, Range="bytes=700000-")[2]
    assert rest == content[700_000:]


def test_files_come_in_pages_and_by_name(wandb_online: Server, tmp_path: Path) -> None:
    files = {f"f{n}": bytes([n]) for n in range(7)}
    with wandb.init() as run:
        log(run, "m", files, tmp_path)
    artifact = wandb.Api().artifact(f"{ENTITY}/{PROJECT}/m:latest")
    assert {file.name for file in artifact.files(per_page=3)} == set(files)
    assert [file.name for file in artifact.files(names=["f5", "f1"])] == ["f1", "f5"]
    assert wandb_online.count("ArtifactMembershipFiles") == 4


def test_lineage_and_listings(wandb_online: Server, tmp_path: Path) -> None:
    with wandb.init() as maker:
        log(maker, "m", {"a": b"1"}, tmp_path)
        log(maker, "m", {"a": b"2"}, tmp_path)
    with wandb.init() as user:
        used = user.use_artifact("m:v0")
        assert used.type == "model"
    api = wandb.Api()
    assert [item.version for item in api.artifacts("model", f"{ENTITY}/{PROJECT}/m")] == ["v1", "v0"]
    assert [item.name for item in api.run(f"{PROJECT}/{maker.id}").logged_artifacts()] == ["m:v0", "m:v1"]
    assert [item.name for item in api.run(f"{PROJECT}/{user.id}").used_artifacts()] == ["m:v0"]
    artifact = api.artifact(f"{PROJECT}/m:v0")
    assert artifact.logged_by().id == maker.id
    assert [item.id for item in artifact.used_by()] == [user.id]
    assert wandb_online.store.artifact("m:v0").used_by == [user.id]
    assert api.artifact_exists(f"{PROJECT}/m:v1")
    assert not api.artifact_exists(f"{PROJECT}/m:v2")
    assert [item.name for item in api.artifact_type("model", PROJECT).collections()] == ["m"]
    assert wandb_online.errors == []


def test_delete_keeps_shared_files(wandb_online: Server, tmp_path: Path) -> None:
    with wandb.init() as run:
        first = log(run, "m", {"shared": b"shared", "own": b"own"}, tmp_path)
        log(run, "m", {"shared": b"shared", "next": b"next"}, tmp_path)
        wandb.Api().artifact(f"{PROJECT}/m:v0").delete()
        assert len(wandb_online.store.stored_files()) == 2
        assert wandb_online.store.file_bytes("m:v1", "shared") == b"shared"
        with pytest.raises(ValueError, match="never stored"):
            run.log_artifact(hand_made("m", [carried_entry("own", b"own", first.id)])).wait()
        latest = wandb.Api().artifact(f"{PROJECT}/m:v1")
        with pytest.raises(wandb.errors.CommError, match="aliases"):
            latest.delete()
        latest.delete(delete_aliases=True)
        third = log(run, "m", {"last": b"last"}, tmp_path)
    assert third.version == "v2", "version numbers are not used again"
    assert [item.version for item in wandb_online.store.artifacts("m")] == ["v2"]
    assert len(wandb_online.store.stored_files()) == 1


def test_latest_falls_back_when_it_is_deleted(wandb_online: Server, tmp_path: Path) -> None:
    with wandb.init() as run:
        log(run, "m", {"a": b"1"}, tmp_path)
        log(run, "m", {"a": b"2"}, tmp_path)
    wandb.Api().artifact(f"{PROJECT}/m:latest").delete(delete_aliases=True)
    assert wandb_online.store.artifact("m:latest").version == "v0"


def test_links_have_numbers_and_aliases_of_their_own(wandb_online: Server, tmp_path: Path) -> None:
    with wandb.init() as run:
        log(run, "m", {"a": b"1"}, tmp_path)
        second = log(run, "m", {"a": b"2"}, tmp_path)
        linked = run.link_artifact(second, f"{PROJECT}/portfolio", aliases=["prod"])
        assert linked.version == "v0"
    found = wandb.Api().artifact(f"{PROJECT}/portfolio:prod")
    assert (found.source_version, found.is_link) == ("v1", True)
    root = found.download(root=str(tmp_path / "out"))
    assert (Path(root) / "a").read_bytes() == b"2"
    found.unlink()
    assert wandb_online.store.artifacts("portfolio") == []
    assert wandb_online.store.artifact("m:v1").version == "v1"


def test_registry_link(wandb_online: Server, tmp_path: Path) -> None:
    with wandb.init() as run:
        artifact = log(run, "m", {"a": b"1"}, tmp_path)
        run.link_artifact(artifact, "wandb-registry-model/best")
    assert wandb_online.store.artifact("wandb-registry-model/best:latest").entries["a"].size == 1
    assert wandb_online.errors == []


# --- trouble -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", [{"status": 500}, {"status": 503}, {"reset_after": 1000}])
def test_failed_put_is_retried(wandb_online: Server, tmp_path: Path, trouble: dict[str, int]) -> None:
    fault = wandb_online.inject(method="PUT", path="*/packs/*", **trouble)  # type: ignore[arg-type]
    with wandb.init() as run:
        log(run, "m", {"packs/p": b"p" * 5000}, tmp_path)
    assert fault.hits == 1
    counter = wandb_online.counters.named("packs/p")
    assert (counter.put_attempts, counter.puts) == (2, 1)
    assert wandb_online.store.file_bytes("m:latest", "packs/p") == b"p" * 5000


@pytest.mark.parametrize("operation", ["CreateArtifact", "CreateArtifactManifest", "CommitArtifact"])
def test_lost_answer_does_not_make_a_second_version(wandb_online: Server, tmp_path: Path, operation: str) -> None:
    wandb_online.inject(operation=operation, reset_after=0)
    with wandb.init() as run:
        assert log(run, "m", {"a": b"a"}, tmp_path).version == "v0"
    assert wandb_online.count(operation) > 1
    assert len(wandb_online.store.artifacts("m")) == 1
    assert wandb_online.store.pending("m") == []


def test_graphql_error_ends_the_save(wandb_online: Server, tmp_path: Path) -> None:
    wandb_online.inject(operation="CommitArtifact", error="no more space")
    with wandb.init() as run, pytest.raises(ValueError, match="no more space"):
        log(run, "m", {"a": b"a"}, tmp_path)
    assert wandb_online.errors == ["CommitArtifact: no more space"]


def test_delay_is_felt(wandb_online: Server, tmp_path: Path) -> None:
    wandb_online.inject(operation="ArtifactType", delay=0.3)
    with wandb.init() as run:
        begin = time.monotonic()
        artifact = wandb.Artifact("m", "model")
        run.log_artifact(artifact)
        assert time.monotonic() - begin >= 0.3


def test_upload_that_was_corrupted_in_the_bucket(wandb_online: Server, tmp_path: Path) -> None:
    wandb_online.inject(method="PUT", path="*/a", corrupt=True)
    with wandb.init() as run:
        log(run, "m", {"a": b"abc"}, tmp_path)
    assert wandb_online.store.file_bytes("m:latest", "a") == bytes([ord("a") ^ 0xFF]) + b"bc"


def test_unknown_field_is_an_error_and_on_record(wandb_server: Server) -> None:
    answer = graphql(wandb_server, "query Odd { viewer { shoeSize } }")
    assert answer["data"] is None
    assert wandb_server.errors == ['Odd: Cannot query field "shoeSize" on type "User".']


def test_key_is_asked_for(wandb_server: Server) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        fetch(f"{wandb_server.url}/graphql", Authorization="Basic " + base64.b64encode(b"api:short").decode())


def test_bandwidth_limits(wandb_online: Server, tmp_path: Path) -> None:
    content = os.urandom(1 << 20)
    with wandb.init() as run:
        log(run, "m", {"a": content}, tmp_path)
    (file,) = wandb.Api().artifact(f"{PROJECT}/m:latest").files()
    for limit in ({"per_connection": 4 << 20}, {"total": 4 << 20}):
        wandb_online.limit(**limit)
        begin = time.monotonic()
        assert fetch(file.direct_url)[2] == content
        assert 0.2 < time.monotonic() - begin < 5


def test_restart_in_mid_run(wandb_online: Server, tmp_path: Path) -> None:
    with wandb.init() as run:
        run.log({"x": 0})
        log(run, "m", {"a": b"a"}, tmp_path)
        wandb_online.restart()
        run.log({"x": 1})
        second = log(run, "m", {"a": b"a", "b": b"b"}, tmp_path)
    assert second.version == "v1"
    assert [row["x"] for row in wandb_online.store.history(run.id)] == [0, 1]
    assert wandb_online.store.artifact("m:v1").created_by == run.id


def test_down_and_up_again(wandb_online: Server, tmp_path: Path) -> None:
    with wandb.init() as run:
        log(run, "m", {"a": b"a"}, tmp_path)
        wandb_online.down = True
        with pytest.raises((OSError, HTTPException)):
            fetch(f"{wandb_online.url}/storage/x")
        (tmp_path / "b").write_bytes(b"b")
        entry = known_entry("b", b"b", tmp_path)
        run.log({"x": 1})
        wandb_online.down = False
        run.log_artifact(hand_made("m", [entry])).wait()
    assert len(wandb_online.store.artifacts("m")) == 2
    assert wandb_online.store.history(run.id)[0]["x"] == 1


def test_new_server_on_an_old_folder(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        graphql(server, 'mutation { upsertBucket(input: {name: "r", modelName: "p"}) { bucket { id } } }')
    with Server(tmp_path) as server:
        assert [run.id for run in server.store.runs] == ["r"]


@pytest.mark.parametrize("trouble", [{"status": 500}, {"reset_after": 0}])
def test_failed_file_stream_is_sent_again(wandb_online: Server, trouble: dict[str, int]) -> None:
    fault = wandb_online.inject(path="*/file_stream", **trouble)  # type: ignore[arg-type]
    with wandb.init() as run:
        run.log({"x": 1})
        run.log({"x": 2})
    assert fault.hits == 1
    assert [row["x"] for row in wandb_online.store.history(run.id)] == [1, 2]


def test_repeated_rows_change_nothing(wandb_server: Server) -> None:
    graphql(wandb_server, 'mutation { upsertBucket(input: {name: "r", modelName: "p"}) { bucket { id } } }')
    for offset, rows in ((0, [1]), (1, [2, 3]), (1, [2, 3]), (0, [1])):
        chunk = {"offset": offset, "content": [json.dumps({"x": x}) for x in rows]}
        post(f"{wandb_server.url}/files/{ENTITY}/p/r/file_stream", {"files": {"wandb-history.jsonl": chunk}})
    assert [row["x"] for row in wandb_server.store.history("r")] == [1, 2, 3]


def test_server_in_a_process_of_its_own(tmp_path: Path) -> None:
    with RemoteServer(tmp_path / "server") as server:
        environment = {**os.environ, **server.environment(tmp_path / "client")}
        code = "import wandb; run = wandb.init(); run.log({'x': 1}); run.finish()"
        subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
        assert server.call("total", pattern="runs/*")["puts"] > 0
        server.call("limit", per_connection=1e6)
        server.call("inject", method="GET", status=418)
        with pytest.raises(urllib.error.HTTPError, match="418"):
            fetch(f"{server.url}/storage/x")
        assert server.call("count", operation="UpsertBucket") > 0
        assert server.call("errors") == []
    with Server(tmp_path / "server") as again:
        assert again.store.runs[0].state == "finished"


# --- offline -------------------------------------------------------------------------------------------


OFFLINE = """
import sys, wandb
run = wandb.init(mode="offline", id="off")
for step in range(3):
    run.log({"x": step})
for version in range(2):
    artifact = wandb.Artifact("m", "model")
    for name in sys.argv[1 : 2 + version]:
        artifact.add_file(name, name.rsplit("/")[-1], policy="immutable", skip_cache=True)
    run.log_artifact(artifact, aliases=[f"epoch_{version}"])
run.finish()
"""


def test_offline_run_and_sync(wandb_server: Server, tmp_path: Path) -> None:
    environment = {**os.environ, **wandb_server.environment(tmp_path / "client")}
    names = [tmp_path / "a", tmp_path / "b"]
    for name in names:
        name.write_bytes(name.name.encode() * 100)
    subprocess.run([sys.executable, "-c", OFFLINE, *names], env=environment, check=True, timeout=60)
    assert wandb_server.operations == []
    (folder,) = (tmp_path / "client" / "wandb").glob("offline-run-*")
    subprocess.run([sys.executable, "-m", "wandb", "sync", folder], env=environment, check=True, timeout=60)
    assert [row["x"] for row in wandb_server.store.history("off")] == [0, 1, 2]
    versions = wandb_server.store.artifacts("m")
    assert [(item.version, item.aliases, set(item.entries)) for item in versions] == [
        ("v0", ["epoch_0"], {"a"}),
        ("v1", ["epoch_1", "latest"], {"a", "b"}),
    ]
    assert wandb_server.counters.total().puts == 2
    assert wandb_server.errors == []


# --- the executor by itself ------------------------------------------------------------------------------


def test_executor_walks_fragments_directives_and_defaults() -> None:
    text = """
    query Q($n: Int = 2, $no: Boolean = false, $unset: String) {
      first: thing(n: $n, extra: {a: $unset, b: [1, "x", true, null]}) {
        ...F ... on Other { nope } inner { a }
      }
      thing(n: 5) @include(if: $no) { id }
    }
    fragment F on Thing { __typename id inner { b } skipped @skip(if: true) }
    """
    seen: list[Any] = []

    def thing(**given: Any) -> Node:
        seen.append(given)
        return Node("Thing", {"id": given["n"], "inner": [Node("Inner", {"a": 1, "b": lambda: 2})]})

    answer = execute(read_request(text, {}), {"thing": thing})
    assert answer == {"first": {"__typename": "Thing", "id": 2, "inner": [{"b": 2, "a": 1}]}}
    assert seen == [{"n": 2, "extra": {"b": [1, "x", True, None]}}]


@pytest.mark.parametrize("text", ["query {", "{ a } { b }", "{ thing }", "{ thing { ...Lost } }", "{ other }"])
def test_executor_refuses(text: str) -> None:
    with pytest.raises(GraphQLError):
        execute(read_request(text, None), {"thing": lambda: Node("Thing")})
