//! Placements as people write them: what is refused, what is stored, what it means for a node.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::fsm::{Availability, NodeStatus};
use crate::ids::NodeId;
use crate::pb::TaintEffect;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % end as u64) as usize
    }

    fn value(&mut self) -> String {
        let pieces = [
            "eu", "us", " ", ",", "(", ")", "\"", "\\", "=", "1.6", "é", "!", "in", "",
        ];
        let count = self.below(5);
        (0..count)
            .map(|_| pieces[self.below(pieces.len())])
            .collect()
    }
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(key, value): &(&str, &str)| (key.to_string(), value.to_string());
    pairs.iter().map(owned).collect()
}

fn node(own: &[(&str, &str)], set: &[(&str, &str)]) -> Node {
    Node {
        id: NodeId([1; 16]),
        description: Arc::new(pb::NodeDescription {
            name: "n1".to_owned(),
            capacity: Some(pb::Resources {
                cpu_milli: 4_500,
                memory_bytes: (8 << 30) - 1,
                ..Default::default()
            }),
            labels: map(own),
            architecture: "amd64".to_owned(),
            kernel: "6.1.0-13-amd64".to_owned(),
            ..Default::default()
        }),
        manager: false,
        worker: true,
        status: NodeStatus::Ready,
        availability: Availability::Active,
        joined_at_ms: 0,
        advertise_addr: Arc::default(),
        labels: Arc::new(map(set)),
        holds: Arc::default(),
        taints: Arc::default(),
        drain: None,
    }
}

fn term(text: &str) -> Term {
    Term::parse(text).unwrap_or_else(|why| panic!("{text}: {why}"))
}

#[test]
fn an_expression_holds_or_says_why_not() {
    let node = node(&[("zone", "us"), ("rack", "")], &[("tier", "gold")]);
    let no = |why: &str| Some(why.to_owned());
    for (text, why_not) in [
        ("node.labels.zone==us", None),
        ("node.labels.zone == us", None),
        ("node.labels.zone==\"us\"", None),
        ("node.labels.zone==eu", no("label zone is us, asked eu")),
        (
            "node.labels.zone!=us",
            no("label zone is us, asked another than us"),
        ),
        ("node.labels.zone in (eu, us)", None),
        (
            "node.labels.zone in (eu,ap)",
            no("label zone is us, asked one of ap, eu"),
        ),
        ("node.labels.zone not in (eu)", None),
        ("node.labels.zone exists", None),
        (
            "node.labels.zone not exists",
            no("label zone is us, asked that it is not there"),
        ),
        ("node.labels.rack==\"\"", None),
        ("node.labels.rack==a", no("label rack is empty, asked a")),
        (
            "node.labels.none==a",
            no("label none is not there, asked a"),
        ),
        (
            "node.labels.none exists",
            no("label none is not there, asked that it is"),
        ),
        ("node.labels.none!=a", None),
        ("node.labels.none not in (a)", None),
        (
            "node.labels.none>=1",
            no("label none is not there, asked 1 or later"),
        ),
        ("node.labels.tier~=go.*", None),
        (
            "node.labels.tier~=go",
            no("label tier is gold, asked a match of go"),
        ),
        ("node.kernel>=5.10", None),
        (
            "node.kernel<6",
            no("kernel is 6.1.0-13-amd64, asked earlier than 6"),
        ),
        (
            "node.containerd>=1.6",
            no("containerd is not there, asked 1.6 or later"),
        ),
        ("node.cpus>3", None),
        (
            "node.memory_gib>=8",
            no("memory in GiB is 7, asked 8 or later"),
        ),
        ("node.arch==amd64", None),
        ("node.os==linux", None),
        ("node.role==manager", no("role is worker, asked manager")),
        ("node.name==n1", None),
        ("node.id==01010101010101010101010101010101", None),
    ] {
        let term = term(text);
        let value = term.attribute().value(&node);
        let told = (!term.holds_on(&node)).then(|| term.mismatch(value.as_deref()));
        assert_eq!(told, why_not, "{text}");
    }
}

#[test]
fn what_operators_set_comes_before_what_the_node_says() {
    let node = node(&[("zone", "us"), ("a", "1")], &[("zone", "eu")]);
    assert!(term("node.labels.zone==eu").holds_on(&node));
    let known: BTreeMap<_, _> = Attribute::all_of(&node).collect();
    assert_eq!(known["node.labels.zone"], "eu");
    assert_eq!(known["node.labels.a"], "1");
    assert_eq!(known["node.arch"], "amd64");
    assert!(!known.contains_key("node.containerd"));
}

