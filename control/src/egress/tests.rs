use sarcenet_agent_api::{AddressRange, IcmpControl, PortRange};

use super::*;

const FILE: &str = "\
overlay: 10.255.0.0/16
cells: []
outside:
  deny_networks: {always: [10.0.0.0/8], running: [172.16.0.0/12], staging: [192.168.0.0/16]}
security_groups:
  - name: of-s
    rules:
      - {protocol: tcp, destination: 10.1.0.0/16, ports: '80,443'}
    spaces: [s]
  - name: public
    rules:
      - {protocol: all, destination: '11.0.0.0/8,12.0.0.0/8'}
      - {protocol: udp, destination: 1.1.1.1, ports: 53, log: true}
    running_default: true
    staging_default: true
";

fn id(name: &str) -> AttachmentId {
    AttachmentId { container: name.into(), ifname: "eth0".into() }
}

fn terms(space: Option<&str>, workload: &str) -> Arc<Terms> {
    let metadata = Metadata {
        space_id: space.map(Into::into),
        container_workload: Some(workload.into()),
        ..Metadata::default()
    };
    Arc::new(Terms { metadata, ..Terms::default() })
}

struct World {
    network: Network,
    names: RuleNames,
    book: EgressBook,
}

impl World {
    fn new(text: &str) -> Self {
        let network = Network::parse(text).unwrap();
        let mut book = EgressBook::default();
        book.begin(&network);
        Self { network, names: RuleNames::default(), book }
    }

    fn sets(&mut self, terms: &Arc<Terms>) -> ContainerSets {
        self.book.begin(&self.network);
        self.book.sets(&id("c"), terms, &mut self.names)
    }

    /// What the rules of a set were made from, and where they lead.
    fn told(&self, set: Option<&NamedSet>) -> Vec<String> {
        let rules = set.map(|(_, rules)| rules.to_vec()).unwrap_or_default();
        rules
            .iter()
            .map(|rule| format!("{}: {}", self.names.meaning(rule.id).unwrap(), rule.first))
            .collect()
    }
}

#[test]
fn groups_say_what_a_container_may_reach() {
    let mut world = World::new(FILE);
    let public = [
        "security group public rule 1: 11.0.0.0",
        "security group public rule 1: 12.0.0.0",
        "security group public rule 2: 1.1.1.1",
    ];
    let of_s = ["security group of-s rule 1: 10.1.0.0"; 2];
    for (space, workload, expected) in [
        (Some("s"), "app", [&public[..], &of_s[..]].concat()),
        (Some("s"), "task", [&public[..], &of_s[..]].concat()),
        (Some("s"), "staging", public.to_vec()),
        (Some("t"), "app", public.to_vec()),
        (None, "app", public.to_vec()),
        (Some("s"), "cron", vec![]),
    ] {
        let sets = world.sets(&terms(space, workload));
        assert_eq!(world.told(sets.allowed.as_ref()), expected, "{space:?} {workload}");
    }
}

#[test]
fn denied_networks_are_sets_of_their_own() {
    let mut world = World::new(FILE);
    for (workload, more) in
        [("app", Some("172.16.0.0/12")), ("staging", Some("192.168.0.0/16")), ("cron", None)]
    {
        let sets = world.sets(&terms(None, workload));
        let nets = ["10.0.0.0/8"].into_iter().chain(more);
        let expected: Vec<_> = nets
            .map(|net| format!("deny_networks {net}: {}", net.split('/').next().unwrap()))
            .collect();
        assert_eq!(world.told(sets.denied.as_ref()), expected);
    }
}

