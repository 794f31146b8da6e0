//! `palisade wait`: until documents are true everywhere.

use std::{
    io::Read,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use http::StatusCode;
use palisade_control::{
    admin::{AskedName, StatusAnswer, StatusQuestion},
    source::files::{files_of, is_document},
};
use serde_json::json;

use crate::{
    ask,
    control::ControlOptions,
    options::{DocumentOptions, OutputFormat},
};

/// Pause between two questions.
const PAUSE: Duration = Duration::from_millis(50);

/// Laggards that are named of each object; the others are counted.
const NAMED: usize = 10;

/// Wait until objects are enforced everywhere, accepted, or programmed.
///
/// With documents (-f), it counts only when what the control plane has compiled is just what the documents say. Exit code 1 when
/// the time is over: those who lag are named.
#[derive(Debug, clap::Args)]
pub(crate) struct Wait {
    /// Objects as KIND/NAMESPACE/NAME (KIND/NAME for kinds without namespace).
    #[arg(value_name = "KIND/NS/NAME", required_unless_present = "files")]
    objects: Vec<String>,
    #[command(flatten)]
    documents: DocumentOptions,
    /// What is waited for.
    #[arg(long = "for", value_enum, default_value_t)]
    goal: Goal,
    /// How long, as `30s` or `2m`.
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "DURATION")]
    timeout: Duration,
    #[command(flatten)]
    control: ControlOptions,
    /// `text` for people, `json` for programs.
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Goal {
    /// Every connected proxy that it concerns has swapped it in.
    #[default]
    Enforced,
    /// Documents are valid and bound.
    Accepted,
    /// Gateways are served; other objects are left out.
    Programmed,
}

impl Wait {
    /// Asks until it is so, or the time is over.
    ///
    /// # Errors
    /// When the control plane cannot be asked, or documents cannot be read.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let question = serde_json::to_string(&self.question()?)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let deadline = Instant::now() + self.timeout;
        let answers = runtime.block_on(async {
            let control = self.control.reach(&self.documents.cluster).await?;
            loop {
                let answers = answers(&control.url, question.clone()).await?;
                let is_over = Instant::now() >= deadline;
                if is_over || self.open(&answers).next().is_none() {
                    return anyhow::Ok(answers);
                }
                tokio::time::sleep(PAUSE).await;
            }
        })?;
        self.report(&answers)
    }

    fn question(&self) -> anyhow::Result<StatusQuestion> {
        let DocumentOptions { files, namespace, cluster: _ } = &self.documents;
        let mut documents = String::new();
        for path in files {
            for text in texts(path)? {
                documents.push_str("---\n");
                documents.push_str(&text);
                documents.push('\n');
            }
        }
        let names = self.objects.iter().map(|object| name(object, namespace)).collect::<anyhow::Result<_>>()?;
        Ok(StatusQuestion { documents, namespace: namespace.clone(), names })
    }

    /// Of which objects it is not true yet.
    fn open<'a>(&self, answers: &'a [StatusAnswer]) -> impl Iterator<Item = &'a StatusAnswer> {
        let goal = self.goal;
        answers.iter().filter(move |answer| !goal.is_reached(answer))
    }

    fn report(&self, answers: &[StatusAnswer]) -> anyhow::Result<ExitCode> {
        let open: Vec<&StatusAnswer> = self.open(answers).collect();
        match self.output {
            OutputFormat::Text | OutputFormat::Wide => {
                for answer in answers.iter().filter(|answer| self.goal.is_asked(answer)) {
                    let (mark, told) = if self.goal.is_reached(answer) {
                        ("yes", self.goal.done(answer))
                    } else {
                        ("no", self.goal.missing(answer))
                    };
                    println!("{mark:<4}{}  {told}", answer.object);
                }
            }
            OutputFormat::Jsonl => {
                for answer in answers {
                    println!("{}", serde_json::to_string(answer)?);
                }
            }
            // JSON is YAML.
            OutputFormat::Json | OutputFormat::Yaml => {
                println!("{}", serde_json::to_string_pretty(&json!({"reached": open.is_empty(), "objects": answers}))?);
            }
        }
        if open.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        eprintln!("not {} within {:?}: {} of {} objects", self.goal.word(), self.timeout, open.len(), answers.len());
        Ok(ExitCode::from(1))
    }
}

