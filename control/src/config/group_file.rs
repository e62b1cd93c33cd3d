//! The file of security groups: what a policy server tells cells where there is no Cloud Controller.
//!
//! It has the section `security_groups:` of a network file and nothing else. The section must be
//! there, so that a file that somebody is about to write does not take all groups away.

use std::path::Path;

use sarcenet_server::policy::{SecurityGroup, SecurityRule};

use super::groups::GroupParts;
use super::reader::Reader;
use super::tree::{At, Node};
use super::{ConfigError, Mistake, check, tree};
use crate::security_groups::RuleText;

/// What the file at `path` says, as cells are told it.
pub fn load(path: &Path) -> Result<Vec<SecurityGroup>, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|e| ConfigError::read(path, &e))?;
    parse(&text)
        .map_err(|mistakes| ConfigError::Mistakes { path: path.display().to_string(), mistakes })
}

/// Reads `text`. All mistakes are returned, in the order of the text.
fn parse(text: &str) -> Result<Vec<SecurityGroup>, Vec<Mistake>> {
    let root = tree::read(text).map_err(|mistake| vec![mistake])?;
    let mut reader = Reader { mistakes: Vec::new() };
    let groups = reader.group_file(root);
    check::security_groups(&groups, &mut reader.mistakes);
    let mut mistakes = reader.mistakes;
    if !mistakes.is_empty() {
        mistakes.sort();
        return Err(mistakes);
    }
    groups
        .into_iter()
        .map(|At { place, value }| {
            stored(value).map_err(|e| vec![Mistake::at(place, format!("it cannot be stored: {e}"))])
        })
        .collect()
}

impl Reader {
    fn group_file(&mut self, root: At<Node>) -> Vec<At<GroupParts>> {
        let top = self.map(root, "the file of security groups", &["security_groups"]);
        let list = top.and_then(|mut top| self.required(&mut top, "security_groups", "[]"));
        self.each(list, "security_groups", Self::security_group)
    }
}

/// A group as the database has it. There is one of each name, which is its GUID, too.
fn stored(parts: GroupParts) -> Result<SecurityGroup, serde_json::Error> {
    let GroupParts { group, texts, .. } = parts;
    Ok(SecurityGroup {
        row: 0,
        guid: group.name.clone(),
        name: group.name,
        rules: SecurityRule::text(texts.into_iter().map(SecurityRule::from).collect())?,
        staging_default: group.staging_default,
        running_default: group.running_default,
        staging_spaces: group.staging_spaces.into_iter().collect(),
        running_spaces: group.spaces.into_iter().collect(),
    })
}

impl From<RuleText> for SecurityRule {
    fn from(rule: RuleText) -> Self {
        let RuleText { protocol, destination, ports, kind, code, log, description } = rule;
        Self {
            protocol: Some(protocol),
            destination: Some(destination),
            ports,
            kind,
            code,
            description,
            log: Some(log),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
security_groups:
  - name: public
    rules:
      - {protocol: tcp, destination: '8.8.8.8,9.0.0.0/8', ports: 53, description: names}
      - {protocol: icmp, destination: 0.0.0.0/0, type: -1, code: 0, log: true}
    running_default: true
  - {name: of-s, spaces: [t, s, s], staging_spaces: [u], rules: []}
";

    #[test]
    fn groups_are_as_cloud_controllers_are() {
        let groups = parse(GOOD).unwrap();
        let public = SecurityGroup {
            row: 0,
            guid: "public".into(),
            name: "public".into(),
            rules: concat!(
                r#"[{"protocol":"tcp","destination":"8.8.8.8,9.0.0.0/8","ports":"53","type":0,"#,
                r#""code":0,"description":"names","log":false},"#,
                r#"{"protocol":"icmp","destination":"0.0.0.0/0","ports":"","type":-1,"code":0,"#,
                r#""description":"","log":true}]"#
            )
            .into(),
            staging_default: false,
            running_default: true,
            staging_spaces: Vec::new(),
            running_spaces: Vec::new(),
        };
        assert_eq!(groups[0], public);
        assert_eq!(
            (groups[1].rules.as_str(), &*groups[1].running_spaces),
            ("[]", &["s".into(), "t".into()][..])
        );
        assert_eq!(groups[1].staging_spaces, ["u"]);
        assert_eq!(parse("security_groups: []\n"), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_such_file_is_refused() {
        let missing = "the file of security groups has no `security_groups`; add it, e.g. `security_groups: []`";
        let table = [
            ("", vec![format!("1:1: {missing}")]),
            ("security_groups:\n", vec![format!("1:1: {missing}")]),
            (
                "security_group: []",
                vec![
                    format!("1:1: {missing}"),
                    "1:1: the file of security groups has no key `security_group`; did you mean \
                     `security_groups`?"
                        .into(),
                ],
            ),
            ("[]", vec!["1:1: the file of security groups is a list; it must be a map with security_groups".into()]),
            ("security_groups: {}", vec!["1:18: security_groups is a map; it must be a list, each item after `- `".into()]),
            (
                "security_groups: [{name: a, rules: [{protocol: tcp, destination: 1.1.1.1}]}, {name: a}]",
                vec![
                    "1:37: rule 1 of security group `a`: a rule for tcp needs ports; use 1-65535 for all".into(),
                    "1:85: security group `a` is already in line 1; give it another name".into(),
                ],
            ),
        ];
        for (text, expected) in table {
            let said = parse(text).unwrap_err();
            let said: Vec<_> = said.iter().map(ToString::to_string).collect();
            assert_eq!(said, expected, "{text}");
        }
        assert!(
            load(Path::new("/nonexistent/groups.yaml"))
                .unwrap_err()
                .to_string()
                .contains("/nonexistent/groups.yaml")
        );
    }
}