#[test]
fn equal_lists_are_one_set() {
    let mut world = World::new(FILE);
    let (one, other) = (world.sets(&terms(Some("t"), "app")), world.sets(&terms(None, "task")));
    let (one, other) = (one.allowed.unwrap(), other.allowed.unwrap());
    assert_eq!(one.0, other.0);
    assert!(Arc::ptr_eq(&one.1, &other.1));
    // The same again after a restart of the agent.
    let again = World::new(FILE).sets(&terms(None, "app")).allowed.unwrap();
    assert_eq!(again, one);
    // Other rules, another name.
    let mut changed = World::new(&FILE.replace("ports: 53", "ports: 54"));
    assert_ne!(changed.sets(&terms(None, "app")).allowed.unwrap().0, one.0);
}

#[test]
fn a_name_in_use_never_means_other_rules() {
    let mut names = SetNames::default();
    let rule = |last: u8| EgressRule {
        id: sarcenet_dataplane_api::RuleId(1),
        first: [10, 0, 0, 0].into(),
        last: [10, 0, 0, last].into(),
        traffic: Traffic::All,
        log: false,
    };
    let (id, _held) = names.name(vec![rule(1)]);
    // As if the hash of other rules were the same.
    let rules = names.known.remove(&id).unwrap();
    names.known.insert(id, Arc::new(vec![rule(9)]));
    let (other, again) = names.name(vec![rule(1)]);
    assert_ne!(other, id);
    assert_eq!(again, rules);
    assert_eq!(names.name(vec![rule(1)]).0, other);
    // Many names are forgotten, but not those in use.
    for n in 0..=SETS_KEPT as u32 {
        let mut many = rule(1);
        many.id.0 = n;
        names.name(vec![many]);
    }
    names.bound();
    assert!(names.known.contains_key(&other) && names.known.len() < 10);
}

#[test]
fn a_changed_file_is_followed() {
    let mut world = World::new(FILE);
    let app = terms(None, "app");
    let before = world.sets(&app);
    world.network = Network::parse(
        &FILE.replace("1.1.1.1", "1.1.1.2").replace("always: [10.0.0.0/8]", "always: []"),
    )
    .unwrap();
    let after = world.sets(&app);
    assert_eq!(world.told(after.allowed.as_ref())[2], "security group public rule 2: 1.1.1.2");
    assert_eq!(world.told(after.denied.as_ref()), ["deny_networks 172.16.0.0/12: 172.16.0.0"]);
    assert_ne!(before.allowed.unwrap().0, after.allowed.unwrap().0);
}

#[test]
fn without_groups_the_runtimes_rules_hold() {
    let text = &FILE[..FILE.find("security_groups").unwrap()];
    let mut world = World::new(text);
    let net = AddressRange { first: [10, 2, 0, 0].into(), last: [10, 2, 0, 9].into() };
    let ports = PortRange { first: 80, last: 80 };
    let rule = |protocol| NetOutRule {
        protocol,
        networks: vec![net],
        ports: vec![ports],
        ..NetOutRule::default()
    };
    // The second has ports where there are none and says nothing; the third says what the first
    // does.
    let net_out = vec![rule(1), rule(0), rule(1), rule(2)];
    let checked = check_net_out(&net_out).unwrap();
    assert_eq!((checked.rules, checked.left_out.len(), checked.left_out[0].0), (3, 1, 2));
    let with = |net_out| Arc::new(Terms { net_out, ..Terms::default() });
    let sets = world.sets(&with(net_out.clone()));
    assert_eq!(
        world.told(sets.allowed.as_ref()),
        ["netOutRules rule 1: 10.2.0.0", "netOutRules rule 4: 10.2.0.0"]
    );
    // Other terms of the same container are noticed.
    assert!(world.sets(&with(vec![])).allowed.is_none());
    // With groups, even none, they do not.
    let mut world = World::new(&format!("{text}security_groups: []\n"));
    assert!(world.sets(&with(net_out)).allowed.is_none());

    let wrong = NetOutRule { icmp: Some(IcmpControl { kind: 8, code: None }), ..rule(7) };
    assert_eq!(check_net_out(&[rule(1), wrong]).unwrap_err().0, 2);
}