/// Each says what to write instead.
#[test]
fn what_cannot_be_read_is_said() {
    for (text, why) in [
        ("", "names no attribute"),
        (
            "zone==eu",
            "did you mean node.labels.zone? there are node.labels.KEY",
        ),
        ("node.labels.==eu", "no key of a label"),
        ("node.labels.zone=eu", "write == for equal"),
        ("node.labels.zone", "is followed by one of =="),
        ("node.labels.zone is eu", "is followed by one of =="),
        ("node.labels.zone==", "an empty one is written \"\""),
        ("node.labels.zone in eu", "is followed by one of =="),
        ("node.labels.zone in (eu", "written as in (eu,us)"),
        ("node.labels.zone in (eu,)", "a value is missing"),
        ("node.labels.zone==\"eu", "a quote is not closed"),
        ("node.labels.zone==\"a\" b", "means nothing"),
        ("node.labels.zone==\"\\n\"", "stands before"),
        ("node.kernel>=new", "is no version"),
        ("node.labels.zone~=(", "is not closed"),
        ("node.labels.zone==a\nb", "control character"),
    ] {
        let told = Term::parse(text).unwrap_err();
        assert!(told.contains(why), "{text}: {told}");
    }
}

/// What was understood is written so that it is understood alike: for every operator and value.
#[test]
fn the_normal_form_reads_back() {
    let mut random = Random(11);
    let mut quoted = 0;
    let signs = ["==", "!=", ">=", ">", "<=", "<", "~="];
    for _ in 0..4_000 {
        let quote =
            |value: &str| format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""));
        let text = match random.below(10) {
            sign @ 0..7 => format!(
                "node.labels.zone {} {}",
                signs[sign],
                quote(&random.value())
            ),
            7 => {
                let count = 1 + random.below(4);
                let values: Vec<_> = (0..count).map(|_| quote(&random.value())).collect();
                let not = ["", "not "][random.below(2)];
                format!("node.labels.zone {not}in ({})", values.join(" , "))
            }
            8 => "node.labels.zone   exists".to_owned(),
            _ => "node.labels.zone not   exists".to_owned(),
        };
        let Ok(parsed) = Term::parse(&text) else {
            assert!(
                text.contains('~') || text.contains('<') || text.contains('>'),
                "{text}"
            );
            continue;
        };
        let normal = parsed.to_string();
        assert_eq!(Term::parse(&normal), Ok(parsed), "{text} {normal}");
        assert_eq!(term(&normal).to_string(), normal);
        quoted += u32::from(normal.contains('"'));
    }
    assert!(quoted > 100, "{quoted}");
}

/// Whatever people type, there is an answer.
#[test]
fn nonsense_is_refused_and_never_panics() {
    let mut random = Random(5);
    let pieces = [
        "node.labels.",
        "zone",
        "==",
        "in",
        " ",
        "(",
        ")",
        ",",
        "\"",
        "\\",
        "~=",
        "not",
        "é",
        "1",
    ];
    for _ in 0..20_000 {
        let count = random.below(9);
        let text: String = (0..count)
            .map(|_| pieces[random.below(pieces.len())])
            .collect();
        if let Ok(parsed) = Term::parse(&text) {
            assert_eq!(Term::parse(&parsed.to_string()), Ok(parsed));
        }
    }
}

fn checked(placement: pb::Placement) -> Result<Option<pb::Placement>> {
    let mut spec = pb::ServiceSpec {
        name: "web".to_owned(),
        mode: pb::ServiceMode::Replicated.into(),
        placement: Some(placement),
        ..Default::default()
    };
    complete(&mut spec)?;
    let once = spec.placement.clone();
    complete(&mut spec)?;
    assert_eq!(spec.placement, once, "the normal form is its own");
    Rules::of(&spec).expect("what was checked can be made ready");
    Ok(once)
}

#[test]
fn what_says_nothing_is_not_stored() {
    let said = pb::Placement {
        priority: Some(PRIORITY_DEFAULT),
        strategy: Strategy::Spread.into(),
        ..Default::default()
    };
    assert_eq!(checked(said), Ok(None));
    assert_eq!(
        Rules::of(&pb::ServiceSpec::default()).unwrap(),
        Rules::of(&pb::ServiceSpec {
            placement: Some(<_>::default()),
            ..Default::default()
        })
        .unwrap()
    );
    let least = pb::Placement {
        priority: Some(0),
        ..Default::default()
    };
    assert_eq!(checked(least.clone()), Ok(Some(least)));
}

