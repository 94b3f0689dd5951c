"""Read back what an offline wandb run left on disk."""

import json
import struct
import time


def offline_runs(run_dir):
    """Records of each sitting in the order of time: run, settings, history, summary, files that lie there."""
    folders = sorted((run_dir / "wandb").glob("offline-run-*"))
    return [read_offline(folder) for folder in folders]


def log_entries(content):
    """Entries of a LevelDB log, as wandb writes it after 7 bytes of its own (google/leveldb, doc/log_format.md)."""
    block, entry, place = 32768, b"", 7
    while place + 7 <= len(content):
        left = block - place % block
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        entry += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield entry
            entry = b""


def read_offline(folder):
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("run-*.wandb")
    # wandb's own process may close the file a moment after finish() has returned.
    deadline = time.monotonic() + 30
    while True:
        records = [Record.FromString(data) for data in log_entries(path.read_bytes())]
        if any(record.HasField("exit") for record in records) or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    found = {"folder": folder, "config": {}, "history": [], "summary": {}, "run": None}
    for record in records:
        if record.HasField("run"):
            found["run"] = record.run
            update(found["config"], record.run.config.update)
        if record.HasField("config"):
            update(found["config"], record.config.update)
        if record.HasField("history"):
            row = {}
            update(row, record.history.item)
            found["history"].append(row)
        if record.HasField("summary"):
            update(found["summary"], record.summary.update)
    return found


def update(values, items):
    for item in items:
        key = item.key or "/".join(item.nested_key)
        values[key] = json.loads(item.value_json)


def table(found, key):
    """Columns and rows of the last table of that name."""
    place = [row[f"{key}/path"] for row in found["history"] if f"{key}/path" in row][-1]
    content = json.loads((found["folder"] / "files" / place).read_text())
    return content["columns"], content["data"]
