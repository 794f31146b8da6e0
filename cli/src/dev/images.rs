//! The images file: which command runs for which image.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use glob::Pattern;
use serde_json::Value;

use super::plan::{ContainerPlan, expand};

/// Globs over whole image references, in the file's order: the first match wins.
#[derive(Debug, Default)]
pub(super) struct Images {
    commands: Vec<(Pattern, Vec<String>)>,
    /// The file's folder.
    folder: PathBuf,
}

/// What a container runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ContainerCommand {
    pub(super) command: Vec<String>,
    pub(super) folder: PathBuf,
}

impl Images {
    /// Reads an images file; `None`: no image has a command.
    pub(super) fn read(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self::default()) };
        let describe = || format!("images file `{}`", path.display());
        let text = std::fs::read(path).with_context(describe)?;
        let path = path.canonicalize().with_context(describe)?;
        let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
        let read = palisade_crds::document::read(&path.display().to_string(), &text);
        if let Some(unreadable) = read.unreadable.first() {
            bail!("{}, line {}: {}", describe(), unreadable.line, unreadable.message);
        }
        match read.documents.as_slice() {
            [] => Ok(Self { commands: Vec::new(), folder }),
            [document] => Self::from_value(&document.value, folder).with_context(describe),
            _ => bail!("{}: more than one document", describe()),
        }
    }

    fn from_value(value: &Value, folder: PathBuf) -> anyhow::Result<Self> {
        let map = value.as_object().context("not a map from globs to command lines")?;
        let mut commands = Vec::with_capacity(map.len());
        for (glob, command) in map {
            let pattern = Pattern::new(glob).with_context(|| format!("`{glob}` is no glob"))?;
            let words: Option<Vec<String>> = command
                .as_array()
                .filter(|words| !words.is_empty())
                .and_then(|words| words.iter().map(|word| word.as_str().map(str::to_owned)).collect());
            let words = words.with_context(|| format!("`{glob}`: a command line is a list of words"))?;
            commands.push((pattern, words));
        }
        Ok(Self { commands, folder })
    }

    /// The container's own command, else the image's; its arguments are appended either way.
    ///
    /// # Errors
    /// Where the image has no command, or the container lacks something: it is named.
    pub(super) fn command(&self, container: &ContainerPlan) -> anyhow::Result<ContainerCommand> {
        let ContainerPlan { name, image, command, args, env, lacks, ports: _ } = container;
        if let Some(lacks) = lacks {
            bail!("container `{name}`: {lacks}");
        }
        let (mut words, folder) = if command.is_empty() {
            let found = self.commands.iter().find(|(pattern, _)| pattern.matches(image));
            let (_, words) = found.with_context(|| {
                format!(
                    "no command is known for image `{image}`: give it one in the file that --images names, or the container its own `command`"
                )
            })?;
            let mut words = words.clone();
            if let Some(program) = words.first_mut()
                && program.contains('/')
            {
                *program = self.folder.join(&*program).display().to_string();
            }
            (words, self.folder.clone())
        } else {
            (command.iter().map(|word| expand(word, env)).collect(), PathBuf::from("/"))
        };
        words.extend(args.iter().map(|word| expand(word, env)));
        Ok(ContainerCommand { command: words, folder })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn images() -> Images {
        let value = json!({
            "*/examples-bookinfo-reviews-v2:*": ["bookinfo", "reviews", "--version=v2"],
            "*/examples-bookinfo-*": ["bin/any"],
        });
        Images::from_value(&value, "/demo".into()).unwrap()
    }

    fn container(image: &str, command: &[&str], args: &[&str]) -> ContainerPlan {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        ContainerPlan {
            name: "app".to_owned(),
            image: image.to_owned(),
            command: words(command),
            args: words(args),
            env: vec![("A".to_owned(), "1".to_owned())],
            lacks: None,
            ports: Vec::new(),
        }
    }

    #[test]
    fn the_first_glob_that_matches_the_whole_reference_wins() {
        let found =
            images().command(&container("docker.io/istio/examples-bookinfo-reviews-v2:1.20", &[], &[])).unwrap();
        assert_eq!(found.command, ["bookinfo", "reviews", "--version=v2"]);
        assert!(images().command(&container("examples-bookinfo-reviews-v2:1.20", &[], &[])).is_err());
    }

    #[test]
    fn a_command_with_a_slash_is_relative_to_the_images_file() {
        let found = images().command(&container("x/examples-bookinfo-details:1", &[], &["--port=1"])).unwrap();
        assert_eq!(found.command, ["/demo/bin/any", "--port=1"]);
    }

    #[test]
    fn a_containers_own_command_wins_and_args_are_appended() {
        let found = images().command(&container("unknown:1", &["/bin/sleep"], &["$(A)0", "$(B)", "$$(A)"])).unwrap();
        assert_eq!(found.command, ["/bin/sleep", "10", "$(B)", "$(A)"]);
    }

    #[test]
    fn an_unknown_image_is_named() {
        let error = images().command(&container("library/nginx:1", &[], &[])).unwrap_err();
        assert!(error.to_string().contains("library/nginx:1"));
    }

    #[test]
    fn a_command_line_that_is_no_list_of_words_is_an_error() {
        for value in [json!({"*": "bookinfo"}), json!({"*": []}), json!({"*": [1]}), json!(["*"])] {
            assert!(Images::from_value(&value, "/".into()).is_err(), "{value}");
        }
    }
}