#[test]
fn equal_placements_are_stored_alike() {
    let constraints = |texts: &[&str]| pb::Placement {
        constraints: texts.iter().map(|text| text.to_string()).collect(),
        ..Default::default()
    };
    let one = checked(constraints(&[
        "node.arch == amd64",
        "node.labels.zone in (us,eu,us)",
    ]));
    let other = checked(constraints(&[
        "node.labels.zone in ( eu, us )",
        "node.arch==\"amd64\"",
        "node.arch==amd64",
    ]));
    assert_eq!(one, other);
    let stored = one.unwrap().unwrap().constraints;
    assert_eq!(stored, ["node.arch==amd64", "node.labels.zone in (eu,us)"]);
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    type Change = fn(&mut pb::Placement);
    let cases: [(&str, &str, Change); 15] = [
        ("constraint", "`zone==eu`: `zone` is no attribute", |p| {
            p.constraints = vec!["zone==eu".into()]
        }),
        ("constraint", "more than 32", |p| {
            p.constraints = vec!["node.arch==a".into(); 33]
        }),
        ("affinity", "-100 to 100, and not 0", |p| {
            p.affinities = vec![affinity("node.arch==a", 0)]
        }),
        ("affinity", "is 101; give", |p| {
            p.affinities = vec![affinity("node.arch==a", 101)]
        }),
        ("affinity", "twice", |p| {
            p.affinities = vec![affinity("node.arch==a", 1), affinity("node.arch == a", 2)];
        }),
        ("spread", "no attribute of nodes", |p| {
            p.spreads = vec![spread("zone", &[], 0)]
        }),
        ("spread", "not both", |p| {
            p.spreads = vec![spread("node.labels.zone", &[("eu", 1)], 1)]
        }),
        ("spread", "add up to 101 %", |p| {
            p.spreads = vec![spread("node.labels.zone", &[("eu", 60), ("us", 41)], 0)];
        }),
        ("spread", "two targets", |p| {
            p.spreads = vec![spread("node.labels.zone", &[("eu", 6), ("eu", 4)], 0)];
        }),
        ("anti-affinity", "kept apart from itself", |p| {
            p.anti_affinities = vec![apart("web")]
        }),
        ("service name", "no DNS label", |p| {
            p.anti_affinities = vec![apart("Not A Label")]
        }),
        ("priority", "more than 100", |p| p.priority = Some(101)),
        ("strategy", "no known strategy", |p| p.strategy = 9),
        ("platform", "linux/arm64", |p| {
            p.platforms = vec![pb::Platform::default()]
        }),
        ("toleration", "goes with a key", |p| {
            p.tolerations = vec![pb::Toleration {
                value: Some("a".into()),
                ..Default::default()
            }];
        }),
    ];
    for (what, why, change) in cases {
        let mut placement = pb::Placement::default();
        change(&mut placement);
        match checked(placement) {
            Err(Error::Invalid {
                what: refused,
                why: told,
            }) => {
                assert_eq!(refused, what, "{told}");
                assert!(told.contains(why), "{what}: {told}");
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}

fn affinity(expression: &str, weight: i32) -> pb::Affinity {
    let expression = expression.to_owned();
    pb::Affinity { expression, weight }
}

fn spread(attribute: &str, targets: &[(&str, u32)], max_skew: u32) -> pb::Spread {
    let target = |(value, percent): &(&str, u32)| pb::SpreadTarget {
        value: value.to_string(),
        percent: *percent,
    };
    pb::Spread {
        attribute: attribute.to_owned(),
        targets: targets.iter().map(target).collect(),
        max_skew,
    }
}

fn apart(service: &str) -> pb::AntiAffinity {
    pb::AntiAffinity {
        service: service.to_owned(),
        attribute: String::new(),
    }
}

#[test]
fn a_global_service_has_nothing_to_spread() {
    let mut spec = pb::ServiceSpec {
        name: "web".to_owned(),
        mode: pb::ServiceMode::Global.into(),
        placement: Some(pb::Placement {
            max_replicas_per_node: 1,
            ..Default::default()
        }),
        ..Default::default()
    };
    let refused = complete(&mut spec).unwrap_err().to_string();
    assert!(
        refused.contains("once on every node that it may go to"),
        "{refused}"
    );
}

fn taint(key: &str, value: &str, effect: TaintEffect) -> pb::Taint {
    let (key, value) = (key.to_owned(), value.to_owned());
    let effect = effect.into();
    pb::Taint { key, value, effect }
}

#[test]
fn a_taint_keeps_away_who_does_not_tolerate_it() {
    let mut node = node(&[], &[]);
    node.taints = Arc::new(vec![taint("gpu", "yes", TaintEffect::NoSchedule)]);
    let tolerating = |key: &str, value: Option<&str>, effect: TaintEffect| Rules {
        tolerations: vec![pb::Toleration {
            key: key.to_owned(),
            value: value.map(str::to_owned),
            effect: effect.into(),
        }],
        ..Rules::default()
    };
    let why = Some("taint gpu=yes:no-schedule is not tolerated".to_owned());
    assert_eq!(Rules::default().refusal(&node), why);
    for (key, value, effect, goes) in [
        ("gpu", Some("yes"), TaintEffect::NoSchedule, true),
        ("gpu", None, TaintEffect::Unspecified, true),
        ("", None, TaintEffect::Unspecified, true),
        ("gpu", Some("no"), TaintEffect::Unspecified, false),
        ("gpu", None, TaintEffect::PreferNoSchedule, false),
        ("cpu", None, TaintEffect::Unspecified, false),
    ] {
        let rules = tolerating(key, value, effect);
        assert_eq!(
            rules.refusal(&node).is_none(),
            goes,
            "{key} {value:?} {effect:?}"
        );
    }
    node.taints = Arc::new(vec![taint("old", "", TaintEffect::PreferNoSchedule)]);
    assert_eq!(Rules::default().refusal(&node), None);
    assert!(Rules::default().is_disliked(&node));
    assert!(!tolerating("old", None, TaintEffect::Unspecified).is_disliked(&node));
}

#[test]
fn taints_of_a_kind_are_one_and_the_last_counts() {
    let mut taints = vec![
        taint("b", "1", TaintEffect::NoSchedule),
        taint("a", "1", TaintEffect::NoSchedule),
        taint("a", "2", TaintEffect::NoSchedule),
        taint("a", "3", TaintEffect::PreferNoSchedule),
    ];
    taints::check_taints(&mut taints).unwrap();
    let left: Vec<_> = taints
        .iter()
        .map(|it| (&it.key[..], &it.value[..]))
        .collect();
    assert_eq!(left, [("a", "2"), ("a", "3"), ("b", "1")]);
    for bad in [
        taint("", "", TaintEffect::NoSchedule),
        taint("a", "", TaintEffect::Unspecified),
        taint("a b", "", TaintEffect::NoSchedule),
    ] {
        assert!(taints::check_taints(&mut vec![bad]).is_err());
    }
}

#[test]
fn a_platform_is_one_of_those_that_are_asked() {
    let node = node(&[], &[]);
    let of = |os: &str, architecture: &str| {
        let (os, architecture) = (os.to_owned(), architecture.to_owned());
        pb::Platform { os, architecture }
    };
    let refusal = |platforms: Vec<pb::Platform>| {
        let rules = Rules {
            platforms,
            ..Rules::default()
        };
        rules.refusal(&node)
    };
    assert_eq!(refusal(vec![of("linux", "arm64"), of("", "amd64")]), None);
    assert_eq!(refusal(vec![of("linux", "")]), None);
    let told = refusal(vec![of("linux", "arm64"), of("windows", "")]).unwrap();
    assert_eq!(
        told,
        "platform is linux/amd64, asked linux/arm64 or windows/*"
    );
}

#[test]
fn affinities_add_up() {
    let node = node(&[("disk", "ssd"), ("zone", "eu")], &[]);
    let rules = Rules {
        affinities: vec![
            (term("node.labels.disk==ssd"), 50),
            (term("node.labels.zone==eu"), -20),
            (term("node.labels.zone==us"), 100),
        ],
        ..Rules::default()
    };
    assert_eq!(rules.affinity(&node), 30);
}

/// Everything in `docs/scheduling.md` that looks like an expression or an attribute is one.
#[test]
fn the_page_names_what_there_is() {
    let page = include_str!("../../../../../docs/scheduling.md");
    let spans = page.split('`').skip(1).step_by(2);
    let (mut expressions, mut attributes) = (0, 0);
    for span in spans.filter(|span| span.starts_with("node.") && !span.contains("KEY")) {
        if span.contains([' ', '=', '>', '~']) {
            term(span);
            expressions += 1;
        } else if !["node.platform.arch", "node.hostname"].contains(&span) {
            Attribute::parse(span).unwrap();
            attributes += 1;
        }
    }
    assert!(
        expressions > 8 && attributes > 12,
        "{expressions} {attributes}"
    );
}
