//! The access logs of all proxies of a mesh, read as they grow.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;

/// A longer line is passed over: no access log line comes near it.
const LINE_LIMIT_BYTES: usize = 256 << 10;

/// What is read of one file at a time; the rest comes next time.
const STEP_BYTES: u64 = 4 << 20;

/// `FOLDER/NAMESPACE/POD/proxy.log`, with how far each was read.
#[derive(Debug)]
pub(super) struct Logs {
    folder: PathBuf,
    files: BTreeMap<PathBuf, Position>,
}

#[derive(Debug, Default)]
struct Position {
    offset: u64,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
}

impl Logs {
    /// `from_start`: what is there already counts as new.
    pub(super) fn open(folder: PathBuf, from_start: bool) -> anyhow::Result<Self> {
        let mut logs = Self { folder, files: BTreeMap::new() };
        if !from_start {
            for path in logs.paths()? {
                let offset = fs::metadata(&path).map(|metadata| metadata.len()).unwrap_or(0);
                logs.files.insert(path, Position { offset, rest: Vec::new() });
            }
        }
        Ok(logs)
    }

    /// The records that came since the last call, by time. Other lines, such as a proxy's own messages, are passed over.
    pub(super) fn read(&mut self) -> anyhow::Result<Vec<Value>> {
        let mut records = Vec::new();
        for path in self.paths()? {
            let position = self.files.entry(path.clone()).or_default();
            position.read(&path, &mut records).with_context(|| format!("cannot read `{}`", path.display()))?;
        }
        records.sort_by_key(time);
        Ok(records)
    }

    fn paths(&self) -> anyhow::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for namespace in folders(&self.folder)? {
            for pod in folders(&namespace)? {
                let path = pod.join("proxy.log");
                if path.is_file() {
                    paths.push(path);
                }
            }
        }
        Ok(paths)
    }
}

impl Position {
    fn read(&mut self, path: &Path, records: &mut Vec<Value>) -> std::io::Result<()> {
        let mut file = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        // A shorter file is a new one.
        if file.metadata()?.len() < self.offset {
            *self = Self::default();
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let read = file.take(STEP_BYTES).read_to_end(&mut self.rest)?;
        self.offset += u64::try_from(read).unwrap_or(u64::MAX);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            if self.rest.len() > LINE_LIMIT_BYTES {
                self.rest.clear();
            }
            return Ok(());
        };
        let rest = self.rest.split_off(end + 1);
        let lines = std::mem::replace(&mut self.rest, rest);
        records.extend(lines.split(|byte| *byte == b'\n').filter_map(record));
        Ok(())
    }
}

/// An access log line; `None` for anything else that a proxy writes.
fn record(line: &[u8]) -> Option<Value> {
    let value: Value = serde_json::from_slice(line).ok()?;
    let is_record = ["proxy", "direction", "reason"].iter().all(|key| value.get(key).is_some());
    is_record.then_some(value)
}

fn time(record: &Value) -> Option<jiff::Timestamp> {
    record.get("time").and_then(Value::as_str)?.parse().ok()
}

fn folders(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot read `{}`", path.display()))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(path: &str, time: u32) -> String {
        format!(
            r#"{{"time":"2026-11-21T00:00:0{time}Z","proxy":"a/b","direction":"inbound","reason":"ok","path":"{path}"}}"#
        )
    }

    fn paths(records: &[Value]) -> Vec<&str> {
        records.iter().map(|record| record["path"].as_str().unwrap()).collect()
    }

    #[test]
    fn lines_come_once_whole_and_in_the_order_of_time() {
        let folder = tempfile::tempdir().unwrap();
        let pods = ["ns/one", "ns/two"].map(|pod| folder.path().join(pod));
        pods.iter().for_each(|pod| fs::create_dir_all(pod).unwrap());
        let [one, two] = pods.map(|pod| pod.join("proxy.log"));
        fs::write(&one, format!("{}\n", record("/old", 0))).unwrap();

        let mut logs = Logs::open(folder.path().to_owned(), false).unwrap();
        assert!(logs.read().unwrap().is_empty());

        let half = record("/half", 3);
        let (begin, end) = half.split_at(20);
        fs::write(&one, format!("{}\n{}\n{begin}", record("/old", 0), record("/second", 2))).unwrap();
        fs::write(&two, format!("a message\n{}\n", record("/first", 1))).unwrap();
        assert_eq!(paths(&logs.read().unwrap()), ["/first", "/second"]);

        let whole = fs::read_to_string(&one).unwrap() + end + "\n";
        fs::write(&one, whole).unwrap();
        assert_eq!(paths(&logs.read().unwrap()), ["/half"]);
        assert!(logs.read().unwrap().is_empty());
    }

    #[test]
    fn from_the_start_means_all_of_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("ns/one")).unwrap();
        fs::write(folder.path().join("ns/one/proxy.log"), format!("{}\n", record("/old", 0))).unwrap();
        let mut logs = Logs::open(folder.path().to_owned(), true).unwrap();
        assert_eq!(paths(&logs.read().unwrap()), ["/old"]);
    }
}
