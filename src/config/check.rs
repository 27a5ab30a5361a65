//! What concerns several settings at once: names that are taken, roots that overlap, directories that must lie apart.
//!
//! Paths are compared by their words; symbolic links are the business of whoever opens the roots.

use std::path::Path;

use super::error::ConfigError;
use super::reader::{Doc, Section};
use super::value::quoted;
use super::{Config, MAX_ROOTS};

/// Checks a configuration as a whole. The sections are those of its nodes and roots, in their order.
pub(super) fn all(
    doc: Doc<'_>,
    config: &Config,
    nodes: &[Section<'_>],
    roots: &[Section<'_>],
) -> Result<(), ConfigError> {
    count_of_nodes(doc, config, nodes)?;
    distinct(
        nodes,
        "[[node]]",
        config.nodes.iter().map(|n| n.name.as_str()),
    )?;
    count_of_roots(doc, roots)?;
    distinct(
        roots,
        "[[root]]",
        config.roots.iter().map(|r| r.name.as_str()),
    )?;
    for (i, s) in roots.iter().enumerate() {
        whole_system(config, i, s)?;
        apart(config, i, roots)?;
    }
    for node in 0..config.nodes.len() {
        own_directories(config, node, nodes, roots)?;
        figures(config, node, roots)?;
    }
    Ok(())
}

/// A file that is written every few seconds on both nodes would be replicated to the one that writes its own.
fn figures(config: &Config, node: usize, roots: &[Section<'_>]) -> Result<(), ConfigError> {
    let Some(file) = &config.metrics.textfile else {
        return Ok(());
    };
    for (root, s) in roots.iter().enumerate() {
        let path = config.root_path(node, root);
        if file.starts_with(&path) {
            let (path, file) = (path.display(), file.display());
            let message = format!("root.path: {path} contains the textfile {file} of [metrics]");
            return Err(s.error_at(
                "path",
                message,
                "choose another textfile, outside of every root",
            ));
        }
    }
    Ok(())
}

fn count_of_nodes(doc: Doc<'_>, config: &Config, nodes: &[Section<'_>]) -> Result<(), ConfigError> {
    let hint = "write one [[node]] for each of the two nodes, the same file on both";
    match (config.nodes.len(), nodes.get(2)) {
        (2, _) => Ok(()),
        (n, Some(third)) => Err(third.error(format!("there are {n} nodes, not two"), hint)),
        (0, _) => Err(doc.error_at_no_line("node", "there is no [[node]]", hint)),
        _ => Err(doc.error_at_no_line("node", "there is only one [[node]]", hint)),
    }
}

fn count_of_roots(doc: Doc<'_>, roots: &[Section<'_>]) -> Result<(), ConfigError> {
    if roots.is_empty() {
        let hint = "add a [[root]] with name and path for each directory that is to be kept equal";
        return Err(doc.error_at_no_line("root", "there is no [[root]]", hint));
    }
    roots.get(MAX_ROOTS).map_or(Ok(()), |s| {
        let message = format!("there are more than {MAX_ROOTS} roots");
        Err(s.error(
            message,
            "take a directory above several of them as one root",
        ))
    })
}

fn distinct<'a>(
    sections: &[Section<'_>],
    title: &str,
    names: impl Iterator<Item = &'a str>,
) -> Result<(), ConfigError> {
    let names: Vec<_> = names.map(str::to_ascii_lowercase).collect();
    for (i, s) in sections.iter().enumerate() {
        if let Some(first) = names[..i].iter().position(|n| *n == names[i]) {
            let line = sections[first].line("name");
            let message = format!(
                "the name {} is taken by the {title} of line {line}",
                quoted(&names[i])
            );
            return Err(s.error_at("name", message, "give each a name of its own"));
        }
    }
    Ok(())
}

fn whole_system(config: &Config, i: usize, s: &Section<'_>) -> Result<(), ConfigError> {
    if config.roots[i].path != Path::new("/") {
        return Ok(());
    }
    let message = "root.path: \"/\" is the whole system";
    Err(s.error_at(
        "path",
        message,
        "name the directories that are to be kept equal, one [[root]] each",
    ))
}

fn apart(config: &Config, i: usize, roots: &[Section<'_>]) -> Result<(), ConfigError> {
    let mine = &config.roots[i].path;
    for (other, s) in config.roots[..i].iter().zip(roots) {
        let how = if *mine == other.path {
            "is"
        } else if mine.starts_with(&other.path) {
            "lies within"
        } else if other.path.starts_with(mine) {
            "contains"
        } else {
            continue;
        };
        let (line, theirs, name) = (s.line("path"), other.path.display(), &other.name);
        let message = format!(
            "root.path: {} {how} {theirs}, root \"{name}\" of line {line}",
            mine.display()
        );
        let hint = "keep the outer one only; use its exclude for what must stay";
        return Err(roots[i].error_at("path", message, hint));
    }
    Ok(())
}

fn own_directories(
    config: &Config,
    node: usize,
    nodes: &[Section<'_>],
    roots: &[Section<'_>],
) -> Result<(), ConfigError> {
    let n = &config.nodes[node];
    let own = [
        ("state_dir", config.state_dir(node), n.state_dir.is_some()),
        ("run_dir", config.run_dir(node), n.run_dir.is_some()),
    ];
    for (root, s) in roots.iter().enumerate() {
        let path = config.root_path(node, root);
        for (key, dir, here) in &own {
            if !dir.starts_with(&path) && !path.starts_with(dir) {
                continue;
            }
            let how = if dir.starts_with(&path) {
                "contains"
            } else {
                "lies within"
            };
            let (path, dir, name) = (path.display(), dir.display(), &n.name);
            let message = format!("root.path: {path} {how} the {key} {dir} of node \"{name}\"");
            let place = if *here {
                format!(", line {}", nodes[node].line(key))
            } else {
                String::new()
            };
            let hint = format!("choose another path, or another {key}{place}");
            return Err(s.error_at("path", message, hint));
        }
    }
    Ok(())
}