impl Goal {
    const fn word(self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::Accepted => "accepted",
            Self::Programmed => "programmed",
        }
    }

    /// Whether the goal is about the object at all.
    fn is_asked(self, answer: &StatusAnswer) -> bool {
        self != Self::Programmed || answer.holding != "held" || answer.programmed.is_some()
    }

    fn is_reached(self, answer: &StatusAnswer) -> bool {
        let is_held = answer.holding == "held";
        match self {
            Self::Accepted => is_held && answer.refusals.is_empty(),
            Self::Enforced => is_held && answer.refusals.is_empty() && answer.enforced.is_everywhere,
            Self::Programmed => is_held && answer.programmed.as_ref().is_none_or(|count| count.is_everywhere),
        }
    }

    fn done(self, answer: &StatusAnswer) -> String {
        match (self, &answer.programmed) {
            (Self::Accepted, _) => "accepted".to_owned(),
            (Self::Programmed, Some(count)) => format!("programmed {}/{}", count.by, count.of),
            (Self::Enforced | Self::Programmed, _) => {
                format!("enforced {}/{}", answer.enforced.by, answer.enforced.of)
            }
        }
    }

    fn missing(self, answer: &StatusAnswer) -> String {
        match answer.holding.as_str() {
            "missing" => return "the control plane does not have it".to_owned(),
            "differs" => return "the control plane has something else".to_owned(),
            _ => {}
        }
        if self != Self::Programmed && !answer.refusals.is_empty() {
            return answer.refusals.join("; ");
        }
        let count = match (self, &answer.programmed) {
            (Self::Programmed, Some(count)) => count,
            _ => &answer.enforced,
        };
        let mut told = format!("{} {}/{}", self.word(), count.by, count.of);
        for laggard in count.laggards.iter().take(NAMED) {
            told.push_str("\n      ");
            told.push_str(laggard);
        }
        if count.laggards.len() > NAMED {
            told.push_str(&format!("\n      and {} more", count.laggards.len() - NAMED));
        }
        told
    }
}

async fn answers(url: &str, question: String) -> anyhow::Result<Vec<StatusAnswer>> {
    let ask::Answer { status, body, missing: _ } = ask::post(url, "/status", question).await?;
    match status {
        StatusCode::OK => serde_json::from_slice(&body).context("the control plane's answer is not understood"),
        // It has just started.
        StatusCode::SERVICE_UNAVAILABLE => bail!("the control plane has compiled nothing yet"),
        other => bail!("the control plane answered {other}: {}", String::from_utf8_lossy(&body).trim_end()),
    }
}

/// Texts of a file, of all documents below a folder, or of standard input.
fn texts(path: &Path) -> anyhow::Result<Vec<String>> {
    if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("standard input cannot be read")?;
        return Ok(vec![text]);
    }
    let files = files_of(path)?;
    let read = |file: &std::path::PathBuf| {
        std::fs::read_to_string(file).with_context(|| format!("`{}` cannot be read", file.display()))
    };
    files.iter().filter(|file| *file == path || is_document(file)).map(read).collect()
}

/// `KIND/NAMESPACE/NAME`, or `KIND/NAME` in the namespace given; a kind may carry its group, as `Gateway.networking.istio.io`.
fn name(text: &str, namespace: &str) -> anyhow::Result<AskedName> {
    let parts: Vec<&str> = text.split('/').collect();
    let (kind, namespace, name) = match parts.as_slice() {
        [kind, namespace, name] => (*kind, *namespace, *name),
        [kind, name] if kind.eq_ignore_ascii_case("gatewayclass") => (*kind, "", *name),
        [kind, name] => (*kind, namespace, *name),
        _ => bail!("`{text}` is not of the form KIND/NAMESPACE/NAME"),
    };
    if kind.is_empty() || name.is_empty() {
        bail!("`{text}` is not of the form KIND/NAMESPACE/NAME");
    }
    let (kind, group) = kind.split_once('.').unwrap_or((kind, ""));
    Ok(AskedName { group: group.into(), kind: kind.into(), namespace: namespace.into(), name: name.into() })
}

/// `250ms`, `30s`, `2m`, or seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        other => return Err(format!("unknown unit `{other}`: ms, s, m and h are known")),
    };
    let number: u64 = number.parse().map_err(|_| format!("`{text}` does not begin with a number"))?;
    number.checked_mul(factor).map(Duration::from_millis).ok_or_else(|| format!("`{text}` is too long"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_named_with_and_without_namespace_and_group() {
        let named = name("HTTPRoute/shop/web", "default").unwrap();
        assert_eq!((&*named.kind, &*named.namespace, &*named.name), ("HTTPRoute", "shop", "web"));
        assert_eq!(name("HTTPRoute/web", "shop").unwrap().namespace, "shop");
        assert_eq!(name("GatewayClass/palisade", "shop").unwrap().namespace, "");
        let named = name("Gateway.networking.istio.io/a/b", "default").unwrap();
        assert_eq!((&*named.group, &*named.kind), ("networking.istio.io", "Gateway"));
        assert!(name("web", "shop").is_err() && name("a/b/c/d", "shop").is_err() && name("/a", "b").is_err());
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("s").is_err() && duration("1x").is_err());
    }
}
